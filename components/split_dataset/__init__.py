"""The component `split_dataset`."""

from kfp_llm_batch.components.split_dataset.component import split_dataset

__all__ = ["split_dataset"]
