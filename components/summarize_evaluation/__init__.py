"""The component `summarize_evaluation`."""
