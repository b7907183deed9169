"""Whether compiling the model pays for a job, and whether it was done before on such a machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp_llm_batch.disk import writing
from kfp_llm_batch.engine.devices import installed_version, vllm_version
from kfp_llm_batch.engine.threads import engine_threads
from kfp_llm_batch.machine import Machine
from kfp_llm_batch.models.resolving import Model

EAGER_FLOPS_PER_CORE: Mapping[str, float] = {"AMX-BF16": 260e9, "AVX512-BF16": 105e9}
"""Of a whole job, not of the matrix products alone; with 135 million parameters on two cores, within a third."""
OTHER_FLOPS_PER_CORE = 50e9
"""An estimate: too low a speed makes a job look long, and compiling worth it."""
SAVED_SHARE = 0.17
"""Of the time that generation takes without compiling, since threads then meet less often: benchmarks/results, in
settings.txt and compiling.json, as the next three."""
SAVED_SHARE_OF_ONE_THREAD = 0.05
COLD_SECONDS = 110.0
"""To compile 30 layers on two cores."""
WARM_SECONDS = 4.0
"""To load what was compiled before."""
COMPILER_BYTES = 2 * 2**30
"""What the C++ compiler takes beside the loaded model."""

_NOT_COMPILED_IN = ("kv_cache_memory_bytes",)


def reason_to_compile(machine: Machine, flops: float, *, is_compiled: bool, free_bytes: int) -> tuple[bool, str]:
    """Decide by break-even.

    Args:
        machine: Where the job runs.
        flops: Of all its tokens.
        is_compiled: Whether it was done before, and only has to be loaded.
        free_bytes: Memory that the plan leaves.

    Returns:
        Whether to compile, and why.
    """
    saved, cost = saved_seconds(machine, flops), WARM_SECONDS if is_compiled else COLD_SECONDS
    kind = "loading compiled code" if is_compiled else "compiling"
    if saved <= cost:
        return False, f"{kind} takes {cost:.0f} s and would save about {saved:.0f} s of this job"
    if not is_compiled and not machine.has_compiler:
        return False, f"compiling would save about {saved:.0f} s, but there is no C++ compiler here"
    if not is_compiled and free_bytes < COMPILER_BYTES:
        return False, f"compiling would save about {saved:.0f} s, but the compiler needs 2 GiB more memory"
    return True, f"{kind} takes {cost:.0f} s and saves about {saved:.0f} s of this job"


def saved_seconds(machine: Machine, flops: float) -> float:
    """What compiled code saves of a job of so many floating-point operations."""
    return saved_share(machine) * eager_seconds(flops, machine.instruction_set, engine_threads(machine))


def saved_share(machine: Machine) -> float:
    """What compiled code saves of the time of a generation."""
    return SAVED_SHARE if engine_threads(machine) > 1 else SAVED_SHARE_OF_ONE_THREAD


def eager_seconds(flops: float, instruction_set: str, cpus: float) -> float:
    """How long so many floating-point operations take without compiled code.

    Args:
        flops: Two for each parameter and token, which is a token's share of the bytes of a model in bfloat16.
        instruction_set: Of the processors.
        cpus: How many compute.
    """
    return flops / (cpus * EAGER_FLOPS_PER_CORE.get(instruction_set, OTHER_FLOPS_PER_CORE))


class CompileRecord:
    """Which engine settings have been compiled into a machine's cache folder.

    Args:
        machine: Its cache folder is kept apart by instruction set, since compiled code is for one alone.
        model: Known by where it is, which vLLM's own key holds as well, and by its digest.
    """

    def __init__(self, machine: Machine, model: Model) -> None:
        self._folder = Path(machine.engine_cache) / "compiled"
        self._model = [str(model.folder), model.digest]

    def holds(self, arguments: Mapping[str, Any]) -> bool:
        """Whether an engine with these arguments was compiled."""
        return self._path(arguments).exists()

    def add(self, arguments: Mapping[str, Any]) -> None:
        """Note that an engine with these arguments is compiled.

        Raises:
            StorageError: The cache folder cannot be written.
        """
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._path(arguments).touch()

    def _path(self, arguments: Mapping[str, Any]) -> Path:
        kept = {name: value for name, value in arguments.items() if name not in _NOT_COMPILED_IN}
        versions = {**vllm_version(), "torch": installed_version("torch")}
        text = json.dumps([self._model, kept, versions], sort_keys=True)
        return self._folder / hashlib.sha256(text.encode()).hexdigest()[:32]
