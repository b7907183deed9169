"""The runs before this one, read from their manifests."""

from __future__ import annotations

import logging

from kfp_llm_batch.errors import DataError
from kfp_llm_batch.evaluation.manifest import EvaluationManifest
from kfp_llm_batch.manifests import FILE_NAME
from kfp_llm_batch.storage.object_store import ObjectNotFoundError, open_store

MOST_RUNS = 30
EVALUATION_FOLDER = "evaluation"
_LOG = logging.getLogger("kfp_llm_batch")


def earlier_runs(history_uri: str, current: EvaluationManifest) -> list[EvaluationManifest]:
    """The last runs below `history_uri` that were made before the current one, oldest first.

    Args:
        history_uri: Its folders each hold a run, whose scores lie in `evaluation/`.
        current: Left out itself, should it be there already.

    Raises:
        StorageError: The store does not answer or refuses.
    """
    store = open_store(history_uri)
    ending = f"/{EVALUATION_FOLDER}/{FILE_NAME}"
    found = []
    for entry in list(store.list()):
        if not entry.key.endswith(ending):
            continue
        try:
            manifest = EvaluationManifest.from_json(store.read(entry.key), f"{store.uri}/{entry.key}")
        except (DataError, ObjectNotFoundError) as error:
            _LOG.warning("A run is left out of the history: %s", error)
            continue
        if manifest.created_at <= current.created_at and manifest.to_json() != current.to_json():
            found.append(manifest)
    return sorted(found, key=lambda manifest: manifest.created_at)[-MOST_RUNS:]
