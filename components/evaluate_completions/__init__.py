"""The component `evaluate_completions`."""

from kfp_llm_batch.components.evaluate_completions.component import evaluate_completions

__all__ = ["evaluate_completions"]
