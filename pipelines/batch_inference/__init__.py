"""The pipeline `batch_inference`."""
