"""Results in object storage: the check of a destination, publishing, finding and fetching."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

from kfp_llm_batch import termination
from kfp_llm_batch.disk import writing
from kfp_llm_batch.errors import ResultError, StorageError
from kfp_llm_batch.manifests import FILE_NAME, ResultManifest
from kfp_llm_batch.results.formats import check_output_format
from kfp_llm_batch.results.ownership import CHECKPOINT_FOLDER, check_ownership
from kfp_llm_batch.results.publication import Publication, check_file, parse_manifest
from kfp_llm_batch.storage.object_store import LONG_PATIENCE_SECONDS, ObjectNotFoundError, ObjectStore, open_store
from kfp_llm_batch.storage.protocol import check_key
from kfp_llm_batch.storage.uris import redact

__all__ = [
    "CHECKPOINT_FOLDER",
    "check_destination",
    "check_file",
    "existing_result",
    "fetch_result",
    "publish_result",
    "read_manifest",
]

_LOG = logging.getLogger("kfp_llm_batch")


def check_destination(output_uri: str) -> None:
    """Prove, before hours of work, that a result can be written there: a small object is written, read and deleted.

    Raises:
        ConfigurationError: The address or the store's settings are wrong, or files of others stand in the way.
        StorageError: The store does not answer or refuses.
    """
    store = open_store(output_uri)
    key, data = f"probe-{secrets.token_hex(8)}", secrets.token_bytes(16)
    store.write(key, data, only_if_absent=True)
    try:
        if store.read(key) != data:
            raise StorageError(f"The store at {store.uri} gives other bytes than were written")
        if store.write(key, b"", only_if_absent=True):
            _LOG.warning("The store at %s overwrites on a conditional put: two writers could mix.", store.uri)
    finally:
        store.delete(key)
    check_ownership(store)


def existing_result(output_uri: str) -> ResultManifest | None:
    """The manifest of the result at `output_uri`, or None.

    Raises:
        ResultError: There is a manifest, and it is damaged.
    """
    return read_manifest(open_store(output_uri))


def read_manifest(store: ObjectStore) -> ResultManifest | None:
    """The manifest of the result in `store`, or None; a damaged one is a ResultError."""
    try:
        return parse_manifest(store, store.read(FILE_NAME))
    except ObjectNotFoundError:
        return None


def fetch_result(output_uri: str, folder: Path) -> ResultManifest:
    """Download the result at `output_uri` into a local result folder, in the format that it has.

    Raises:
        ResultError: There is none, or a file is not what the manifest says.
        InterruptedRunError: SIGTERM has come.
    """
    manifest = existing_result(output_uri)
    if manifest is None:
        raise ResultError(f"There is no result at {redact(output_uri)}", remedy=f"A result has a {FILE_NAME}.")
    # The store has just answered: what fails from now on passes.
    store = open_store(output_uri, patience_seconds=LONG_PATIENCE_SECONDS)
    for file in (*manifest.parts, *manifest.errors):
        termination.check()
        path = folder / check_key(file.path)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        store.download(file.path, path)
        check_file(path, file)
    manifest.save(folder)
    return manifest


def publish_result(
    folder: Path, output_uri: str, *, output_format: str = "parquet", overwrite: bool = False
) -> ResultManifest:
    """Write the local result in `folder` to `output_uri`; the same result, or the same work, twice is one result.

    Work is the same if the same rows were asked the same; its answers may differ. Without `overwrite` the result that
    stands is then the outcome. A partial result gives way to one with more rows of the same dataset.

    Args:
        folder: A finished result folder, with its manifest.
        output_uri: Where to write.
        output_format: `parquet`, `jsonl` or `openai`.
        overwrite: Replace another result that stands there; readers see the old one or the new one. A partial result
            never replaces a whole one.

    Returns:
        The manifest of the result that stands there now.

    Raises:
        ConfigurationError: Another result stands there, or files of others stand in the way.
        ResultError: The local result is not what its manifest says.
        StorageError: The store does not answer or refuses.
    """
    check_output_format(output_format)
    store = open_store(output_uri, patience_seconds=LONG_PATIENCE_SECONDS)
    return Publication(folder, store, output_format, overwrite=overwrite).run()
