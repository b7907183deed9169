"""From a dataset's address to a stream of Arrow batches."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pyarrow as pa

from kfp_llm_batch.dataset.batches import DataFile, DatasetSource, SourceBatch, limited
from kfp_llm_batch.dataset.columnar_readers import columnar_batches, columnar_schema, decompressed
from kfp_llm_batch.dataset.config import FORMATS, DatasetConfig
from kfp_llm_batch.dataset.json_reader import (
    OPENAI_SCHEMA,
    JsonRow,
    json_batches,
    json_rows,
    json_schema,
    looks_like_openai,
    openai_batches,
)
from kfp_llm_batch.dataset.locations import Listing, digest, list_files
from kfp_llm_batch.dataset.rendering import PARAMS_COLUMN
from kfp_llm_batch.dataset.text_readers import SUFFIXES, csv_batches, csv_schema
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.storage.uris import redact, split_uri

EXTENSIONS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
_DELIMITERS = {"csv": ",", "tsv": "\t"}
_SAVED_MARKERS = ("state.json", "dataset_dict.json")


def open_dataset(config: DatasetConfig, working_folder: Path) -> DatasetSource:
    """Open the dataset; files that are not local are fetched into `working_folder`, which must outlive the source.

    Raises:
        ConfigurationError: There is no such dataset, or its format is unknown or mixed.
        DataError: The data cannot be read.
        StorageError: A store or a server did not answer.
    """
    source = _open(config, working_folder)
    return dataclasses.replace(source, batches=lambda: limited(source.batches(), config.limit))


def _open(config: DatasetConfig, working_folder: Path) -> DatasetSource:
    if split_uri(config.uri)[0] == "hf":
        # Importing the library costs more than a second, which reading files need not wait for.
        from kfp_llm_batch.dataset.hub import open_hub_dataset

        return open_hub_dataset(config)
    listing = list_files(config.uri, working_folder)
    marker = _saved_marker(listing)
    if config.format == "saved" or (config.format == "auto" and marker is not None):
        return _open_saved(config, listing, marker)
    if config.split is not None:
        raise ConfigurationError(
            f"{redact(config.uri)} has no splits",
            received=config.split,
            remedy="Leave out dataset_split, or name the split's file in dataset_uri.",
        )
    format_name, names = _format_and_names(config, listing)
    files = _fetched(config, format_name, map(listing.fetch, names), working_folder)
    return _open_files(config, format_name, files, working_folder)


def _fetched(
    config: DatasetConfig, format_name: str, files: Iterator[DataFile], working_folder: Path
) -> list[DataFile]:
    """The files, of which no more are fetched than hold the rows that are asked for."""
    if config.limit is None:
        return list(files)
    fetched: list[DataFile] = []
    missing = config.limit
    for file in files:
        fetched.append(file)
        source = _open_files(config, format_name, [file], working_folder)
        missing -= sum(batch.table.num_rows for batch in limited(source.batches(), missing))
        if missing == 0:
            break
    return fetched


def _saved_marker(listing: Listing) -> str | None:
    """The marker file's name relative to the listing, if the listing is a folder of `save_to_disk`."""
    names = {PurePosixPath(name) for name in listing.names} if listing.is_folder else set()
    for name in sorted(names):
        if name.name in _SAVED_MARKERS and all(name.parent in other.parents for other in names):
            return str(name)
    return None


def _open_saved(config: DatasetConfig, listing: Listing, marker: str | None) -> DatasetSource:
    from kfp_llm_batch.dataset.hub import open_saved_dataset

    if marker is None:
        raise ConfigurationError(
            f"{redact(config.uri)} is not a folder that datasets.save_to_disk wrote", allowed=_SAVED_MARKERS
        )
    files = {name: listing.fetch(name) for name in listing.names}
    data = [file for name, file in files.items() if name.endswith(".arrow")]
    return open_saved_dataset(config, files[marker].path.parent, digest(data))


def _format_and_names(config: DatasetConfig, listing: Listing) -> tuple[str, list[str]]:
    """The one format of the files, and which of them to read."""
    names = [name for name in listing.names if not (listing.is_folder and _is_hidden(name))]
    if not names:
        raise ConfigurationError(
            f"{redact(config.uri)} holds only files whose names start with a dot or an underscore",
            received=listing.names[0],
            remedy="Such files are taken for marks of other tools: rename them, or name one in dataset_uri.",
        )
    known = {name: format_name for name in names if (format_name := _format_of(name))}
    if config.format != "auto":
        wanted = "jsonl" if config.format == "openai" else config.format
        matching = [name for name, format_name in known.items() if format_name == wanted]
        return config.format, matching if listing.is_folder and matching else names
    unknown = [name for name in names if name not in known]
    if not known or (unknown and not listing.is_folder):
        raise ConfigurationError(
            f"{redact(config.uri)}: no extension says what format the data has",
            received=", ".join(unknown[:3]),
            allowed=[*EXTENSIONS, *SUFFIXES],
            remedy=f"Set dataset_format to one of {', '.join(FORMATS[1:])}.",
        )
    _check_one_format(config, known)
    return next(iter(known.values())), list(known)


def _check_one_format(config: DatasetConfig, known: dict[str, str]) -> None:
    if len(set(known.values())) > 1:
        examples = {format_name: name for name, format_name in reversed(known.items())}
        raise ConfigurationError(
            f"{redact(config.uri)} holds files of several formats",
            received=dict(sorted(examples.items())),
            remedy="Choose some with a wildcard, as in folder/*.jsonl, or set dataset_format.",
        )


def _is_hidden(name: str) -> bool:
    """Such as `_SUCCESS` and `.part-0.crc`, which other tools leave beside data."""
    return any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)


def _format_of(name: str) -> str | None:
    suffixes = [suffix for suffix in PurePosixPath(name).suffixes if suffix not in SUFFIXES]
    return EXTENSIONS.get(suffixes[-1].lower()) if suffixes else None


def _open_files(config: DatasetConfig, format_name: str, files: list[DataFile], working_folder: Path) -> DatasetSource:
    batches: Callable[[], Iterator[SourceBatch]]
    if delimiter := _DELIMITERS.get(format_name):
        schema = csv_schema(files, delimiter)
        batches = functools.partial(csv_batches, files, schema, delimiter)
    elif format_name in ("parquet", "arrow"):
        plain = [decompressed(file, working_folder) for file in files]
        schema = columnar_schema(plain, format_name)
        batches = functools.partial(columnar_batches, plain, schema, format_name)
    else:
        format_name, schema, batches = _opened_json(config, format_name, files)
    return DatasetSource(format=format_name, revision=digest(files), schema=schema, batches=batches)


def _opened_json(
    config: DatasetConfig, format_name: str, files: list[DataFile]
) -> tuple[str, pa.Schema, Callable[[], Iterator[SourceBatch]]]:
    """The format that it turned out to be, the schema, and the batches."""

    def rows() -> Iterator[JsonRow]:
        return itertools.islice(json_rows(files, format_name), config.limit)

    if format_name == "openai" or (_may_be_openai(config, format_name) and looks_like_openai(rows())):
        return "openai", OPENAI_SCHEMA, lambda: openai_batches(rows())
    # Neither is bound to one type: contents may be text or parts, and each row has the parameters that it needs.
    variable_columns = (
        {PARAMS_COLUMN} if config.prompt_messages_column is None else {PARAMS_COLUMN, config.prompt_messages_column}
    )
    schema = json_schema(rows(), variable_columns)
    return format_name, schema, lambda: json_batches(rows(), schema, variable_columns)


def _may_be_openai(config: DatasetConfig, format_name: str) -> bool:
    """Where the user says how to make prompts, columns of these names are columns like others."""
    told = config.prompt_template is not None or config.prompt_messages_column is not None
    return config.format == "auto" and format_name == "jsonl" and not told
