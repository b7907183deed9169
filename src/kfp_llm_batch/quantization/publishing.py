"""A checkpoint at an address: weights first, then what belongs to them, config.json, and the manifest last."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.manifests import FILE_NAME, Manifest
from kfp_llm_batch.models.cache import file_digests
from kfp_llm_batch.models.resolving import Model
from kfp_llm_batch.quantization.layers import LayerPlan
from kfp_llm_batch.storage.object_store import ObjectStore, open_store, read_if_there

KIND = "quantized checkpoint"
_CONFIG = "config.json"
"""A folder without it is no model, so that nobody loads one that is half written."""


@dataclass(frozen=True, kw_only=True)
class CheckpointManifest(Manifest):
    """What a checkpoint is made from, and what it holds."""

    created_at: str
    """UTC, ISO 8601."""
    scheme: str
    source: Mapping[str, Any]
    """URI, revision and digest of the original."""
    files: Mapping[str, str]
    """Name to SHA-256."""
    layers_quantized: int
    layers_left: Mapping[str, str]
    evaluation: Mapping[str, float]
    kind: str = KIND


def write_manifest(folder: Path, model: Model, scheme: str, plan: LayerPlan, evaluation: Mapping[str, float]) -> None:
    """Describe the finished checkpoint in `folder`, made from `model`, in a file beside its others."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != FILE_NAME)
    CheckpointManifest(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        scheme=scheme,
        source=_identity(model),
        files=file_digests(folder, names),
        layers_quantized=len(plan.quantized),
        layers_left=plan.left,
        evaluation=evaluation,
    ).save(folder)


def check_output(output_uri: str, model: Model, scheme: str, *, overwrite: bool) -> None:
    """Prove, before the work, that the checkpoint may and can be written there.

    Raises:
        ConfigurationError: Another checkpoint or something of someone else stands there.
        StorageError: The store does not answer or refuses.
    """
    store = open_store(output_uri)
    existing = _existing(store)
    is_same = existing.get("source") == _identity(model) and existing.get("scheme") == scheme
    if existing and not is_same and not overwrite:
        raise _occupied(store)
    key = f"probe-{secrets.token_hex(8)}"
    store.write(key, b"")
    store.delete(key)


def publish_checkpoint(folder: Path, output_uri: str, *, overwrite: bool) -> None:
    """Upload the checkpoint in `folder`; the same one twice is one, and another one is replaced with `overwrite`.

    Raises:
        ConfigurationError: Another checkpoint or something of someone else stands there.
        StorageError: The store does not answer or refuses.
    """
    store = open_store(output_uri)
    files: dict[str, str] = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))["files"]
    existing = _existing(store)
    is_same = existing.get("files") == files
    if is_same and files.keys() <= {entry.key for entry in store.list()}:
        return
    if existing and not is_same and not overwrite:
        raise _occupied(store)
    for name in (FILE_NAME, _CONFIG, *existing.get("files", ())):
        store.delete(name)
    for name in sorted(files, key=lambda name: (name == _CONFIG, not name.endswith(".safetensors"), name)):
        store.upload(folder / name, name)
    store.upload(folder / FILE_NAME, FILE_NAME)


def _existing(store: ObjectStore) -> dict[str, Any]:
    """The manifest of the checkpoint that stands there; empty if none does and nothing else is in the way."""
    data = read_if_there(store, FILE_NAME)
    if data is None:
        found, is_ours = {}, all(entry.key != _CONFIG for entry in store.list(_CONFIG))
    else:
        found = _parsed(data)
        is_ours = found.get("kind") == KIND
    if not is_ours:
        raise ConfigurationError(
            "Something that this component did not write stands at the output, and is not replaced",
            received=store.uri,
            remedy="Choose another output_uri, or move it away.",
        )
    return found


def _parsed(data: bytes) -> dict[str, Any]:
    """What a manifest says; empty if it is none."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _identity(model: Model) -> dict[str, Any]:
    return {"uri": model.uri, "revision": model.revision, "digest": model.digest}


def _occupied(store: ObjectStore) -> ConfigurationError:
    return ConfigurationError(
        "Another quantized checkpoint stands at the output",
        received=store.uri,
        remedy="Choose another output_uri, or set output_overwrite to replace it.",
    )
