"""What the stores behind a network share: keys under a root, retries, and errors for people."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar, TypeVar

import requests
import tenacity
import urllib3

from kfp_llm_batch.errors import BatchError, StorageError
from kfp_llm_batch.storage.protocol import StoredObject, check_key

CONNECT_SECONDS = 4.0
READ_SECONDS = 60.0
PATIENCE_SECONDS = 7.0
"""How long a failing request is tried again; with CONNECT_SECONDS an unreachable store is an error within 15 s."""

TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
_NO_ANSWER = (urllib3.exceptions.HTTPError, requests.RequestException)
_TLS = (urllib3.exceptions.SSLError, requests.exceptions.SSLError)

Answer = TypeVar("Answer")


class ObjectExistsError(StorageError):
    """There is such an object already."""

    after_retry = False
    """An earlier try of the same request may have made it."""


class RemoteStore(ABC):
    """An object store behind a network, as far as its client does not matter."""

    refusals: ClassVar[tuple[type[Exception], ...]]
    """What the client raises when the store answers and refuses, or cannot be asked at all."""
    unreachable_remedy: ClassVar[str]
    endpoint: str

    def __init__(self, uri: str, bucket: str, folder: str) -> None:
        self.uri = uri
        self._root = f"{folder.strip('/')}/" if folder.strip("/") else ""
        self._connect(bucket)

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
        name = self._name(key)
        try:
            self._call("write", key, lambda: self._put(name, data, only_if_absent))
        except ObjectExistsError as error:
            # The first try can have arrived while its answer was lost.
            return error.after_retry and self.read(key) == data
        return True

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The whole object."""

    @abstractmethod
    def _connect(self, bucket: str) -> None: ...

    @abstractmethod
    def _list(self, prefix: str) -> Iterator[tuple[str, int, str]]: ...

    @abstractmethod
    def _put(self, name: str, data: bytes, only_if_absent: bool) -> None: ...

    @abstractmethod
    def _is_transient(self, error: BaseException) -> bool: ...

    @abstractmethod
    def _explain(self, what: str, key: str, error: Exception) -> BatchError: ...

    def _name(self, key: str) -> str:
        return self._root + check_key(key)

    def _call(self, verb: str, key: str, action: Callable[[], Answer]) -> Answer:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._is_worth_a_retry),
            # A request that hung until its timeout deserves a second try as well.
            stop=tenacity.stop_all(tenacity.stop_after_attempt(2), tenacity.stop_after_delay(PATIENCE_SECONDS)),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=2),
            reraise=True,
        )
        what = f"Could not {verb} {self.uri}/{key}: the store at {self.endpoint}"
        try:
            return retrying(action)
        except _NO_ANSWER as error:
            raise _unreachable(what, error, self.unreachable_remedy) from error
        except self.refusals as error:
            explained = self._explain(what, key, error)
            if isinstance(explained, ObjectExistsError):
                explained.after_retry = retrying.statistics["attempt_number"] > 1
            raise explained from error
        except OSError as error:
            what = f"Could not {verb} {self.uri}/{key} here: {error.strerror or error}"
            raise StorageError(what, remedy="Check the local folder and its disk.") from error

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
