"""Memory of the machine and of its nodes."""

from __future__ import annotations

import os
from pathlib import Path

from kfp_llm_batch.machine.control_groups import memory_limits
from kfp_llm_batch.machine.kernel_files import field, kibibytes, number_list, read_text

_NODE_FIELDS = ("MemFree", "Active(file)", "Inactive(file)", "SReclaimable")


def memory_bytes(root: Path) -> tuple[int, int]:
    """The tightest limit, and what is left below every one."""
    meminfo = read_text(root / "proc/meminfo")
    limit = kibibytes(meminfo, "MemTotal") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = kibibytes(meminfo, "MemAvailable")
    available = limit if free is None else free
    for group_limit, used in memory_limits(root):
        limit = min(limit, group_limit)
        available = min(available, max(0, group_limit - used))
    return limit, available


def node_memory_bytes(root: Path) -> dict[int, int]:
    """What is left on each node that this process may take memory from, page cache counted as free."""
    allowed = number_list(field(read_text(root / "proc/self/status"), "Mems_allowed_list"))
    texts = {node: read_text(root / f"sys/devices/system/node/node{node}/meminfo") for node in allowed}
    return {
        node: sum(kibibytes(text, name) or 0 for name in _NODE_FIELDS)
        for node, text in texts.items()
        if kibibytes(text, "MemFree") is not None
    }


def free_bytes(folder: Path) -> int:
    """Free space of a folder's file system; 0 if there is no such folder."""
    try:
        usage = os.statvfs(folder)
    except OSError:
        return 0
    return usage.f_bavail * usage.f_frsize
