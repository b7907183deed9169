"""A folder of a bucket of an S3 store; the only module that imports the client of S3."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import certifi
import urllib3
from minio import Minio
from minio.credentials import providers
from minio.credentials.credentials import Credentials
from minio.error import InvalidResponseError, MinioException, S3Error

from kfp_llm_batch.errors import BatchError, ConfigurationError
from kfp_llm_batch.storage import refusals as refusal_texts
from kfp_llm_batch.storage.protocol import ObjectNotFoundError
from kfp_llm_batch.storage.remote_store import (
    ABSENT,
    CONNECT_SECONDS,
    READ_SECONDS,
    TRANSIENT_STATUS,
    ChangedObjectError,
    RemoteStore,
    refused,
)
from kfp_llm_batch.storage.s3_settings import S3Settings

_GARBLED = (ElementTree.ParseError, UnicodeDecodeError)
"""What the client makes of an answer that is cut, or not what its headers say."""
_BLOCK = 1 << 20
_TRANSIENT_CODES = {"ConditionalRequestConflict", "InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown"}


class S3Store(RemoteStore):
    """A folder of a bucket of an S3 store."""

    refusals = (MinioException, ElementTree.ParseError, ValueError)
    unreachable_remedy = refusal_texts.UNREACHABLE_S3

    def _connect(self, bucket: str) -> None:
        self._bucket = bucket
        settings = S3Settings.from_environment()
        self.endpoint = settings.endpoint
        self._credentials = _s3_credentials(settings)
        try:
            self._client = Minio(
                settings.host,
                secure=settings.is_secure,
                region=settings.region,
                credentials=self._credentials,
                http_client=_pool(urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)),
            )
        except ValueError as error:
            raise ConfigurationError(f"The S3 store at {self.endpoint} cannot be used: {error}") from error

    def _list(self, prefix: str) -> Iterator[tuple[str, int, str]]:
        for entry in self._client.list_objects(self._bucket, prefix=prefix, recursive=True):
            yield str(entry.object_name), int(entry.size or 0), str(entry.etag)

    def _get(self, name: str) -> tuple[bytes, str]:
        with self._opened(name) as response:
            return b"".join(response.stream(_BLOCK)), str(response.headers["ETag"])

    def _download(self, name: str, path: Path) -> None:
        with path.open("wb") as target, self._opened(name) as response:
            target.writelines(response.stream(_BLOCK))

    def _upload(self, path: Path, name: str) -> None:
        self._client.fput_object(self._bucket, name, str(path))  # a large one goes in parts

    def _delete(self, name: str) -> None:
        self._client.remove_object(self._bucket, name)

    def _put(self, name: str, data: bytes, version: str | None) -> None:
        condition = {"If-None-Match": "*"} if version == ABSENT else {"If-Match": version} if version else {}
        # The public put_object would store this header as the user's metadata.
        headers: dict[str, str | list[str] | tuple[str]] = {**condition}
        try:
            self._client._execute("PUT", self._bucket, name, body=data, headers=headers)
        except S3Error as error:
            # Some stores know no If-Match: two writers at the same moment are then the last one's.
            if error.code != "NotImplemented" or "If-Match" not in headers:
                raise
            self._put(name, data, None)

    def _is_transient(self, error: BaseException) -> bool:
        if isinstance(error, S3Error):
            return error.code in _TRANSIENT_CODES or error.response.status in TRANSIENT_STATUS
        if isinstance(error, _GARBLED):
            return True
        # A proxy before the store answers in HTML or plain text.
        status = error._code if isinstance(error, InvalidResponseError) else getattr(error, "status_code", None)
        return status in TRANSIENT_STATUS

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[urllib3.BaseHTTPResponse]:
        response = self._client.get_object(self._bucket, name)
        try:
            yield response
        finally:
            response.close()
            response.release_conn()

    def _explain(self, what: str, key: str, error: Exception) -> BatchError:
        if isinstance(error, ValueError) and not isinstance(error, _GARBLED):
            return self._misconfigured(what, error)
        code = str(error.code) if isinstance(error, S3Error) else ""
        if code == "NoSuchKey":
            return ObjectNotFoundError(f"There is no object {self.uri}/{key}")
        if code == "PreconditionFailed":
            return ChangedObjectError(f"The object {self.uri}/{key} is not as it was")
        return refused(what, refusal_texts.S3_REFUSALS.get(code), error)

    def _misconfigured(self, what: str, error: ValueError) -> BatchError:
        try:
            self._credentials.retrieve()
        except ValueError:
            return ConfigurationError(
                f"{what} needs credentials and none were found", remedy=refusal_texts.NO_S3_CREDENTIALS
            )
        return ConfigurationError(f"{what} cannot be asked for this: {error}", remedy="Correct the address.")


def _pool(timeout: urllib3.Timeout) -> urllib3.PoolManager:
    certificates = os.environ.get("SSL_CERT_FILE") or certifi.where()
    return urllib3.PoolManager(timeout=timeout, retries=False, maxsize=10, ca_certs=certificates)


def _s3_credentials(settings: S3Settings) -> providers.Provider:
    if settings.access_key and settings.secret_key:
        return providers.StaticProvider(settings.access_key, settings.secret_key)
    roles = _RoleProvider(http_client=_pool(urllib3.Timeout(connect=1.0, read=5.0)))
    return providers.ChainedProvider([providers.EnvAWSProvider(), providers.AWSConfigProvider(), roles])


class _RoleProvider(providers.IamAwsProvider):
    """The credentials of the pod's or the machine's role; none where the address that hands them out is silent."""

    def retrieve(self) -> Credentials:
        """Ask for the role's credentials; a ValueError tells the chain that there are none."""
        try:
            return super().retrieve()
        except urllib3.exceptions.HTTPError as error:
            raise ValueError("no role") from error
