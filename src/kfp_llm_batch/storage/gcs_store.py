"""A folder of a bucket of Google Cloud Storage; the only module that imports the client of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import google.auth.exceptions as google_auth
from google.api_core import exceptions as google_errors
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption

from kfp_llm_batch.errors import BatchError, ConfigurationError, StorageError
from kfp_llm_batch.storage import refusals as refusal_texts
from kfp_llm_batch.storage.protocol import ObjectNotFoundError
from kfp_llm_batch.storage.remote_store import (
    CONNECT_SECONDS,
    READ_SECONDS,
    TRANSIENT_STATUS,
    ChangedObjectError,
    RemoteStore,
    refused,
)


class GcsStore(RemoteStore):
    """A folder of a bucket of Google Cloud Storage."""

    refusals = (google_errors.GoogleAPICallError, google_auth.GoogleAuthError, DataCorruption, ValueError)
    unreachable_remedy = refusal_texts.UNREACHABLE_GCS

    def _connect(self, bucket: str) -> None:
        emulator = os.environ.get("STORAGE_EMULATOR_HOST")
        self.endpoint = emulator or "https://storage.googleapis.com"
        self._limits = {"timeout": (CONNECT_SECONDS, READ_SECONDS), "retry": None}
        try:
            client = storage.Client(project=None, credentials=AnonymousCredentials() if emulator else None)
        except google_auth.GoogleAuthError as error:
            raise ConfigurationError(
                f"{self.uri} needs Google credentials: {error}", remedy=refusal_texts.NO_GCS_CREDENTIALS
            ) from error
        self._bucket = client.bucket(bucket)

    def _list(self, prefix: str) -> Iterator[tuple[str, int, str]]:
        for blob in self._bucket.list_blobs(prefix=prefix, **self._limits):
            yield blob.name, blob.size, str(blob.etag)

    def _get(self, name: str) -> tuple[bytes, str]:
        blob = self._bucket.blob(name)
        return bytes(blob.download_as_bytes(**self._limits)), str(blob.generation)

    def _download(self, name: str, path: Path) -> None:
        self._bucket.blob(name).download_to_filename(str(path), **self._limits)

    def _upload(self, path: Path, name: str) -> None:
        self._bucket.blob(name).upload_from_filename(str(path), **self._limits)

    def _delete(self, name: str) -> None:
        self._bucket.blob(name).delete(**self._limits)

    def _put(self, name: str, data: bytes, version: str | None) -> None:
        condition = {} if version is None else {"if_generation_match": int(version or 0)}
        self._bucket.blob(name).upload_from_string(data, **condition, **self._limits)

    def _explain(self, what: str, key: str, error: Exception) -> BatchError:
        if isinstance(error, google_auth.GoogleAuthError):
            return StorageError(f"{what} got no valid credentials: {error}", remedy=refusal_texts.NO_GCS_CREDENTIALS)
        if isinstance(error, google_errors.NotFound) and self._bucket_exists():
            return ObjectNotFoundError(f"There is no object {self.uri}/{key}")
        if isinstance(error, google_errors.PreconditionFailed):
            return ChangedObjectError(f"The object {self.uri}/{key} is not as it was")
        if isinstance(error, google_errors.GoogleAPICallError | DataCorruption):
            return refused(what, refusal_texts.GCS_REFUSALS.get(int(getattr(error, "code", 0) or 0)), error)
        return ConfigurationError(f"{what} cannot be asked for this: {error}", remedy="Correct the address.")

    def _is_transient(self, error: BaseException) -> bool:
        if isinstance(error, google_errors.GoogleAPICallError):
            return error.code in TRANSIENT_STATUS
        return isinstance(error, google_auth.TransportError | DataCorruption)

    def _bucket_exists(self) -> bool:
        return self._call("list", "", self._is_listed)

    def _is_listed(self) -> bool:
        # Listing needs fewer rights than looking at the bucket itself.
        try:
            next(iter(self._bucket.list_blobs(max_results=1, **self._limits)), None)
        except google_errors.NotFound:
            return False
        except google_errors.GoogleAPICallError as error:
            if self._is_transient(error):
                raise
        return True
