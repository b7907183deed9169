"""How a checkpoint says that its weights are quantized, and which of these formats have a kernel on which CPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp_llm_batch.errors import ConfigurationError

W8A8_INT8 = "compressed-tensors w8a8 int8"
W4A16 = "compressed-tensors w4a16"
W4A8_INT = "compressed-tensors w4a8 int"
FP8 = "fp8"
COMPRESSED_FP8 = "compressed-tensors fp8"
AWQ = "awq 4-bit"
GPTQ = "gptq 4-bit"

_AMX = ("AMX-BF16",)
_AVX512 = (*_AMX, "AVX512-BF16", "AVX512-VNNI", "AVX512")
_ARM = ("ARM-BF16", "SVE", "NEON")

# Read from vLLM 0.32: the choice of kernels in its Python, the operators in the three libraries of its x86 package.
# oneDNN serves int8 everywhere; the library for AVX2 holds no 4-bit operator.
_KERNELS: Mapping[str, tuple[tuple[str, ...], str]] = {
    W8A8_INT8: ((*_AVX512, "AVX2", *_ARM), "AVX2, or Arm"),
    W4A16: (_AVX512, "AVX512"),
    AWQ: (_AVX512, "AVX512"),
    GPTQ: (_AVX512, "AVX512"),
    W4A8_INT: (_ARM, "Arm"),
    FP8: (_AMX, "AMX"),
    COMPRESSED_FP8: (_AMX, "AMX"),
}
"""Format to the instruction sets that have a kernel for it, and the least of them in words."""

_COMPRESSED = {
    ("int8", "int8", "int-quantized"): W8A8_INT8,
    ("int4", "int8", "pack-quantized"): W4A8_INT,
    ("int4", "int8", "int-quantized"): W4A8_INT,
    ("float8", "float8", "float-quantized"): COMPRESSED_FP8,
    ("float8", "", "float-quantized"): COMPRESSED_FP8,
}
"""Kinds of weights and activations and the layout on disk to the format."""

_LEGACY_FILES = ("quantize_config.json", "quant_config.json")


def unsupported_reason(name: str, instruction_set: str) -> str | None:
    """Why the engine cannot run a format here; None if it can.

    Args:
        name: As `quantized_formats` gives it.
        instruction_set: As `Machine` gives it.
    """
    if name not in _KERNELS:
        return "vLLM has no kernel for it on CPU"
    sets, needed = _KERNELS[name]
    return None if instruction_set in sets else f"its kernel needs {needed}, and this CPU has {instruction_set}"


def supported_formats(instruction_set: str) -> list[str]:
    """The formats that the engine runs on a CPU."""
    return [name for name in _KERNELS if unsupported_reason(name, instruction_set) is None]


def quantized_formats(folder: Path) -> tuple[str, ...]:
    """The formats of a checkpoint's weights; none if they are plain.

    Raises:
        ConfigurationError: Only a file beside config.json says that they are quantized.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()  # whoever reads the model's files finds out, and says so
    if not isinstance(config, dict):
        return ()
    if declared := _declaration(config):
        return _names(declared)
    if legacy := next((name for name in _LEGACY_FILES if (folder / name).is_file()), None):
        raise ConfigurationError(
            f"Only {legacy} says that the model's weights are quantized; vLLM would take them for plain ones",
            received=str(folder),
            remedy="Copy its content into config.json as quantization_config, with quant_method added (awq, gptq).",
        )
    return ()


def check_quantized_formats(names: tuple[str, ...], instruction_set: str, shown_uri: str) -> None:
    """Refuse a checkpoint that the engine could not run.

    Raises:
        ConfigurationError: A format has no kernel here; the message lists those that have.
    """
    for name in names:
        if reason := unsupported_reason(name, instruction_set):
            raise ConfigurationError(
                f"The model's weights are quantized as {name}: {reason}",
                received=shown_uri,
                allowed=["plain weights", *supported_formats(instruction_set)],
                remedy="Use such a checkpoint; the component quantize_model makes one from plain weights.",
            )


def _declaration(config: Mapping[str, Any]) -> dict[str, Any] | None:
    text = config.get("text_config")
    places = (config, text if isinstance(text, dict) else {})
    found = (place.get(key) for place in places for key in ("quantization_config", "compression_config"))
    return next((entry for entry in found if entry and isinstance(entry, dict)), None)


def _names(declared: Mapping[str, Any]) -> tuple[str, ...]:
    method = str(declared.get("quant_method") or "an unnamed method").lower()
    if method == "compressed-tensors":
        groups = declared.get("config_groups")
        groups = groups.values() if isinstance(groups, dict) else ()
        kinds = {_compressed_name(group, str(declared.get("format"))) for group in groups if isinstance(group, dict)}
        return tuple(sorted(kinds)) or (f"compressed-tensors {declared.get('format')}",)
    if method in ("awq", "gptq"):
        return (_packed_name(method, declared),)
    return (method,)


def _packed_name(method: str, declared: Mapping[str, Any]) -> str:
    name = f"{method} {declared.get('bits') or declared.get('w_bit')}-bit"
    # One group per output makes the order meaningless; in other cases vLLM 0.32 has given it up.
    if declared.get("desc_act") and declared.get("group_size") != -1:
        return f"{name} with activation order"
    return f"{name} asymmetric" if method == "gptq" and declared.get("sym") is False else name


def _compressed_name(group: Mapping[str, Any], overall_format: str) -> str:
    layout = str(group.get("format") or overall_format)
    weights, inputs = group.get("weights"), group.get("input_activations")
    options = weights if isinstance(weights, dict) else {}
    kinds = (_kind(weights), _kind(inputs), layout)
    if kinds == ("int4", "", "pack-quantized"):
        return f"{W4A16} with activation order" if options.get("actorder") == "group" else W4A16
    name = _COMPRESSED.get(kinds, f"compressed-tensors {layout}")
    return name if options.get("symmetric", True) else f"{name} asymmetric"


def _kind(arguments: object) -> str:
    """Type and bits of weights or activations; empty where they are not quantized."""
    return f"{arguments.get('type', 'int')}{arguments.get('num_bits', 8)}" if isinstance(arguments, dict) else ""
