"""The component `generate_on_cluster`."""

from kfp_llm_batch.components.generate_on_cluster.component import generate_on_cluster

__all__ = ["generate_on_cluster"]
