"""Datasets that the `datasets` library reads: those of the Hugging Face hub, and folders of `save_to_disk`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from kfp_llm_batch.dataset.batches import (
    BATCH_ROWS,
    DatasetSource,
    SourceBatch,
    conformed,
    reading,
    slices,
)
from kfp_llm_batch.dataset.carried_types import plain_schema, storable_schema
from kfp_llm_batch.dataset.config import DatasetConfig
from kfp_llm_batch.errors import BatchError, ConfigurationError, DataError, StorageError, first_line
from kfp_llm_batch.storage.uris import split_uri

# The root of httpx or of httpx2, by the version of the hub library, which does not declare it exported.
_TRANSPORT_ERRORS = (huggingface_hub.errors.HTTPError, ConnectionError)  # type: ignore[attr-defined]


def open_hub_dataset(config: DatasetConfig) -> DatasetSource:
    """Open a dataset of the hub at one commit; rows are streamed, so a limit reads only what it needs.

    With HF_HUB_OFFLINE=1 it is read from the local hub cache.
    """
    name = split_uri(config.uri)[1].removeprefix("datasets/").rstrip("/")
    with _asking_hub(config, name):
        where, commit = _located(name, config.revision)
        revision = None if Path(where).is_dir() else commit
        splits = datasets.load_dataset(where, name=config.config, revision=revision, streaming=True)
    return _source(config, _chosen_split(config, splits), "hub", commit)


def open_saved_dataset(config: DatasetConfig, folder: Path, digest: str) -> DatasetSource:
    """Open a folder that `save_to_disk` wrote."""
    try:
        loaded = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DataError(
            f"{config.uri} is not a folder that datasets.save_to_disk wrote: {first_line(error)}"
        ) from error
    splits = loaded if isinstance(loaded, datasets.DatasetDict) else {str(loaded.split or "train"): loaded}
    return _source(config, _chosen_split(config, splits), "saved", digest)


def _located(name: str, revision: str | None) -> tuple[str, str]:
    """Where to load the dataset from, and its commit."""
    if huggingface_hub.is_offline_mode():
        folder = huggingface_hub.snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=True)
        return folder, Path(folder).name
    return name, str(huggingface_hub.HfApi().dataset_info(name, revision=revision).sha)


def _chosen_split(config: DatasetConfig, splits: Any) -> Any:
    names = list(splits)
    if config.split is None and len(names) == 1:
        return splits[names[0]]
    if config.split is None:
        raise ConfigurationError(
            f"{config.uri} has several splits and dataset_split does not say which", allowed=names, remedy="Set it."
        )
    if config.split not in names:
        raise ConfigurationError(f"{config.uri} has no such split", received=config.split, allowed=names)
    return splits[config.split]


def _source(config: DatasetConfig, dataset: Any, format_name: str, revision: str) -> DatasetSource:
    schema = _schema(config, dataset)
    batches = functools.partial(_batches, config, dataset, schema)
    return DatasetSource(format=format_name, revision=revision, schema=schema, batches=batches)


def _schema(config: DatasetConfig, dataset: Any) -> pa.Schema:
    if dataset.features is not None:
        return storable_schema(plain_schema(dataset.features.arrow_schema, config.uri))
    with _streaming(config):
        first = next(iter(dataset.with_format("arrow").iter(batch_size=1)), None)
    return pa.schema([]) if first is None else storable_schema(plain_schema(first.schema, config.uri))


def _batches(config: DatasetConfig, dataset: Any, schema: pa.Schema) -> Iterator[SourceBatch]:
    size = BATCH_ROWS if config.limit is None else min(BATCH_ROWS, config.limit)
    with _streaming(config):
        for table in dataset.with_format("arrow").iter(batch_size=size):
            for batch in table.combine_chunks().to_batches():
                for part in slices(batch):
                    yield conformed(part, schema)


@contextlib.contextmanager
def _streaming(config: DatasetConfig) -> Iterator[None]:
    with reading(config.uri):
        try:
            yield
        except _TRANSPORT_ERRORS as error:
            raise _unreachable(config.uri, error) from error
        except datasets.exceptions.DatasetsError as error:
            raise DataError(f"{config.uri} cannot be read: {first_line(error)}") from error


@contextlib.contextmanager
def _asking_hub(config: DatasetConfig, name: str) -> Iterator[None]:
    """Tell apart what the hub and the `datasets` library refuse, by what the reader must do."""
    try:
        yield
    except BatchError:
        raise
    except LocalEntryNotFoundError as error:
        if not huggingface_hub.is_offline_mode():
            raise _unreachable(config.uri, error) from error
        raise ConfigurationError(
            f"HF_HUB_OFFLINE is set, and the hub cache has no dataset {name} at {config.revision or 'main'}",
            remedy="Put it into the cache (HF_HUB_CACHE), or unset HF_HUB_OFFLINE.",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        raise ConfigurationError(
            f"The hub has no dataset {name} at {config.revision or 'main'}, or not for you",
            received=first_line(error),
            remedy="Check name and revision; private and gated datasets need HF_TOKEN.",
        ) from error
    except _TRANSPORT_ERRORS as error:
        raise _unreachable(config.uri, error) from error
    except (HFValidationError, ValueError, RuntimeError, OSError, datasets.exceptions.DatasetsError) as error:
        raise ConfigurationError(
            f"{config.uri} cannot be opened: {first_line(error)}",
            remedy="Check dataset_uri and dataset_config; a dataset that needs its own script cannot be read.",
        ) from error


def _unreachable(uri: str, error: BaseException) -> StorageError:
    return StorageError(
        f"{uri} cannot be fetched from the hub: {first_line(error)}",
        remedy="Check the network and HF_ENDPOINT, then retry; with HF_HUB_OFFLINE=1 the local cache is used.",
    )
