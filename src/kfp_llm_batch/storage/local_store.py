"""The object store that is a folder of this machine, or a mounted volume."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from kfp_llm_batch.disk import disk_error
from kfp_llm_batch.errors import StorageError
from kfp_llm_batch.storage.protocol import ObjectNotFoundError, StoredObject, check_key

_TEMPORARY = re.compile(r"\.kfp-llm-batch-[0-9a-f]{16}\.tmp")

_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP}

_ATTEMPTS = 100
"""To create a file in a folder that others remove whenever it is empty."""


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
        source = self._path(key)
        with (
            _explained("read", source),
            source.open("rb") as content,
            _explained("write", path, needed=source.stat().st_size),
            path.open("wb") as target,
        ):
            shutil.copyfileobj(content, target, 1 << 20)

    def upload(self, path: Path, key: str) -> None:
        """Copy a file in, under its name only once all bytes are on the disk."""
        with (
            _explained("read", path),
            path.open("rb") as source,
            _explained("write", self._path(key), needed=path.stat().st_size),
            self._new_file(key) as (temporary, target),
        ):
            shutil.copyfileobj(source, target, 1 << 20)
            _finish(target)
            temporary.replace(self._path(key))

    def write(self, key: str, data: bytes, *, only_if_absent: bool = False) -> bool:
        """Write bytes in one step."""
        path = self._path(key)
        with _explained("write", path, needed=len(data)), self._new_file(key) as (temporary, target):
            target.write(data)
            _finish(target)
            if not only_if_absent:
                temporary.replace(path)
                return True
            with contextlib.suppress(FileExistsError):
                _create(path, temporary, data)
                return True
            return False

    def replace(self, key: str, old: bytes, data: bytes) -> bool:
        """Write bytes in place of others in one step."""
        path = self._path(key)
        with _explained("write", path, needed=len(data)), _locked(path.parent):
            try:
                if path.read_bytes() != old:
                    return False
            except FileNotFoundError:
                return False
            return self.write(key, data)

    def delete(self, key: str) -> None:
        """Remove the file, and the folders that it leaves empty: other stores have none."""
        path = self._path(key)
        with _explained("delete", path):
            path.unlink(missing_ok=True)
            for folder in path.parents[: path.parents.index(self._root)]:
                try:
                    folder.rmdir()
                except OSError:
                    return

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    @contextlib.contextmanager
    def _new_file(self, key: str) -> Iterator[tuple[Path, BinaryIO]]:
        temporary, target = _create_temporary(self._path(key).parent)
        try:
            with target:
                yield temporary, target
        finally:
            temporary.unlink(missing_ok=True)


def _create_temporary(folder: Path) -> tuple[Path, BinaryIO]:
    temporary = folder / f".kfp-llm-batch-{secrets.token_hex(8)}.tmp"
    for _ in range(_ATTEMPTS):
        # Another process may remove the folder in between, since it is empty.
        with contextlib.suppress(FileNotFoundError):
            folder.mkdir(parents=True, exist_ok=True)
            return temporary, temporary.open("xb")
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait for other processes that hold the folder; where it cannot be locked (some network disks), go on without."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


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
def _explained(verb: str, path: Path, needed: int | None = None) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if isinstance(error, FileNotFoundError) and verb != "write":
            raise ObjectNotFoundError(f"There is no file {error.filename or path}") from error
        raise disk_error(f"Could not {verb} {path}", path, error, needed) from error
