"""The pipeline `sharded_batch_inference`."""

from kfp_llm_batch.pipelines.sharded_batch_inference.pipeline import sharded_batch_inference

__all__ = ["sharded_batch_inference"]
