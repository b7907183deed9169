"""What is loaded into the engine's process before all else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kfp_llm_batch.engine.decisions import Setting
from kfp_llm_batch.machine import Libraries


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """Libraries that take each other's place."""

    prefixes: tuple[str, ...]
    gain: str
    absence: str

    def present(self, libraries: Libraries) -> str | None:
        """The file name of the one that is preloaded already."""
        names = (Path(path).name for path in libraries.preloaded)
        return next((name for name in names if name.startswith(self.prefixes)), None)


_ALLOCATOR = _Kind(
    prefixes=("libtcmalloc", "libjemalloc", "libmimalloc"),
    gain="tcmalloc hands out memory faster than glibc",
    absence="tcmalloc is not installed: Debian's libtcmalloc-minimal4",
)
_OPENMP = _Kind(
    prefixes=("libiomp", "libgomp", "libomp"),
    gain="one OpenMP runtime for torch and the engine's kernels",
    absence="libiomp5 is not installed: PyPI's intel-openmp",
)


def preload_setting(libraries: Libraries) -> Setting:
    """The value of LD_PRELOAD: an allocator and an OpenMP runtime, in front of what is preloaded already.

    A kind that the user has preloaded is left to the user.
    """
    kinds = ((_ALLOCATOR, libraries.allocator_path), (_OPENMP, libraries.openmp_path))
    added, reasons = [], []
    for kind, path in kinds:
        present = kind.present(libraries)
        if path and not present:
            added.append(path)
        reasons.append(f"{present} is preloaded already" if present else kind.gain if path else kind.absence)
    return Setting(value=":".join([*added, *libraries.preloaded]), reason="; ".join(reasons))


def openmp_runtime(libraries: Libraries) -> str | None:
    """The file name of the OpenMP runtime that is then loaded first; None if each library brings its own."""
    path = libraries.openmp_path
    return _OPENMP.present(libraries) or (Path(path).name if path else None)
