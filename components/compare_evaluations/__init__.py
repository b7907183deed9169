"""The component `compare_evaluations`."""

from kfp_llm_batch.components.compare_evaluations.component import compare_evaluations

__all__ = ["compare_evaluations"]
