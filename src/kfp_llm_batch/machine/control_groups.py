"""What the control groups grant, versions 1 and 2, from the process's own group up to the root."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from kfp_llm_batch.machine.kernel_files import read_number, read_text

_UNLIMITED_BYTES = 2**60
"""Version 1 writes "no limit" as a number near 2**63."""


def cpu_quotas(root: Path) -> Iterator[float]:
    """Processors' worth of time that each group grants, where it has a limit."""
    for folder in _group_folders(root, "cpu"):
        quota, _, period = read_text(folder / "cpu.max").strip().partition(" ")
        if not quota:
            quota, period = (read_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        if quota.isdecimal() and period.isdecimal() and int(period):
            yield int(quota) / int(period)


def memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Pairs of limit and use in bytes; page cache, which the kernel drops when it must, is not counted as used."""
    for folder in _group_folders(root, "memory"):
        # Past memory.high the kernel slows a group down instead of killing it; a job would not end.
        limits = [read_number(folder / name) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")]
        limit = min((value for value in limits if value is not None), default=_UNLIMITED_BYTES)
        if limit < _UNLIMITED_BYTES:
            yield limit, _used_bytes(folder)


def _used_bytes(folder: Path) -> int:
    used = read_number(folder / "memory.current") or read_number(folder / "memory.usage_in_bytes") or 0
    statistics = dict(re.findall(r"^(\w+) (\d+)$", read_text(folder / "memory.stat"), re.MULTILINE))
    prefix = "total_" if "total_inactive_file" in statistics else ""
    cache = sum(int(statistics.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
    return max(0, used - cache)


def _group_folders(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's groups for a controller.

    Inside a container the path in /proc/self/cgroup may not exist below the mount, which then is the own group.
    """
    for line in read_text(root / "proc/self/cgroup").splitlines():
        match = re.fullmatch(r"\d+:([^:]*):/(.*)", line)
        if match is None or (match.group(1) and controller not in match.group(1).split(",")):
            continue
        # A group outside of the process's own namespace is written with dots.
        path = PurePosixPath(*(part for part in match.group(2).split("/") if part != ".."))
        for mount in _mounts(root, controller, match.group(1)):
            folders = (mount / path, *(mount / parent for parent in path.parents))
            yield from (folder for folder in folders if folder.is_dir())


def _mounts(root: Path, controller: str, controllers: str) -> list[Path]:
    mounts = root / "sys/fs/cgroup"
    # Where both versions are in use, version 2 is mounted beside the controllers of version 1.
    names = {controller, controllers} if controllers else {"", "unified"}
    return [mounts / name for name in sorted(names)]
