"""The component `summarize_evaluation`."""

from kfp_llm_batch.components.summarize_evaluation.component import summarize_evaluation

__all__ = ["summarize_evaluation"]
