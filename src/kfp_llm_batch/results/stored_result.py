"""What stands at an output: the manifest that makes a result, and the files of whichever publications have been there.

The manifest is only ever created where there is none, or put in place of exactly the one that was read, so of several
publications at once each sees those before it. What a killed one has left is used by its next try, or removed by the
next publication.
"""

from __future__ import annotations

from pathlib import Path

from kfp_llm_batch.disk import file_sha256
from kfp_llm_batch.errors import ConfigurationError, DataError, ResultError
from kfp_llm_batch.manifests import FILE_NAME, ResultManifest, StoredFile
from kfp_llm_batch.results.ownership import is_leftover, stored_sizes
from kfp_llm_batch.storage.object_store import ObjectStore, read_if_there


def read_manifest(store: ObjectStore) -> ResultManifest | None:
    """The manifest of the result in `store`, or None.

    Raises:
        ResultError: It is damaged.
    """
    data = stored_manifest(store)
    return None if data is None else parse_manifest(store, data)


def expect_manifest(store: ObjectStore) -> ResultManifest:
    """The manifest of the result in `store`.

    Raises:
        ResultError: There is none, or it is damaged.
    """
    if (manifest := read_manifest(store)) is None:
        raise no_result(store)
    return manifest


def no_result(store: ObjectStore) -> ResultError:
    """The error where a result is expected and there is none."""
    return ResultError(f"There is no result at {store.uri}", remedy=f"A result has a {FILE_NAME}, written last.")


def check_replaceable(live: ResultManifest | None, output_uri: str, *, overwrite: bool) -> None:
    """Refuse to replace the result of other work.

    Raises:
        ConfigurationError: There is one.
    """
    if live is not None and not overwrite:
        raise ConfigurationError(
            f"Another result stands at the output: {in_words(live)}",
            received=output_uri,
            remedy="Choose another output_uri, or set output_overwrite to replace it.",
        )


def in_words(result: ResultManifest) -> str:
    """What a result is, for the message that refuses to replace it."""
    model = result.model.get("uri")
    return f"{result.rows_out} rows of model {model} as {result.output_format}, written {result.created_at}"


def stored_manifest(store: ObjectStore) -> bytes | None:
    """The bytes of the manifest that stands in `store`, or None."""
    return read_if_there(store, FILE_NAME)


def set_manifest(store: ObjectStore, manifest: ResultManifest, replaced: bytes | None) -> bool:
    """Declare a result, in place of exactly the manifest that was read; False if another one came first."""
    data = manifest.to_json().encode()
    if replaced is None:
        return store.write(FILE_NAME, data, only_if_absent=True)
    return store.replace(FILE_NAME, replaced, data)


def remove_leftovers(store: ObjectStore) -> None:
    """Remove the files that no publication can have a use for."""
    # Listed before the manifest is read: a file that comes later may wait for a manifest that comes later.
    keys = [*stored_sizes(store)]
    manifest = stored_manifest(store)
    if manifest is None:
        return
    live = parse_manifest(store, manifest)
    named = {file.path for file in (*live.parts, *live.errors)}
    for key in keys:
        if is_leftover(key, named, manifest):
            store.delete(key)


def parse_manifest(store: ObjectStore, data: bytes) -> ResultManifest:
    """The manifest of the result in `store`.

    Raises:
        ResultError: It is damaged.
    """
    try:
        return ResultManifest.from_json(data, f"{store.uri}/{FILE_NAME}")
    except DataError as error:
        raise ResultError(str(error), remedy="Restore it, or write the result anew with output_overwrite.") from error


def check_file(path: Path, expected: StoredFile) -> None:
    """Compare a local file with its entry in the manifest.

    Raises:
        ResultError: It is missing or has other bytes.
    """
    try:
        digest = file_sha256(path)
    except FileNotFoundError as error:
        raise ResultError(
            f"The manifest names {expected.path}, and there is no such file", received=str(path)
        ) from error
    if digest != expected.sha256:
        raise ResultError(f"{path} is not what the manifest says: its SHA-256 is {digest}", received=expected.sha256)
