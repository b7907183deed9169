"""The component `generate_completions`."""

from kfp_llm_batch.components.generate_completions.component import generate_completions

__all__ = ["generate_completions"]
