"""What of an output is this product's own: only that is ever replaced or removed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.manifests import FILE_NAME
from kfp_llm_batch.storage.protocol import ObjectNotFoundError, ObjectStore

_FOLDERS = ("parts/", "errors/")

CHECKPOINT_FOLDER = "checkpoint"
"""Beside the parts; holds finished rows of a run that has no result yet."""

_CHECKPOINT_PART = re.compile(rf"{CHECKPOINT_FOLDER}/part-[0-9a-f]{{32}}\.parquet")
_OWN_NAME = re.compile(
    r"(?:parts/part|errors/errors)(?:-\d{5})?-\d{5,}-[0-9a-f]{12}(?:-([0-9a-f]{8}))?\.(?:parquet|jsonl)", re.ASCII
)
_OWN_FIELDS = {"schema_version", "keys_checksum", "parts"}


def own_name(stem: str, index: int, sha256: str, replaced: bytes | None, extension: str) -> str:
    """The name of a published file: its content, and the manifest that its publication replaces.

    Args:
        stem: `parts/part` or `errors/errors`, with the number of a shard behind it if the result is made of shards.
        index: Place among the files of the kind.
        sha256: Of its content.
        replaced: The bytes of the manifest that stands there; None if there is none.
        extension: Of the format.
    """
    suffix = "" if replaced is None else f"-{manifest_digest(replaced)}"
    return f"{stem}-{index:05d}-{sha256[:12]}{suffix}.{extension}"


def manifest_digest(manifest: bytes) -> str:
    """What stands for a manifest in the names of the files that are to replace it."""
    return hashlib.sha256(manifest).hexdigest()[:8]


def is_leftover(key: str, named: Collection[str], manifest: bytes) -> bool:
    """Whether no publication, finished or under way, can have a use for this file.

    A manifest is set only in place of the very manifest that the names of its files were made for. A file that waits
    for another one than that which stands has therefore lost for good.

    Args:
        key: The file.
        named: What the manifest that stands names.
        manifest: Its bytes.
    """
    match = _OWN_NAME.fullmatch(key)
    return match is not None and key not in named and match[1] != manifest_digest(manifest)


def remove_checkpoint(store: ObjectStore) -> None:
    """Remove the parts of a checkpoint beside the output."""
    for entry in store.list(f"{CHECKPOINT_FOLDER}/"):
        if _CHECKPOINT_PART.fullmatch(entry.key):
            store.delete(entry.key)


def stored_sizes(store: ObjectStore) -> dict[str, int]:
    """Bytes of each file under `parts/` and `errors/`."""
    return {entry.key: entry.size for folder in _FOLDERS for entry in store.list(folder)}


def check_ownership(store: ObjectStore) -> None:
    """Refuse an output where something of someone else stands in the way of a result.

    Raises:
        ConfigurationError: Under parts/ or errors/ is a file that no publication wrote, or the manifest is no result's.
    """
    keys = stored_sizes(store)
    # Readers of parts/ would take a stranger's file for rows, and the audit would fail.
    if foreign := next((key for key in keys if not _OWN_NAME.fullmatch(key)), None):
        raise ConfigurationError(
            f"At the output, parts/ and errors/ may hold only files of a result, and {foreign} is none",
            received=store.uri,
            remedy="Choose another output_uri, or move the file away.",
        )
    if not _is_own_manifest(store, bool(keys)):
        raise ConfigurationError(
            f"The {FILE_NAME} at the output is not that of a result of this product, and is not replaced",
            received=store.uri,
            remedy="Choose another output_uri, or move the file away.",
        )


def _is_own_manifest(store: ObjectStore, has_parts: bool) -> bool:
    """Whether it may be replaced; one that cannot be parsed belongs to the parts that it stands beside."""
    try:
        fields = json.loads(store.read(FILE_NAME))
    except ObjectNotFoundError:
        return True
    except (ValueError, RecursionError):
        return has_parts
    return isinstance(fields, dict) and fields.keys() >= _OWN_FIELDS
