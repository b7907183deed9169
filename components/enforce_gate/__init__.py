"""The component `enforce_gate`."""
