"""The object store that is a folder of this machine, or a mounted volume."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from kfp_llm_batch.errors import StorageError
from kfp_llm_batch.storage.protocol import ObjectNotFoundError, StoredObject, check_key

_TEMPORARY = re.compile(r"\.kfp-llm-batch-[0-9a-f]{16}\.tmp")

_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP}

_REMEDIES = {
    errno.EACCES: "Give this user the right to it, or choose another folder.",
    errno.EPERM: "Give this user the right to it, or choose another folder.",
    errno.EROFS: "Mount the volume writable, or choose another folder.",
    errno.ENOSPC: "Free some space, or choose another disk.",
    errno.EDQUOT: "Free some space, or choose another disk.",
    errno.ENOTDIR: "A file stands where a folder should be: move it away, or choose another folder.",
    errno.EEXIST: "A file stands where a folder should be: move it away, or choose another folder.",
    errno.EISDIR: "A folder stands where a file should be: move it away, or choose another folder.",
    errno.ENAMETOOLONG: "Choose a shorter path.",
}


class LocalStore:
    """A folder; it need not exist before the first write."""

    def __init__(self, folder: str) -> None:
        self._root = Path(folder).expanduser().absolute()

    @property
    def uri(self) -> str:
        """The folder's path."""
        return str(self._root)

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """All files whose path starts with `prefix`, without those that are still being written."""
        start = self._root / prefix.rpartition("/")[0]
        with _explained("list", start):
            found = [entry for entry in _walk(start, self._root) if entry.key.startswith(prefix)]
        yield from sorted(found, key=lambda entry: entry.key)

    def read(self, key: str) -> bytes:
        """The whole file."""
        path = self._path(key)
        with _explained("read", path):
            return path.read_bytes()

    def download(self, key: str, path: Path) -> None:
        """Copy the file."""
        with _explained("copy", self._path(key)), self._path(key).open("rb") as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)

    def upload(self, path: Path, key: str) -> None:
        """Copy a file in, under its name only once all bytes are on the disk."""
        with (
            _explained("write", self._path(key)),
            path.open("rb") as source,
            self._new_file(key) as (temporary, target),
        ):
            shutil.copyfileobj(source, target, 1 << 20)
            _finish(target)
            temporary.replace(self._path(key))

    def write(self, key: str, data: bytes, *, only_if_absent: bool = False) -> bool:
        """Write bytes in one step."""
        path = self._path(key)
        with _explained("write", path), self._new_file(key) as (temporary, target):
            target.write(data)
            _finish(target)
            if not only_if_absent:
                temporary.replace(path)
                return True
            with contextlib.suppress(FileExistsError):
                _create(path, temporary, data)
                return True
            return False

    def delete(self, key: str) -> None:
        """Remove the file."""
        path = self._path(key)
        with _explained("delete", path):
            path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    @contextlib.contextmanager
    def _new_file(self, key: str) -> Iterator[tuple[Path, BinaryIO]]:
        folder = self._path(key).parent
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".kfp-llm-batch-{secrets.token_hex(8)}.tmp"
        try:
            with temporary.open("xb") as target:
                yield temporary, target
        finally:
            temporary.unlink(missing_ok=True)


def _walk(start: Path, root: Path) -> Iterator[StoredObject]:
    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for folder, _, names in os.walk(start, onerror=fail):
        for name in names:
            # A file can go between the listing and the look at its size.
            with contextlib.suppress(FileNotFoundError):
                path = Path(folder, name)
                if not _TEMPORARY.fullmatch(name):
                    yield StoredObject(path.relative_to(root).as_posix(), path.stat().st_size)


def _create(path: Path, written: Path, data: bytes) -> None:
    """Make `path` unless the name is taken, which is a FileExistsError; `written` holds the data already."""
    try:
        # A hard link, unlike a rename, fails if the name is taken, and shows the file whole.
        path.hardlink_to(written)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # Without hard links a reader may find the file unfinished, but there is still only one winner.
        with path.open("xb") as target:
            try:
                target.write(data)
                _finish(target)
            except OSError:
                path.unlink(missing_ok=True)
                raise


def _finish(target: BinaryIO) -> None:
    target.flush()
    os.fsync(target.fileno())


@contextlib.contextmanager
def _explained(verb: str, path: Path) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if isinstance(error, FileNotFoundError) and verb != "write":
            raise ObjectNotFoundError(f"There is no file {error.filename or path}") from error
        raise StorageError(
            f"Could not {verb} {path}: {error.strerror or error}",
            remedy=_REMEDIES.get(error.errno or 0, "Check the folder and its disk."),
        ) from error
