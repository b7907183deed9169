"""Rounds the weights of a checkpoint; called in a process of its own, since it imports torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme, preset_name_to_scheme
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors import SafetensorError, safe_open

from kfp_llm_batch.disk import new_file
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.models.resolving import is_weights
from kfp_llm_batch.quantization.config import SCHEMES
from kfp_llm_batch.quantization.layers import LayerPlan, linear_shapes, plan_layers
from kfp_llm_batch.quantization.weight_files import INDEX, WeightWriter

_FILE_BYTES = 2**30


def quantize_weights(source: Path, folder: Path, scheme: str, file_bytes: int = _FILE_BYTES) -> LayerPlan:
    """Write the checkpoint's weights, index and config.json into `folder`, rounded to nearest, tensor by tensor.

    Raises:
        ConfigurationError: The checkpoint's layers are not those of its configuration, or cannot be quantized.
    """
    shapes = linear_shapes(source)
    plan = plan_layers(shapes, scheme)
    arguments = _scheme(scheme, plan)
    writer, waiting = WeightWriter(folder, file_bytes), set(plan.quantized)
    for name, tensor in _tensors(source):
        layer, _, kind = name.rpartition(".")
        if kind != "weight" or layer not in waiting:
            writer.add(name, tensor)
            continue
        waiting.remove(layer)
        for part, value in _rounded(layer, tensor, arguments, scheme).items():
            writer.add(f"{layer}.{part}", value)
    if waiting:
        raise ConfigurationError(
            f"The checkpoint names its weights unlike the model that its config.json describes: {len(waiting)} layers "
            f"such as {min(waiting)} are missing",
            remedy="Load it with transformers and save it again with save_pretrained.",
        )
    writer.finish()
    _write_config(source, folder, arguments, scheme, plan)
    return plan


def _scheme(scheme: str, plan: LayerPlan) -> QuantizationScheme:
    arguments = preset_name_to_scheme(SCHEMES[scheme].preset, ["Linear"])
    assert arguments.weights is not None
    if plan.group_size:
        arguments.weights.group_size = plan.group_size
    return arguments


def _tensors(source: Path) -> Iterator[tuple[str, torch.Tensor]]:
    index = source / INDEX
    if index.is_file():
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        files = sorted(path.name for path in source.iterdir() if is_weights(path.name))
    for file in files:
        try:
            with safe_open(source / file, "pt") as weights:
                for name in weights.keys():  # noqa: SIM118 - no mapping, it cannot be iterated
                    yield name, weights.get_tensor(name)
        except (SafetensorError, FileNotFoundError) as error:
            raise ConfigurationError(f"The weights cannot be read: {error}", received=file) from error


def _rounded(layer: str, weight: torch.Tensor, scheme: QuantizationScheme, name: str) -> dict[str, torch.Tensor]:
    """The layer's tensors by their names in compressed-tensors."""
    assert scheme.weights is not None
    values = weight.float()
    groups = values.shape[1] // (scheme.weights.group_size or values.shape[1])
    low, high = torch.aminmax(values.unflatten(1, (groups, -1)), dim=-1)
    if not torch.isfinite(high - low).all():
        raise ConfigurationError("A layer holds numbers that are not finite", received=layer)
    scale, zero_point = calculate_qparams(low, high, scheme.weights)
    scale = scale.to(getattr(torch, SCHEMES[name].scale_type))
    state = {"weight": values, "weight_scale": scale, "weight_zero_point": zero_point}
    compressor = BaseCompressor.get_value_from_registry(SCHEMES[name].layout)
    rounded: dict[str, torch.Tensor] = compressor.compress(state, scheme)
    return rounded


def _write_config(source: Path, folder: Path, arguments: QuantizationScheme, scheme: str, plan: LayerPlan) -> None:
    declared: dict[str, Any] = QuantizationConfig(
        config_groups={"group_0": arguments},
        format=SCHEMES[scheme].layout,
        quantization_status="compressed",
        ignore=list(plan.left),
    ).model_dump(mode="json")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    with new_file(folder / "config.json") as path:
        path.write_text(json.dumps({**config, "quantization_config": declared}, indent=2) + "\n", encoding="utf-8")
