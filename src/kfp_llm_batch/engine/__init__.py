"""The engine: a child process that answers requests, and what the parent needs to drive it."""
