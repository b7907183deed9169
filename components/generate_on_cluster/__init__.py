"""The component `generate_on_cluster`."""
