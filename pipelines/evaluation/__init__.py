"""The pipeline `evaluation`."""

from kfp_llm_batch.pipelines.evaluation.pipeline import evaluation

__all__ = ["evaluation"]
