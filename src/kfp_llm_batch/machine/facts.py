"""What is known of a machine or pod; no decision is made here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Libraries:
    """Allocators and OpenMP runtimes, which have to be there before a process starts."""

    mapped: tuple[str, ...] = ()
    """File names of those that this very process has loaded."""
    preloaded: tuple[str, ...] = ()
    """All of LD_PRELOAD, in its order."""
    allocator_path: str | None = None
    """Of tcmalloc, which could be preloaded."""
    openmp_path: str | None = None
    """Of Intel's OpenMP, else of the one in the torch package."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Facts about the machine or pod, before any decision."""

    architecture: str
    """As `uname -m` says it."""
    cpu_model: str
    instruction_set: str
    """The best of those that the engine's kernels choose between."""
    instruction_features: tuple[str, ...] = ()
    """All that kernels make use of and that are there."""
    cores: tuple[tuple[int, ...], ...]
    """Logical processors of this process's affinity mask, siblings of one core together."""
    numa_nodes: Mapping[int, tuple[int, ...]]
    """The same processors by memory node; only nodes that have some."""
    node_memory_bytes: Mapping[int, int] = field(default_factory=dict)
    """Left on each node that this process may take memory from; empty where the kernel does not tell."""
    is_cpuset: bool = False
    """Whether the mask leaves processors out, so that the pod has these to itself."""
    cpu_quota: float | None
    """Processors' worth of time that the tightest control group grants."""
    memory_limit_bytes: int
    """The least of the machine's memory and every control group's limit."""
    memory_available_bytes: int
    """What is left below that limit; page cache counts as free."""
    shared_memory_bytes: int
    cache_folder: str
    """Can be written, unless the user has chosen one that cannot."""
    instruction_digest: str = ""
    """Of all features that the processor names; compiled code is for exactly these."""
    has_compiler: bool = False
    """Whether there is a C++ compiler, without which nothing new can be compiled."""
    libraries: Libraries = field(default_factory=Libraries)
    accelerators: tuple[str, ...] = ()
    """Names of NVIDIA GPUs."""

    @property
    def allowed_cpus(self) -> tuple[int, ...]:
        """Logical processors in this process's affinity mask."""
        return tuple(sorted(cpu for core in self.cores for cpu in core))

    @property
    def physical_cores(self) -> int:
        """Cores behind the allowed processors."""
        return len(self.cores)

    @property
    def engine_cache(self) -> str:
        """Folder for what the engine compiles and looks up."""
        return f"{self.cache_folder}/engine-{self.instruction_digest}"

    @property
    def usable_cpus(self) -> int:
        """How many threads can compute at once without waiting for each other or for quota."""
        quota = math.inf if self.cpu_quota is None else self.cpu_quota
        return max(1, math.floor(min(self.physical_cores, quota)))

    def as_dict(self) -> dict[str, Any]:
        """For the manifest and `doctor --json`, with what follows from the facts."""
        derived = {name: getattr(self, name) for name in ("allowed_cpus", "physical_cores", "usable_cpus")}
        return {**dataclasses.asdict(self), **derived}
