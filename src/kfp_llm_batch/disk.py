"""Writing to the local disk: files that appear whole, and failures, a full disk above all, as errors for people."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kfp_llm_batch.errors import BatchError, StorageError

_NO_RIGHT = "Give this user the right to it, or choose another folder."
_FULL = "Free some space there, or choose a larger disk; in a pod raise the limit of its ephemeral storage or volume."
_IN_THE_WAY = "A file stands where a folder should be: move it away, or choose another folder."
_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT)
_REMEDIES = {
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EROFS: "Mount the volume writable, or choose another folder.",
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
    errno.EISDIR: "A folder stands where a file should be: move it away, or choose another folder.",
    errno.ENAMETOOLONG: "Choose a shorter path.",
}


def disk_error(what: str, path: Path, error: OSError, needed_bytes: int | None = None) -> StorageError:
    """The error for people.

    Args:
        what: What failed, as in "Could not write /folder/file".
        path: Tells which disk; need not exist.
        error: What the system said.
        needed_bytes: Size of what was written, where it is known.
    """
    # pyarrow gives the number, with a text of its own.
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL_ERRORS:
        needed = "" if needed_bytes is None else f"; it needs {needed_bytes:,} bytes"
        reason += f"{needed}; {_free_bytes(path):,} bytes are free"
    return StorageError(f"{what}: {reason}", remedy=_REMEDIES.get(error.errno or 0, "Check the folder and its disk."))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's errors while `path` is written into a StorageError."""
    try:
        yield
    except BatchError:
        raise
    except OSError as error:
        raise disk_error(f"Could not write {path}", path, error) from error


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` if all goes well and is removed if not.

    Raises:
        StorageError: The disk is full, or does not take the file for another reason.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that goes with all that is in it.

    Raises:
        StorageError: There is no place for it, or the disk is full before its use ends.
    """
    with contextlib.ExitStack() as made:
        with writing(Path(os.environ.get("TMPDIR", "/tmp"))):
            folder = Path(made.enter_context(tempfile.TemporaryDirectory(prefix="kfp-llm-batch-")))
        try:
            yield folder
        except OSError as error:
            if error.errno in _FULL_ERRORS:
                raise disk_error(f"Could not write {folder}", folder, error) from error
            raise


def file_sha256(path: Path) -> str:
    """Digest of a whole file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _free_bytes(path: Path) -> int:
    folder = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(folder).free
