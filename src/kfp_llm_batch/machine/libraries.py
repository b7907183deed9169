"""Allocators and OpenMP runtimes: those that this process has loaded, and those that the engine's could load first."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from kfp_llm_batch.machine.facts import Libraries
from kfp_llm_batch.machine.kernel_files import read_text

_KNOWN = re.compile(r"/(lib(?:tcmalloc|jemalloc|mimalloc|iomp5|gomp|omp)[^/\s]*)$", re.MULTILINE)


def read_libraries(root: Path, architecture: str) -> Libraries:
    """Look into this process, and into the usual folders of an architecture."""
    return Libraries(
        mapped=tuple(sorted(set(_KNOWN.findall(read_text(root / "proc/self/maps"))))),
        preloaded=tuple(re.findall(r"[^:\s]+", os.environ.get("LD_PRELOAD", ""))),
        allocator_path=_first_file(root, _allocators(architecture)),
        openmp_path=_first_file(root, _openmp_runtimes(root)),
    )


def _allocators(architecture: str) -> Iterable[Path]:
    folders = (f"usr/lib/{architecture}-linux-gnu", "usr/lib64", "usr/lib", "usr/local/lib")
    return (Path("/", folder, "libtcmalloc_minimal.so.4") for folder in folders)


def _openmp_runtimes(root: Path) -> Iterable[Path]:
    """Intel's, and that of torch, which the engine's kernels need as well when threads are bound."""
    yield Path(sys.prefix, "lib/libiomp5.so")
    packages = Path(sysconfig.get_path("purelib"))
    for folder in ("torch/lib", "torch.libs"):
        found = sorted((root / packages.relative_to("/") / folder).glob("libgomp*.so*"))
        yield from (packages / folder / path.name for path in found)


def _first_file(root: Path, paths: Iterable[Path]) -> str | None:
    return next((str(path) for path in paths if (root / path.relative_to("/")).is_file()), None)
