"""A quantized checkpoint from a resolved model, made in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from kfp_llm_batch.disk import writing
from kfp_llm_batch.errors import BatchError, ConfigurationError, EngineError, StorageError
from kfp_llm_batch.machine import Machine
from kfp_llm_batch.models.resolving import Model, files_in_use
from kfp_llm_batch.quantization.layers import LayerPlan

_ERRORS: dict[int, type[BatchError]] = {error.exit_code: error for error in (ConfigurationError, StorageError)}


def make_checkpoint(model: Model, scheme: str, folder: Path, machine: Machine) -> LayerPlan:
    """Write the model with smaller weights, its tokenizer and chat template unchanged, into `folder`.

    Raises:
        ConfigurationError: The model is quantized already, is none with weights, or has layers that do not fit.
        StorageError: The folder cannot be written.
        EngineError: The process that does it was ended or failed.
    """
    check_is_plain(model)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    plan = _run([str(model.folder), str(folder), scheme], machine)
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


def _run(arguments: list[str], machine: Machine) -> LayerPlan:
    finished = subprocess.run(
        [sys.executable, "-m", "kfp_llm_batch.quantization.weights", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": str(machine.usable_cpus), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode < 0:
        raise EngineError(
            f"The process that quantizes was ended by {signal.Signals(-finished.returncode).name}",
            remedy="SIGKILL is what a pod over its memory limit gets: raise resources_memory.",
        )
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or ["no message"]
        raise _ERRORS.get(finished.returncode, EngineError)(lines[-1])
    done = json.loads(finished.stdout.splitlines()[-1])
    return LayerPlan(**{**done, "quantized": tuple(done["quantized"])})
