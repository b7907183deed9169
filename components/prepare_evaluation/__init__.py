"""The component `prepare_evaluation`."""

from kfp_llm_batch.components.prepare_evaluation.component import prepare_evaluation

__all__ = ["prepare_evaluation"]
