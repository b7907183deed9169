"""What is loaded into the engine's process before all else."""

from __future__ import annotations

from pathlib import Path

from kfp_llm_batch.engine.decisions import Setting
from kfp_llm_batch.machine import Libraries

_ALLOCATORS = ("libtcmalloc", "libjemalloc", "libmimalloc")
_OPENMP = ("libiomp", "libgomp", "libomp")
"""How the file names of libraries begin that take each other's place."""


def preload_setting(libraries: Libraries) -> Setting:
    """The value of LD_PRELOAD: an allocator and an OpenMP runtime, in front of what is preloaded already.

    A kind that the user has preloaded is left to the user.
    """
    kinds = (
        (
            _preloaded(libraries, _ALLOCATORS),
            libraries.allocator_path,
            "tcmalloc hands out memory faster than glibc",
            "tcmalloc is not installed: Debian's libtcmalloc-minimal4",
        ),
        (
            _preloaded(libraries, _OPENMP),
            libraries.openmp_path,
            "one OpenMP runtime for torch and the engine's kernels",
            "libiomp5 is not installed: PyPI's intel-openmp",
        ),
    )
    added, reasons = [], []
    for present, path, gain, absence in kinds:
        if path and not present:
            added.append(path)
        reasons.append(f"{present} is preloaded already" if present else gain if path else absence)
    return Setting(value=":".join([*added, *libraries.preloaded]), reason="; ".join(reasons))


def openmp_runtime(libraries: Libraries) -> str | None:
    """The file name of the OpenMP runtime that is then loaded first; None if each library brings its own."""
    path = libraries.openmp_path
    return _preloaded(libraries, _OPENMP) or (Path(path).name if path else None)


def _preloaded(libraries: Libraries, prefixes: tuple[str, ...]) -> str | None:
    names = (Path(path).name for path in libraries.preloaded)
    return next((name for name in names if name.startswith(prefixes)), None)
