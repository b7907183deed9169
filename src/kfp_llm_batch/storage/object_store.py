"""Object stores behind one protocol."""

from __future__ import annotations

from kfp_llm_batch.storage.local_store import LocalStore
from kfp_llm_batch.storage.protocol import ObjectNotFoundError, ObjectStore, StoredObject
from kfp_llm_batch.storage.remote_store import LONG_PATIENCE_SECONDS, PATIENCE_SECONDS
from kfp_llm_batch.storage.uris import STORE_SCHEMES, check_segments, redact, split_uri

__all__ = [
    "LONG_PATIENCE_SECONDS",
    "ObjectNotFoundError",
    "ObjectStore",
    "StoredObject",
    "open_store",
    "read_if_there",
]


def open_store(uri: str, *, patience_seconds: float = PATIENCE_SECONDS) -> ObjectStore:
    """Open the store at `uri`: a path or file://, s3:// (minio://), gs://; nothing is sent yet.

    Args:
        uri: The root.
        patience_seconds: How long a store that does not answer, or answers that it is busy or broken, is asked again;
            a refusal is final at once.

    Raises:
        ConfigurationError: The address is none of a store, or the store's settings are wrong.
    """
    scheme, rest = split_uri(uri, STORE_SCHEMES)
    if scheme == "file":
        return LocalStore(rest)
    check_segments(uri, rest)
    bucket, _, folder = rest.partition("/")
    address = redact(uri).rstrip("/")
    # A client takes a tenth of a second to import: who stays on a disk needs none, who names a bucket one.
    if scheme == "s3":
        from kfp_llm_batch.storage.s3_store import S3Store

        return S3Store(address, bucket, folder, patience_seconds)
    from kfp_llm_batch.storage.gcs_store import GcsStore

    return GcsStore(address, bucket, folder, patience_seconds)


def read_if_there(store: ObjectStore, key: str) -> bytes | None:
    """The whole object, for small ones, or None."""
    try:
        return store.read(key)
    except ObjectNotFoundError:
        return None
