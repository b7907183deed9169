"""Parameters of the step `quantize_model`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.models.quantized_formats import W4A16, W8A8_INT8

_MOST_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """What weights become."""

    format: str
    """One of models/quantized_formats.py."""
    multiples: tuple[int, int]
    """Of inputs and of outputs that vLLM's kernels on CPU take; int8 with AMX has the stricter of its two kernels."""
    has_groups: bool
    """Whether groups of inputs have a scale each; without them every output has one."""
    preset: str
    layout: str
    """Names of compressed-tensors: the scheme, and its layout on disk."""
    scale_type: str
    """Of torch: vLLM keeps the scales of int8 as float32, those of 4 bits in the type of the activations."""


SCHEMES: Mapping[str, Scheme] = {
    "w8a8_int8": Scheme(
        format=W8A8_INT8,
        multiples=(32, 16),
        has_groups=False,
        preset="W8A8",
        layout="int-quantized",
        scale_type="float32",
    ),
    "w4a16": Scheme(
        format=W4A16,
        multiples=(32, 32),
        has_groups=True,
        preset="W4A16",
        layout="pack-quantized",
        scale_type="bfloat16",
    ),
}


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
