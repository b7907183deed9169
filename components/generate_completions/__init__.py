"""The component `generate_completions`."""
