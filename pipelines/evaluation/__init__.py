"""The pipeline `evaluation`."""
