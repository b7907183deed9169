"""The component `generate_shards`."""

from kfp_llm_batch.components.generate_shards.component import generate_shards

__all__ = ["generate_shards"]
