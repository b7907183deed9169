"""Pipelines: wiring, resources and retries of the components; no data logic."""

from kfp_llm_batch.pipelines.batch_inference.pipeline import batch_inference
from kfp_llm_batch.pipelines.evaluation.pipeline import evaluation
from kfp_llm_batch.pipelines.sharded_batch_inference.pipeline import sharded_batch_inference

__all__ = [
    "batch_inference",
    "evaluation",
    "sharded_batch_inference",
]
