"""The component `answer_again`."""

from kfp_llm_batch.components.answer_again.component import answer_again

__all__ = ["answer_again"]
