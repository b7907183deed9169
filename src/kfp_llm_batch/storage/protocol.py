"""What every object store offers, wherever its bytes lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kfp_llm_batch.errors import ConfigurationError, StorageError


@dataclass(frozen=True)
class StoredObject:
    """One object of a store."""

    key: str
    """Relative to the store's root."""
    size: int
    """Bytes."""
    version: str = field(default="", compare=False)
    """Another one whenever the object was written anew, whatever the store derives it from."""


class ObjectNotFoundError(StorageError):
    """The store answered, and there is no such object."""


class ObjectStore(Protocol):
    """A folder-like place for whole objects, rooted at an address; every failure is a StorageError."""

    @property
    def uri(self) -> str:
        """The root, fit for messages."""

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """All objects whose key starts with `prefix`, at any depth, sorted by key; none is no error."""

    def read(self, key: str) -> bytes:
        """The whole object, for small ones; ObjectNotFoundError if there is none."""

    def download(self, key: str, path: Path) -> None:
        """Copy the object into a local file; ObjectNotFoundError if there is none."""

    def upload(self, path: Path, key: str) -> None:
        """Store a local file; the object appears whole or not at all."""

    def write(self, key: str, data: bytes, *, only_if_absent: bool = False) -> bool:
        """Store bytes in one step; False if `only_if_absent` and there was such an object already."""

    def replace(self, key: str, old: bytes, data: bytes) -> bool:
        """Store bytes in place of `old` in one step; False if the object holds others by now, or is gone."""

    def delete(self, key: str) -> None:
        """Remove the object; none is no error."""


def check_key(key: str) -> str:
    """The key itself, if it stays under the store's root.

    Raises:
        ConfigurationError: It is empty, absolute, no name of an object or climbs out; a manifest can hold such keys.
    """
    if not key or key.startswith("/") or "\0" in key or not {".", ".."}.isdisjoint(key.split("/")):
        raise ConfigurationError("An object's key must stay under the store's root", received=key)
    return key
