"""The component `compare_evaluations`."""
