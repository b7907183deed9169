"""Processors that this process may use: their cores, memory nodes and instructions."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

from kfp_llm_batch.machine.kernel_files import field, number_list, read_text

_FEATURES = {
    "amx_bf16": "AMX-BF16",
    "avx512_bf16": "AVX512-BF16",
    "avx512_vnni": "AVX512-VNNI",
    "avx512f": "AVX512",
    "avx2": "AVX2",
    "amx_int8": "AMX-INT8",
    "bf16": "ARM-BF16",
    "sve": "SVE",
    "asimd": "NEON",
    "i8mm": "I8MM",
}
"""As /proc/cpuinfo writes them, and as people do; within an architecture the best first."""
_NO_LEVEL = ("AMX-INT8", "I8MM")
"""Of no help to plain weights; kernels for plain weights are chosen by the others."""

_ARM_PARTS = {"0xd0c": "Neoverse N1", "0xd40": "Neoverse V1", "0xd49": "Neoverse N2", "0xd4f": "Neoverse V2"}
_ARM, _APPLE = "0x41", "0x61"


def architecture(cpuinfo: str) -> str:
    """By the fields that only one of the two has, since `cpuinfo` may be of another machine than this one."""
    if field(cpuinfo, "Features"):
        return "aarch64"
    return "x86_64" if field(cpuinfo, "flags") else platform.machine()


def cpu_model(cpuinfo: str) -> str:
    """The processor's name; Arm writes numbers in its place."""
    if name := field(cpuinfo, "model name"):
        return name
    maker, part = field(cpuinfo, "CPU implementer"), field(cpuinfo, "CPU part")
    if maker == _APPLE:
        return "Apple"
    if maker == _ARM and part in _ARM_PARTS:
        return _ARM_PARTS[part]
    return f"implementer {maker}, part {part}" if maker else platform.machine()


def instruction_features(cpuinfo: str) -> tuple[str, ...]:
    """All features that kernels make use of."""
    flags = _flags(cpuinfo)
    return tuple(name for flag, name in _FEATURES.items() if flag in flags)


def instruction_set(features: tuple[str, ...]) -> str:
    """The best feature that kernels are chosen by."""
    return next((name for name in features if name not in _NO_LEVEL), "generic")


def instruction_digest(cpuinfo: str) -> str:
    """Twelve digits for the set of all that the processor names."""
    return hashlib.sha256(" ".join(sorted(_flags(cpuinfo))).encode()).hexdigest()[:12]


def allowed_cpus(root: Path) -> tuple[tuple[int, ...], bool]:
    """The affinity mask, and whether it leaves out processors that are online.

    The kernel's own list may hold processors that are not online.
    """
    online = number_list(read_text(root / "sys/devices/system/cpu/online"))
    listed = number_list(field(read_text(root / "proc/self/status"), "Cpus_allowed_list"))
    allowed = tuple(cpu for cpu in listed if cpu in online)
    if not allowed:
        return tuple(sorted(os.sched_getaffinity(0))), False
    return allowed, len(allowed) < len(online)


def cores(root: Path, cpus: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The processors grouped by core; one without a known sibling is a core by itself."""
    found: dict[tuple[int, ...], None] = {}
    for cpu in cpus:
        siblings = number_list(read_text(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))
        found[tuple(sorted({cpu, *siblings}.intersection(cpus)))] = None
    return tuple(found)


def numa_nodes(root: Path, cpus: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
    """The processors by memory node; all on node 0 where the kernel knows of none."""
    nodes = {}
    for path in sorted((root / "sys/devices/system/node").glob("node[0-9]*/cpulist")):
        number, listed = path.parent.name.removeprefix("node"), number_list(read_text(path))
        if number.isdecimal() and (here := tuple(cpu for cpu in cpus if cpu in listed)):
            nodes[int(number)] = here
    return dict(sorted(nodes.items())) or {0: cpus}


def _flags(cpuinfo: str) -> set[str]:
    return set((field(cpuinfo, "flags") or field(cpuinfo, "Features")).split())
