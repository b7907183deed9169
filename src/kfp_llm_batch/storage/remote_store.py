"""What the stores behind a network share: keys under a root, retries, and errors for people."""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, TypeVar

import requests
import tenacity
import urllib3

from kfp_llm_batch.disk import disk_error
from kfp_llm_batch.errors import BatchError, StorageError
from kfp_llm_batch.storage.protocol import ObjectNotFoundError, StoredObject, check_key
from kfp_llm_batch.termination import CallCutError, limited_call, sleep

_LOG = logging.getLogger("kfp_llm_batch")

CONNECT_SECONDS = 4.0
READ_SECONDS = 60.0
PATIENCE_SECONDS = 7.0
"""How long a failing request is tried again; with CONNECT_SECONDS an unreachable store is an error within 15 s."""
LONG_PATIENCE_SECONDS = 300.0
"""The same where hours of work wait for the store: it may be restarted or moved meanwhile."""

ABSENT = ""
"""The version of an object that does not exist."""

TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
_NO_ANSWER = (urllib3.exceptions.HTTPError, requests.RequestException)
_TLS = (urllib3.exceptions.SSLError, requests.exceptions.SSLError)

Answer = TypeVar("Answer")


class ChangedObjectError(StorageError):
    """The object has another version than the request was for."""

    after_retry = False
    """An earlier try of the same request may have made it."""


class RemoteStore(ABC):
    """An object store behind a network, as far as its client does not matter."""

    refusals: ClassVar[tuple[type[Exception], ...]]
    """What the client raises when the store answers and refuses, or cannot be asked at all."""
    unreachable_remedy: ClassVar[str]
    endpoint: str

    def __init__(self, uri: str, bucket: str, folder: str, patience_seconds: float) -> None:
        self.uri = uri
        self._patience_seconds = patience_seconds
        self._root = f"{folder.strip('/')}/" if folder.strip("/") else ""
        self._connect(bucket)

    def read(self, key: str) -> bytes:
        """The whole object."""
        return self._ask("read", key, self._get)[0]

    def download(self, key: str, path: Path) -> None:
        """Copy the object into a local file."""
        self._ask("read", key, lambda name: self._download(name, path), path)

    def upload(self, path: Path, key: str) -> None:
        """Store a local file; it appears whole or not at all."""
        self._ask("write", key, lambda name: self._upload(path, name), path)

    def delete(self, key: str) -> None:
        """Remove the object."""
        with contextlib.suppress(ObjectNotFoundError):
            self._ask("delete", key, self._delete)

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """All objects whose key starts with `prefix`."""
        found = self._call("list", prefix, lambda: [*self._list(self._root + prefix)])
        entries = [
            StoredObject(name.removeprefix(self._root), size, version)
            for name, size, version in found
            if name[-1] != "/"
        ]
        # SeaweedFS sorts like a file system: "a/b" before "a-b".
        yield from sorted(entries, key=lambda entry: entry.key)

    def write(self, key: str, data: bytes, *, only_if_absent: bool = False) -> bool:
        """Write bytes in one request."""
        return self._write(key, data, ABSENT if only_if_absent else None)

    def replace(self, key: str, old: bytes, data: bytes) -> bool:
        """Write bytes in one request, which the store refuses if the object has changed since it was read."""
        try:
            found, version = self._ask("read", key, self._get)
            return found == old and self._write(key, data, version)
        except ObjectNotFoundError:
            return False

    def _write(self, key: str, data: bytes, version: str | None) -> bool:
        try:
            self._ask("write", key, lambda name: self._put(name, data, version))
        except ChangedObjectError as error:
            # The first try can have arrived while its answer was lost.
            return error.after_retry and self.read(key) == data
        return True

    @abstractmethod
    def _connect(self, bucket: str) -> None: ...

    @abstractmethod
    def _list(self, prefix: str) -> Iterator[tuple[str, int, str]]: ...

    @abstractmethod
    def _get(self, name: str) -> tuple[bytes, str]:
        """The object and its version."""

    @abstractmethod
    def _download(self, name: str, path: Path) -> None: ...

    @abstractmethod
    def _upload(self, path: Path, name: str) -> None: ...

    @abstractmethod
    def _delete(self, name: str) -> None: ...

    @abstractmethod
    def _put(self, name: str, data: bytes, version: str | None) -> None: ...

    @abstractmethod
    def _is_transient(self, error: BaseException) -> bool: ...

    @abstractmethod
    def _explain(self, what: str, key: str, error: Exception) -> BatchError: ...

    def _ask(self, verb: str, key: str, action: Callable[[str], Answer], path: Path | None = None) -> Answer:
        name = self._root + check_key(key)
        return self._call(verb, key, lambda: action(name), path)

    def _call(self, verb: str, key: str, action: Callable[[], Answer], path: Path | None = None) -> Answer:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._is_worth_a_retry),
            # A request that hung until its timeout deserves a second try as well.
            stop=tenacity.stop_all(tenacity.stop_after_attempt(2), tenacity.stop_after_delay(self._patience_seconds)),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=max(2.0, self._patience_seconds / 30)),
            sleep=sleep,
            before_sleep=self._warn,
            reraise=True,
        )
        what = f"Could not {verb} {self.uri}/{key}: the store at {self.endpoint}"
        try:
            with limited_call():
                return retrying(action)
        except CallCutError:
            raise StorageError(f"{what} failed until the run had to end", remedy=self.unreachable_remedy) from None
        except _NO_ANSWER as error:
            raise _unreachable(what, error, self.unreachable_remedy) from error
        except self.refusals as error:
            explained = self._explain(what, key, error)
            if isinstance(explained, ChangedObjectError):
                explained.after_retry = retrying.statistics["attempt_number"] > 1
            raise explained from error
        except OSError as error:
            raise disk_error(f"Could not {verb} {self.uri}/{key} here", path or Path.cwd(), error) from error

    def _warn(self, state: tenacity.RetryCallState) -> None:
        waited = state.seconds_since_start or 0
        if waited >= PATIENCE_SECONDS and state.outcome:
            _LOG.warning(
                "The store at %s fails for %.0f s (%s); it is tried again for up to %.0f s.",
                self.endpoint,
                waited,
                type(state.outcome.exception()).__name__,
                self._patience_seconds,
            )

    def _is_worth_a_retry(self, error: BaseException) -> bool:
        return (isinstance(error, _NO_ANSWER) and not isinstance(error, _TLS)) or self._is_transient(error)


def refused(what: str, known: tuple[str, str] | None, error: Exception) -> StorageError:
    """The error for a refusal; `known` is what it means and what to do."""
    if known:
        return StorageError(f"{what} {known[0]}", remedy=known[1])
    return StorageError(f"{what} refused: {str(error)[:300]}", remedy="Look at the store's own log.")


def _unreachable(what: str, error: Exception, remedy: str) -> StorageError:
    reason = "could not prove who it is (TLS)" if isinstance(error, _TLS) else "did not answer"
    return StorageError(f"{what} {reason} ({type(error).__name__})", remedy=remedy)
