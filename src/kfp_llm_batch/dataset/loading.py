"""The step `load_dataset`: open a dataset, render its rows, write the prompts."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

from kfp_llm_batch.dataset.batch_rendering import BatchRenderer, RenderedBatch
from kfp_llm_batch.dataset.batches import DatasetSource
from kfp_llm_batch.dataset.carried_types import check_storable
from kfp_llm_batch.dataset.config import DatasetConfig
from kfp_llm_batch.dataset.prompt_writing import PromptWriter
from kfp_llm_batch.dataset.rendering import check_column
from kfp_llm_batch.dataset.sources import open_dataset
from kfp_llm_batch.disk import temporary_folder, writing
from kfp_llm_batch.errors import ConfigurationError, DataError
from kfp_llm_batch.garbage import rare_garbage_collection
from kfp_llm_batch.manifests import FILE_NAME, Checksum, PromptsManifest
from kfp_llm_batch.row_log import RowLog
from kfp_llm_batch.storage.uris import redact

__all__ = ["DatasetConfig", "load_dataset"]

_FAULTS_SHOWN = 10
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
        temporary_folder() as working_folder,
        writing(output_folder),
    ):
        output_folder.mkdir(parents=True, exist_ok=True)
        (output_folder / FILE_NAME).unlink(missing_ok=True)
        source = open_dataset(config, working_folder)
        manifest = _load(config, source, output_folder)
        manifest.save(output_folder)
    _LOG.info("Loaded %d rows of %s (%s)", manifest.rows, manifest.source_uri, manifest.source_format)
    return manifest


def _load(config: DatasetConfig, source: DatasetSource, folder: Path) -> PromptsManifest:
    uri = redact(config.uri)
    _check_id_column(config, source)
    check_storable(source.schema, uri)
    renderer = BatchRenderer(config, source.schema, is_openai=source.format == "openai")
    counts = _Counts()
    progress = RowLog("Loaded")
    with (
        PromptWriter(folder, renderer.schema) as writer,
        contextlib.closing(renderer.all(source.batches())) as batches,
    ):
        for rendered in batches:
            counts.take(rendered)
            for batch in writer.write(rendered.batches, rendered.preview):
                renderer.ids.note(batch.column("row_id"))
            progress.log(counts.rows)
    counts.check_faults(uri)
    renderer.ids.check_unique(writer.shard)
    return PromptsManifest(
        fingerprint=counts.checksum.hexdigest(),
        rows=counts.rows,
        rows_with_faults=counts.faults,
        source_uri=uri,
        source_format=source.format,
        source_revision=source.revision,
        parameters=_parameters(config),
        shards=(writer.finish(),),
    )


def _check_id_column(config: DatasetConfig, source: DatasetSource) -> None:
    if config.id_column is None:
        return
    if source.format == "openai":
        raise ConfigurationError(
            "dataset_id_column does not apply to OpenAI batch lines, whose ids are their custom_id",
            received=config.id_column,
            remedy="Leave it out.",
        )
    check_column("dataset_id_column", config.id_column, source.schema.names)


def _parameters(config: DatasetConfig) -> dict[str, Any]:
    """The configuration as JSON, for a manifest."""
    examples = config.prompt_examples and [dict(example) for example in config.prompt_examples]
    return {**vars(config), "uri": redact(config.uri), "prompt_examples": examples}


class _Counts:
    """What is known of the rows across batches."""

    def __init__(self) -> None:
        self.checksum = Checksum()
        self.rows = 0
        self.faults = 0
        self._first_faults: list[str] = []

    def take(self, rendered: RenderedBatch) -> None:
        """Count one batch."""
        self.checksum.include(rendered.checksum, rendered.rows)
        self.rows += rendered.rows
        self.faults += len(rendered.faults)
        self._first_faults = (self._first_faults + rendered.faults)[:_FAULTS_SHOWN]

    def check_faults(self, uri: str) -> None:
        """Log the first faulty rows; a dataset that has no other rows is an error.

        Raises:
            DataError: There are rows, and every one is faulty.
        """
        if not self.faults:
            return
        shown = "; ".join(self._first_faults)
        if self.faults == self.rows:
            raise DataError(
                f"Every row of {uri} is faulty ({self.rows} in all; rows are counted from 1): {shown}",
                remedy="Correct the template or the data.",
            )
        _LOG.warning(
            "%d of %d rows are faulty and will get the status invalid (rows are counted from 1): %s",
            self.faults,
            self.rows,
            shown,
        )
