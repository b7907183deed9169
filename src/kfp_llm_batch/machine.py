"""What this process may use: processors, memory and instruction set, as the kernel and the pod's limits say."""

from __future__ import annotations

import hashlib
import math
import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kfp_llm_batch.caches import cache_folder

_UNLIMITED_BYTES = 2**60
"""cgroup v1 writes "no limit" as a number near 2**63."""

_X86_LEVELS = (
    ("amx_bf16", "AMX-BF16"),
    ("avx512_bf16", "AVX512-BF16"),
    ("avx512_vnni", "AVX512-VNNI"),
    ("avx512f", "AVX512"),
    ("avx2", "AVX2"),
)
_ARM_LEVELS = (("bf16", "ARM-BF16"), ("sve", "SVE"), ("asimd", "NEON"))


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Facts about the machine or pod, before any decision."""

    architecture: str
    cpu_model: str
    instruction_set: str
    """The best of those that the engine's kernels choose between."""
    allowed_cpus: tuple[int, ...]
    """Logical processors in this process's affinity mask."""
    physical_cores: int
    """Cores behind the allowed processors; siblings of one core count once."""
    cpu_quota: float | None
    """Processors' worth of time that the tightest control group grants."""
    memory_limit_bytes: int
    """The least of the machine's memory and every control group's limit."""
    memory_available_bytes: int
    """What is left below that limit; page cache counts as free."""
    shared_memory_bytes: int
    cache_folder: str
    """Can be written."""
    instruction_digest: str = ""
    """Of all features that the processor names; compiled code is for exactly these."""
    has_compiler: bool = False
    """Whether there is a C++ compiler, without which nothing new can be compiled."""

    @property
    def engine_cache(self) -> str:
        """Folder for what the engine compiles and looks up."""
        return f"{self.cache_folder}/engine-{self.instruction_digest}"

    @property
    def usable_cpus(self) -> int:
        """How many threads can compute at once without waiting for each other or for quota."""
        quota = math.inf if self.cpu_quota is None else self.cpu_quota
        return max(1, math.floor(min(self.physical_cores, quota)))


def read_machine(root: Path = Path("/"), allowed_cpus: frozenset[int] | None = None) -> Machine:
    """Read the facts below `root`, which a test may point at a recorded tree."""
    cpus = tuple(sorted(os.sched_getaffinity(0) if allowed_cpus is None else allowed_cpus))
    cpuinfo = _read(root / "proc/cpuinfo")
    total, free = _system_memory(root)
    limit, available = total, free
    for group_limit, used in _memory_groups(root):
        limit = min(limit, group_limit)
        available = min(available, max(0, group_limit - used))
    return Machine(
        architecture=platform.machine(),
        cpu_model=_field(cpuinfo, "model name") or platform.machine(),
        instruction_set=_instruction_set(cpuinfo),
        allowed_cpus=cpus,
        physical_cores=_physical_cores(root, cpus),
        cpu_quota=min(_cpu_quotas(root), default=None),
        memory_limit_bytes=limit,
        memory_available_bytes=available,
        shared_memory_bytes=_free_bytes(root / "dev/shm"),
        cache_folder=str(cache_folder()),
        instruction_digest=hashlib.sha256(" ".join(sorted(_features(cpuinfo))).encode()).hexdigest()[:12],
        has_compiler=shutil.which("g++") is not None,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _field(text: str, name: str) -> str:
    match = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", text, re.MULTILINE)
    return match.group(1).strip() if match else ""


def _instruction_set(cpuinfo: str) -> str:
    features = _features(cpuinfo)
    return next((name for flag, name in (*_X86_LEVELS, *_ARM_LEVELS) if flag in features), "generic")


def _features(cpuinfo: str) -> set[str]:
    return set((_field(cpuinfo, "flags") or _field(cpuinfo, "Features")).split())


def _physical_cores(root: Path, cpus: tuple[int, ...]) -> int:
    siblings = (_read(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").strip() for cpu in cpus)
    return len({names or str(cpu) for cpu, names in zip(cpus, siblings, strict=True)})


def _system_memory(root: Path) -> tuple[int, int]:
    meminfo = _read(root / "proc/meminfo")
    total, free = (int(_field(meminfo, name).split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return total, free


def _group_folders(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's control groups for `controller`, from its own up to the root, v1 and v2.

    Inside a container the path in /proc/self/cgroup may not exist below the mount: its parents then serve.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        group = mount / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(mount) and folder.is_dir())


def _cpu_quotas(root: Path) -> Iterator[float]:
    for folder in _group_folders(root, "cpu"):
        quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
        if not quota:
            quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
        if quota.isdigit() and period.isdigit():
            yield int(quota) / int(period)


def _memory_groups(root: Path) -> Iterator[tuple[int, int]]:
    """Pairs of limit and use, page cache that the kernel can drop not counted as used."""
    for folder in _group_folders(root, "memory"):
        limit = _read(folder / "memory.max").strip() or _read(folder / "memory.limit_in_bytes").strip()
        if not limit.isdigit() or int(limit) > _UNLIMITED_BYTES:
            continue
        used = _read(folder / "memory.current").strip() or _read(folder / "memory.usage_in_bytes").strip() or "0"
        statistics = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
        prefix = "total_" if "total_inactive_file" in statistics else ""
        cache = sum(int(statistics.get(f"{prefix}{name}_file", 0)) for name in ("active", "inactive"))
        yield int(limit), max(0, int(used) - cache)


def _free_bytes(folder: Path) -> int:
    try:
        usage = os.statvfs(folder)
    except OSError:
        return 0
    return usage.f_bavail * usage.f_frsize
