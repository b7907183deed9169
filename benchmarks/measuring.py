"""One process from spawn to exit: its wall time, and the memory of its whole tree."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_SAMPLE_SECONDS = 0.5
_ENDING_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class ProcessMeasurement:
    """What was seen from outside."""

    seconds: float
    peak_mib: float
    """Greatest sum of resident memory over the tree, sampled; pages that processes share count in each."""
    error: str | None
    """None if it ended well."""


def measure(
    command: Sequence[str], environment: Mapping[str, str], log: Path, timeout_seconds: float
) -> ProcessMeasurement:
    """Run `command`, its output in `log`; past the time, or when this process is ended, its whole tree is killed.

    Peers start processes in sessions of their own, and leave some behind: all that were ever seen are looked at.
    """
    started, peak, is_late = time.monotonic(), 0.0, False
    seen: set[psutil.Process] = set()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=dict(environment), start_new_session=True
        )
        try:
            while not is_late and not _has_ended(process):
                seen |= _tree(process.pid)
                peak = max(peak, _resident_mib(seen))
                is_late = time.monotonic() - started > timeout_seconds
            seconds = time.monotonic() - started
        finally:
            for each in seen:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            psutil.wait_procs(seen, timeout=_ENDING_SECONDS)
            process.kill()
            process.wait()
    if is_late:
        return ProcessMeasurement(seconds=seconds, peak_mib=peak, error=f"stopped after {timeout_seconds:.0f} s")
    error = _last_line(log) if process.returncode else None
    return ProcessMeasurement(seconds=seconds, peak_mib=peak, error=error)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_SAMPLE_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _tree(pid: int) -> set[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return {root, *root.children(recursive=True)}
    return set()


def _resident_mib(processes: Iterable[psutil.Process]) -> float:
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / 2**20


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    told = [line for line in lines if line]
    errors = [line for line in told if "Error:" in line]
    return (errors or told or ["no output"])[-1][:400]
