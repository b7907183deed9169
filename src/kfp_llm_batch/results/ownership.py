"""What of an output is this product's own: only that is ever replaced or removed."""

from __future__ import annotations

import json
import re

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.manifests import FILE_NAME
from kfp_llm_batch.storage.protocol import ObjectNotFoundError, ObjectStore

FOLDERS = ("parts/", "errors/")

_OWN_NAME = re.compile(r"(parts/part|errors/errors)-\d{5,}-[0-9a-f]{12}\.(parquet|jsonl)", re.ASCII)
_OWN_FIELDS = {"schema_version", "keys_checksum", "parts"}


def is_own(key: str) -> bool:
    """Whether an object under `parts/` or `errors/` has a name that publishing gives."""
    return _OWN_NAME.fullmatch(key) is not None


def check_ownership(store: ObjectStore) -> None:
    """Refuse an output where something of someone else stands in the way of a result.

    Raises:
        ConfigurationError: Under parts/ or errors/ is a file that no publication wrote, or the manifest is no result's.
    """
    keys = [entry.key for folder in FOLDERS for entry in store.list(folder)]
    # Readers of parts/ would take a stranger's file for rows, and the audit would fail.
    if foreign := next((key for key in keys if not is_own(key)), None):
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
