"""How large a model's weights are, without fetching them."""

from __future__ import annotations

import logging

from kfp_llm_batch.models.resolving import is_weights, resolve_model, split_model_uri
from kfp_llm_batch.storage.object_store import open_store

_LOG = logging.getLogger("kfp_llm_batch")


def weight_bytes(uri: str, revision: str | None) -> int | None:
    """Bytes of the model's safetensors files; None if the hub does not say.

    Raises:
        ConfigurationError: There is no such model.
        StorageError: The store that holds it does not answer.
    """
    scheme, rest = split_model_uri(uri)
    if scheme in ("s3", "gs"):
        return sum(entry.size for entry in open_store(uri).list() if is_weights(entry.key))
    if scheme == "hf":
        return _hub_bytes(rest, revision)
    return resolve_model(uri, revision).facts.weight_bytes


def _hub_bytes(name: str, revision: str | None) -> int | None:
    from huggingface_hub import HfApi

    # HTTPError is that of the hub library's client, which it does not declare exported.
    from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]

    try:
        files = HfApi().model_info(name, revision=revision, files_metadata=True).siblings or []
    except (HFValidationError, HTTPError, OSError) as error:
        _LOG.warning("The hub does not say how large %s is: %s", name, type(error).__name__)
        return None
    return sum(file.size or 0 for file in files if is_weights(file.rfilename))
