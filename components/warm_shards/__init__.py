"""The component `warm_shards`."""

from kfp_llm_batch.components.warm_shards.component import warm_shards

__all__ = ["warm_shards"]
