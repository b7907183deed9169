"""The pipeline `sharded_batch_inference`."""
