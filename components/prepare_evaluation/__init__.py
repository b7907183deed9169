"""The component `prepare_evaluation`."""
