"""The step `load_dataset`: open a dataset, render its rows, write the prompts."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kfp_llm_batch.dataset.batch_rendering import FAULTS_SHOWN, BatchRenderer, RenderedBatch
from kfp_llm_batch.dataset.batches import DatasetSource, first_line
from kfp_llm_batch.dataset.carried_types import check_storable
from kfp_llm_batch.dataset.config import FORMATS, DatasetConfig
from kfp_llm_batch.dataset.prompt_writing import PromptWriter
from kfp_llm_batch.dataset.rendering import check_column
from kfp_llm_batch.dataset.sources import open_dataset
from kfp_llm_batch.errors import BatchError, ConfigurationError, DataError, StorageError
from kfp_llm_batch.garbage import rare_garbage_collection
from kfp_llm_batch.manifests import FILE_NAME, Checksum, PromptsManifest
from kfp_llm_batch.row_ids import RowIds
from kfp_llm_batch.row_log import RowLog
from kfp_llm_batch.storage.uris import redact

__all__ = ["FORMATS", "DatasetConfig", "load_dataset"]

_LOG = logging.getLogger("kfp_llm_batch")


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
    with (
        rare_garbage_collection(),
        _writing(output_folder),
        tempfile.TemporaryDirectory(prefix="dataset-") as working_folder,
    ):
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
    with (
        PromptWriter(folder, loading.renderer.carried) as writer,
        contextlib.closing(loading.renderer.all(source.batches())) as batches,
    ):
        for rendered in batches:
            loading.take(rendered)
            for batch in writer.write(rendered.batches, rendered.preview):
                loading.ids.note(batch.column("row_id"))
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
        self._uri = redact(config.uri)
        check_storable(source.schema, self._uri)
        self.renderer = BatchRenderer(config, source.schema, is_openai)
        self.ids = RowIds("custom_id" if is_openai else config.id_column)
        self.checksum = Checksum()
        self.rows = 0
        self.faults = 0
        self._first_faults: list[str] = []

    def take(self, rendered: RenderedBatch) -> None:
        """Count one batch."""
        self.rows += rendered.rows
        self.faults += rendered.faults
        self._first_faults = (self._first_faults + rendered.first_faults)[:FAULTS_SHOWN]
        self.checksum.include(rendered.checksum, rendered.rows)

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
