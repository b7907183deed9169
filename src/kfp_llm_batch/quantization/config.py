"""Parameters of the step `quantize_model`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.models.quantized_formats import W4A16, W8A8_INT8

SCHEMES: Mapping[str, str] = {"w8a8_int8": W8A8_INT8, "w4a16": W4A16}
"""What can be made, and the format that it then is."""

_MOST_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class QuantizationConfig:
    """Which model becomes smaller, how, and how the outcome is measured; checks itself."""

    model_uri: str
    model_revision: str | None = None
    scheme: str = "w8a8_int8"
    """One of SCHEMES."""
    output_uri: str | None = None
    """Where the checkpoint is published; None leaves it in the step's own folder."""
    output_overwrite: bool = False
    evaluation_rows: int = 64
    """Most held-out prompts that both models answer."""
    evaluation_max_tokens: int = 64

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ConfigurationError("Unknown quantization_scheme", received=self.scheme, allowed=list(SCHEMES))
        if not 1 <= self.evaluation_rows <= _MOST_ROWS:
            raise ConfigurationError(
                "evaluation_rows is out of bounds", received=self.evaluation_rows, allowed=[f"1 to {_MOST_ROWS}"]
            )
        if self.evaluation_max_tokens < 1:
            raise ConfigurationError("evaluation_max_tokens is no positive number", received=self.evaluation_max_tokens)
