"""Publishing a result, and auditing it."""
