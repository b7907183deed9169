"""The component `write_results`."""

from kfp_llm_batch.components.write_results.component import write_results

__all__ = ["write_results"]
