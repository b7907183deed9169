"""The component `quantize_model`."""

from kfp_llm_batch.components.quantize_model.component import quantize_model

__all__ = ["quantize_model"]
