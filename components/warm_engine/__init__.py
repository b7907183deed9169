"""The component `warm_engine`."""

from kfp_llm_batch.components.warm_engine.component import warm_engine

__all__ = ["warm_engine"]
