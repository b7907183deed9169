"""How many threads the engine computes with, and where they run."""

from __future__ import annotations

import math

from kfp_llm_batch.engine.decisions import Setting
from kfp_llm_batch.engine.preloads import openmp_runtime
from kfp_llm_batch.machine import Machine

BLOCKTIME_MILLISECONDS = 1
"""For which Intel's OpenMP lets a thread spin after its share of the work: 200 by itself, all paid from the quota."""

_INTEL_OPENMP = ("libiomp", "libomp")
"""And LLVM's, which is the same."""


def engine_node(machine: Machine) -> int:
    """The memory node whose cores one engine computes on: the one with most of them, the first among equals."""
    counts = {node: sum(core[0] in cpus for core in machine.cores) for node, cpus in machine.numa_nodes.items()}
    return max(counts, key=lambda node: (counts[node], -node))


def engine_cores(machine: Machine) -> tuple[tuple[int, ...], ...]:
    """The cores of that node, each with its logical processors."""
    cpus = machine.numa_nodes[engine_node(machine)]
    return tuple(core for core in machine.cores if core[0] in cpus)


def engine_threads(machine: Machine) -> int:
    """One for a core, as far as the quota goes."""
    quota = math.inf if machine.cpu_quota is None else machine.cpu_quota
    return max(1, math.floor(min(len(engine_cores(machine)), quota)))


def memory_node(machine: Machine) -> int | None:
    """The node that the engine takes its memory from; None where the kernel does not tell of nodes."""
    node, nodes = engine_node(machine), machine.node_memory_bytes
    return node if node in nodes else min(nodes, default=None)


def thread_settings(machine: Machine) -> dict[str, Setting]:
    """Variables for the OpenMP runtime, and for the memory that its threads use."""
    threads = {"OMP_NUM_THREADS": Setting(value=str(engine_threads(machine)), reason=_count_reason(machine))}
    runtime = openmp_runtime(machine.libraries)
    return {**threads, **_binding(machine, runtime), **_waiting(machine, runtime), **_memory(machine)}


def _count_reason(machine: Machine) -> str:
    quota = "no quota" if machine.cpu_quota is None else f"a quota of {machine.cpu_quota:g} processors"
    if len(machine.numa_nodes) > 1:
        number, node = len(engine_cores(machine)), engine_node(machine)
        return f"{number} cores on memory node {node}, one of {len(machine.numa_nodes)} in the mask, {quota}"
    siblings = ", siblings counted once" if machine.physical_cores < len(machine.allowed_cpus) else ""
    return f"{machine.physical_cores} cores in the affinity mask{siblings}, {quota}"


def _binding(machine: Machine, runtime: str | None) -> dict[str, Setting]:
    cores = engine_cores(machine)
    if engine_threads(machine) < len(cores):
        why = f"a quota of {machine.cpu_quota:g} on {len(cores)} cores: the kernel must be free to move threads"
        return {"OMP_PROC_BIND": Setting(value="false", reason=why)}
    if runtime is None:
        why = "no OpenMP runtime to preload: torch and the engine's kernels might each bind one to the same cores"
        return {"OMP_PROC_BIND": Setting(value="false", reason=why)}
    why = "the pod has these cores to itself" if machine.is_cpuset else "no quota limits the threads"
    return _places([core[0] for core in cores], runtime, f"{why}: each stays where its data is cached")


def _places(cpus: list[int], runtime: str, why: str) -> dict[str, Setting]:
    """One logical processor of each core, in the runtime's own words.

    Intel's must not get the common ones: GNU's, which comes with torch, reads them when it is loaded and binds the
    main thread; Intel's then finds one processor left, and puts all threads on it.
    """
    if runtime.startswith(_INTEL_OPENMP):
        value = f"granularity=fine,explicit,proclist=[{','.join(map(str, cpus))}]"
        return {"KMP_AFFINITY": Setting(value=value, reason=why)}
    places = ",".join(f"{{{cpu}}}" for cpu in cpus)
    return {
        "OMP_PLACES": Setting(value=places, reason="one logical processor of each core"),
        "OMP_PROC_BIND": Setting(value="close", reason=why),
    }


def _waiting(machine: Machine, runtime: str | None) -> dict[str, Setting]:
    is_limited = machine.cpu_quota is not None and machine.cpu_quota < machine.physical_cores
    if runtime is None or not runtime.startswith(_INTEL_OPENMP) or not is_limited:
        return {}
    why = "milliseconds; a thread that spins longer burns the quota that others compute with"
    return {"KMP_BLOCKTIME": Setting(value=str(BLOCKTIME_MILLISECONDS), reason=why)}


def _memory(machine: Machine) -> dict[str, Setting]:
    node = engine_node(machine)
    if len(machine.node_memory_bytes) < 2 or node != memory_node(machine):
        return {}
    return {"CPU_VISIBLE_MEMORY_NODES": Setting(value=str(node), reason="memory beside the cores that compute")}
