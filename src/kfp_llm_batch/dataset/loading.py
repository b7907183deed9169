"""The step `load_dataset`: open a dataset, render its rows, write the prompts."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from kfp_llm_batch.dataset.batches import DatasetSource, SourceBatch, first_line, reading
from kfp_llm_batch.dataset.carried_types import as_text, check_storable
from kfp_llm_batch.dataset.config import FORMATS, DatasetConfig
from kfp_llm_batch.dataset.messages import Prompt, RowFaultError
from kfp_llm_batch.dataset.prompt_writing import PromptRow, PromptWriter
from kfp_llm_batch.dataset.rendering import PARAMS_COLUMN, Row, check_column, make_renderer
from kfp_llm_batch.dataset.sources import open_dataset
from kfp_llm_batch.errors import BatchError, ConfigurationError, DataError, StorageError
from kfp_llm_batch.manifests import FILE_NAME, Checksum, PromptsManifest
from kfp_llm_batch.row_ids import RowIds
from kfp_llm_batch.row_log import RowLog
from kfp_llm_batch.schemas import check_source_columns
from kfp_llm_batch.storage.uris import redact

__all__ = ["FORMATS", "DatasetConfig", "load_dataset"]

_LOG = logging.getLogger("kfp_llm_batch")
_FAULTS_SHOWN = 10


def load_dataset(config: DatasetConfig, output_folder: Path) -> PromptsManifest:
    """Turn a dataset into a folder of prompts; its manifest is written last.

    A row that cannot become a prompt is kept, with the reason in its column `fault`.

    Args:
        config: The dataset, and how its rows become prompts.
        output_folder: Where the prompts go; an earlier load in it is replaced.

    Raises:
        ConfigurationError: A parameter does not fit the dataset, or there is no such dataset.
        DataError: The data cannot be read, ids are missing or repeated, or every row is faulty.
        StorageError: A store did not answer, or the folder cannot be written.
    """
    with _writing(output_folder), tempfile.TemporaryDirectory(prefix="dataset-") as working_folder:
        output_folder.mkdir(parents=True, exist_ok=True)
        (output_folder / FILE_NAME).unlink(missing_ok=True)
        source = open_dataset(config, Path(working_folder))
        manifest = _load(config, source, output_folder)
        manifest.save(output_folder)
    _LOG.info("Loaded %d rows of %s (%s)", manifest.rows, manifest.source_uri, manifest.source_format)
    return manifest


def _load(config: DatasetConfig, source: DatasetSource, folder: Path) -> PromptsManifest:
    loading = _Loading(config, source)
    progress = RowLog("Loaded")
    with PromptWriter(folder, loading.carried) as writer:
        for batch in source.batches():
            writer.write(loading.rows_of(batch), batch.table)
            progress.log(loading.rows)
    loading.check_faults()
    loading.ids.check_unique(writer.shard)
    return PromptsManifest(
        fingerprint=loading.checksum.hexdigest(),
        rows=loading.rows,
        rows_with_faults=loading.faults,
        source_uri=redact(config.uri),
        source_format=source.format,
        source_revision=source.revision,
        parameters=_parameters(config),
        shards=(writer.finish(),),
    )


def _parameters(config: DatasetConfig) -> dict[str, Any]:
    """The configuration as JSON, for a manifest."""
    examples = config.examples and [dict(example) for example in config.examples]
    return {**vars(config), "uri": redact(config.uri), "examples": examples}


class _Loading:
    """What is known across batches while rows become prompts."""

    def __init__(self, config: DatasetConfig, source: DatasetSource) -> None:
        is_openai = source.format == "openai"
        columns = source.schema.names
        if config.id_column is not None and is_openai:
            raise ConfigurationError(
                "dataset_id_column does not apply to OpenAI batch lines, whose ids are their custom_id",
                received=config.id_column,
                remedy="Leave it out.",
            )
        if config.id_column is not None:
            check_column("dataset_id_column", config.id_column, columns)
        self._render = make_renderer(config, columns, is_openai=is_openai)
        self._uri = redact(config.uri)
        check_storable(source.schema, self._uri)
        self.ids = RowIds("custom_id" if is_openai else config.id_column)
        self.carried = [] if is_openai else _carried(config, source.schema)
        self._carried_names = {field.name for field in self.carried}
        self.checksum = Checksum()
        self.rows = 0
        self.faults = 0
        self._first_faults: list[str] = []

    def rows_of(self, batch: SourceBatch) -> list[PromptRow]:
        """Render one batch."""
        with reading(f"{self._uri} after row {self.rows}"):
            stored = batch.table.to_pylist() or [{}] * batch.table.num_rows
        rows = stored if batch.rows is None else batch.rows
        pairs = enumerate(zip(rows, stored, strict=True))
        return [self._prompt_row(row, values, batch.faults.get(index)) for index, (row, values) in pairs]

    def check_faults(self) -> None:
        """Log the first faulty rows; a dataset that has no other rows is an error.

        Raises:
            DataError: There are rows, and every one is faulty.
        """
        if not self.faults:
            return
        shown = "; ".join(self._first_faults)
        if self.faults == self.rows:
            raise DataError(
                f"Every row of {self._uri} is faulty ({self.rows} in all; rows are counted from 1): {shown}",
                remedy="Correct the template or the data.",
            )
        _LOG.warning(
            "%d of %d rows are faulty and will get the status invalid (rows are counted from 1): %s",
            self.faults,
            self.rows,
            shown,
        )

    def _prompt_row(self, row: Row, stored: Row, source_fault: str | None) -> PromptRow:
        """Render `row` as it came; `stored` has the types of all rows, and is what goes along."""
        row_id = self.ids.take(row, self.rows)
        self.rows += 1
        fault = None if source_fault is None else f"bad_text: {source_fault}"
        prompt = Prompt(messages=[])
        if fault is None:
            prompt, fault = self._rendered(row)
        if fault is not None:
            self._note(fault)
        params = None if prompt.params is None else _to_json(prompt.params)
        content = _to_json([prompt.messages, prompt.params, fault, self._carried_values(stored)])
        # A counted id says nothing about the row; without it the checksum does not depend on the rows' order.
        self.checksum.add(row_id if self.ids.column else "", content)
        return PromptRow(row_id=row_id, messages=prompt.messages, params=params, fault=fault, size=len(content))

    def _rendered(self, row: Row) -> tuple[Prompt, str | None]:
        try:
            return self._render(row), None
        except RowFaultError as fault:
            return Prompt(messages=[]), str(fault)

    def _note(self, fault: str) -> None:
        self.faults += 1
        if len(self._first_faults) < _FAULTS_SHOWN:
            self._first_faults.append(f"row {self.rows}: {fault}")

    def _carried_values(self, row: Row) -> dict[str, Any]:
        """Null values left out, so that a column that a file format cannot omit changes nothing."""
        return {name: value for name, value in row.items() if value is not None and name in self._carried_names}


def _carried(config: DatasetConfig, schema: pa.Schema) -> list[pa.Field]:
    """The source columns that go along, those left out that become our own."""
    taken = {PARAMS_COLUMN}
    taken |= {"row_id"} & {config.id_column}
    taken |= {"messages"} & {config.messages_column}
    carried = [field for field in schema if field.name not in taken]
    check_source_columns(field.name for field in carried)
    return carried


_to_json = json.JSONEncoder(sort_keys=True, default=as_text, check_circular=False).encode


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except BatchError:
        raise
    except OSError as error:
        raise StorageError(
            f"The prompts cannot be written to {folder}: {first_line(error)}",
            remedy="Check that it is a folder, that it may be written, and that the disk has room.",
        ) from error
