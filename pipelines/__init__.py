"""Pipelines: wiring, resources and retries of the components; no data logic."""

from kfp_llm_batch.pipelines.batch_inference import batch_inference
from kfp_llm_batch.pipelines.evaluation import evaluation

__all__ = ["batch_inference", "evaluation"]
