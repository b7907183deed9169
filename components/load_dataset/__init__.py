"""The component `load_dataset`."""
