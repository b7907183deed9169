"""The component `merge_shards`."""

from kfp_llm_batch.components.merge_shards.component import merge_shards

__all__ = ["merge_shards"]
