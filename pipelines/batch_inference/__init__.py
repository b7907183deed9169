"""The pipeline `batch_inference`."""

from kfp_llm_batch.pipelines.batch_inference.pipeline import batch_inference

__all__ = ["batch_inference"]
