"""The component `write_results`."""
