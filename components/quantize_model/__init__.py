"""The component `quantize_model`."""
