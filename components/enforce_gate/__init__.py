"""The component `enforce_gate`."""

from kfp_llm_batch.components.enforce_gate.component import enforce_gate

__all__ = ["enforce_gate"]
