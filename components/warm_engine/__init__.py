"""The component `warm_engine`."""
