"""The component `evaluate_completions`."""
