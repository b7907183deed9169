"""The component `load_dataset`."""

from kfp_llm_batch.components.load_dataset.component import load_dataset

__all__ = ["load_dataset"]
