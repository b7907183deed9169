"""The facts, read from the kernel's files."""

from __future__ import annotations

import shutil
from pathlib import Path

from kfp_llm_batch.caches import cache_folder
from kfp_llm_batch.machine import memory, processors
from kfp_llm_batch.machine.control_groups import cpu_quotas
from kfp_llm_batch.machine.facts import Machine
from kfp_llm_batch.machine.kernel_files import field, read_text
from kfp_llm_batch.machine.libraries import read_libraries


def read_machine(root: Path = Path("/")) -> Machine:
    """Read the facts below `root`, which a test may point at a recorded tree; missing files are no error."""
    cpuinfo = read_text(root / "proc/cpuinfo")
    architecture, features = processors.architecture(cpuinfo), processors.instruction_features(cpuinfo)
    cpus, is_cpuset = processors.allowed_cpus(root)
    limit, available = memory.memory_bytes(root)
    return Machine(
        architecture=architecture,
        cpu_model=processors.cpu_model(cpuinfo),
        instruction_set=processors.instruction_set(features),
        instruction_features=features,
        cores=processors.cores(root, cpus),
        numa_nodes=processors.numa_nodes(root, cpus),
        node_memory_bytes=memory.node_memory_bytes(root),
        is_cpuset=is_cpuset,
        cpu_quota=min(cpu_quotas(root), default=None),
        memory_limit_bytes=limit,
        memory_available_bytes=available,
        shared_memory_bytes=memory.free_bytes(root / "dev/shm"),
        cache_folder=str(cache_folder()),
        instruction_digest=processors.instruction_digest(cpuinfo),
        has_compiler=shutil.which("g++") is not None,
        libraries=read_libraries(root, architecture),
        accelerators=_accelerators(root),
    )


def _accelerators(root: Path) -> tuple[str, ...]:
    """Names of the NVIDIA GPUs; a container may see their devices alone."""
    folders = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    if names := [field(read_text(path), "Model") for path in folders]:
        return tuple(name or "NVIDIA GPU" for name in names)
    return tuple("NVIDIA GPU" for _ in (root / "dev").glob("nvidia[0-9]*"))
