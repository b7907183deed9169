"""A quantized checkpoint from a resolved model, made in a process of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from kfp_llm_batch.disk import writing
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.machine import Machine
from kfp_llm_batch.models.resolving import Model, files_in_use
from kfp_llm_batch.quantization.layers import LayerPlan
from kfp_llm_batch.workers import call_apart


def make_checkpoint(model: Model, scheme: str, folder: Path, machine: Machine) -> LayerPlan:
    """Write the model with smaller weights, its tokenizer and chat template unchanged, into `folder`.

    Raises:
        ConfigurationError: The model is quantized already, is none with weights, or has layers that do not fit.
        StorageError: The folder cannot be written.
        InterruptedRunError: The process that does it was killed.
    """
    check_is_plain(model)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    plan = call_apart(_quantize, model.folder, folder, scheme, machine.usable_cpus)
    for name in files_in_use((path.name for path in model.folder.iterdir()), model.uri):
        if not name.endswith((".safetensors", ".safetensors.index.json")) and name != "config.json":
            with writing(folder / name):
                shutil.copyfile(model.folder / name, folder / name)
    return plan


def check_is_plain(model: Model) -> None:
    """Refuse with a ConfigurationError what cannot be quantized, or is already."""
    if model.engine != "vllm":
        raise ConfigurationError("The model has no weights to quantize", received=model.uri)
    if model.facts.quantized_formats:
        raise ConfigurationError(
            f"The model is quantized already, as {', '.join(model.facts.quantized_formats)}",
            received=model.uri,
            remedy="Use it as it is, or name the model that it was made from.",
        )


def _quantize(source: Path, folder: Path, scheme: str, threads: int) -> LayerPlan:
    os.environ.update(OMP_NUM_THREADS=str(threads), HF_HUB_OFFLINE="1")  # before torch is imported
    from kfp_llm_batch.quantization.weights import quantize_weights

    return quantize_weights(source, folder, scheme)
