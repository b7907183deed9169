"""Folders that are made once, checked before every reuse, and safe with two makers at a time."""

from __future__ import annotations

import glob
import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from kfp_llm_batch.caches import cache_folder
from kfp_llm_batch.disk import file_sha256
from kfp_llm_batch.errors import BatchError, ConfigurationError

_LOG = logging.getLogger("kfp_llm_batch")
_DIGESTS = ".digests.json"
_WAIT_SECONDS = 3600


def cached_folder(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `models/<name>` of the cache; `make` fills a temporary one that is renamed when whole.

    A folder whose files are not what was made, byte for byte, is made anew.

    Raises:
        ConfigurationError: The cache cannot be written.
    """
    parent = cache_folder() / "models"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(parent / f".{name}.lock", timeout=_WAIT_SECONDS):
            return _checked(parent / name) or _made(parent / name, make)
    except BatchError:
        raise
    except OSError as error:
        raise ConfigurationError(
            f"The model cache cannot be written: {error.strerror or error}",
            received=str(parent),
            remedy="Set KFP_LLM_BATCH_CACHE to a folder that can be written and has room.",
        ) from error


def file_digests(folder: Path, names: list[str]) -> dict[str, str]:
    """SHA-256 of each named file."""
    return {name: file_sha256(folder / name) for name in names}


def _files(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != _DIGESTS)
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def _checked(folder: Path) -> Path | None:
    try:
        expected = json.loads((folder / _DIGESTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if expected == file_digests(folder, _files(folder)):
        return folder
    _LOG.warning("The cached folder %s was changed or damaged; it is made anew.", folder)
    return None


def _made(folder: Path, make: Callable[[Path], None]) -> Path:
    for left in folder.parent.glob(f".{glob.escape(folder.name)}-*"):  # by a maker that was killed
        shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        make(temporary)
        digests = file_digests(temporary, _files(temporary))
        (temporary / _DIGESTS).write_text(json.dumps(digests, indent=2), encoding="utf-8")
        _share(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        return temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _share(folder: Path) -> None:
    """Let other users read it, as pods of one volume are; safetensors writes for its own user alone."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
