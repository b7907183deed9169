"""Answers that runs share: what one has generated, later ones need not.

    <reuse_uri>/<digest of model and sampling>/settings.json          what the digest stands for, for people
                                               part-<digest>.parquet  answers with their request keys and provenance

Runs only add parts, named by their content, so that any number of them work side by side. An answer is used for a
row that asks the very same request; the folder alone bounds what is read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kfp_llm_batch import termination
from kfp_llm_batch.disk import temporary_folder
from kfp_llm_batch.generation.checkpoint import Checkpoint
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.parts import KeepPart
from kfp_llm_batch.manifests import StoredFile
from kfp_llm_batch.schemas import COMPLETION_COLUMNS, FAULTY, PROVENANCE
from kfp_llm_batch.storage.object_store import open_store
from kfp_llm_batch.storage.uris import join_uri

BYTES_PER_PART = 64 * 2**20
"""A daily run then adds a part or a few, whatever its rows: a year is one listing."""

_SETTINGS = "settings.json"


def shared_answers(config: GenerationConfig) -> Checkpoint | None:
    """Where answers of this model and sampling are shared; None if the run shares none.

    Raises:
        ConfigurationError: The address or the store's settings are wrong.
        StorageError: The store does not answer or refuses.
    """
    if not config.reuse_uri:
        return None
    values = {
        "model_uri": config.model_uri,
        "model_revision": config.model_revision,
        "sampling": dataclasses.asdict(config.sampling),
    }
    settings = (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()
    digest = hashlib.sha256(settings).hexdigest()[:16]
    uri = join_uri(config.reuse_uri, digest)
    # Also proves, before hours of work, that answers can be written there.
    open_store(uri).write(_SETTINGS, settings, only_if_absent=True)
    return Checkpoint(uri)


def share_answers(
    shared: Checkpoint, folder: Path, parts: Iterable[StoredFile], provenance: Mapping[str, str | None]
) -> None:
    """Add the answers that this run has generated to those that runs share; `provenance` is theirs.

    Answers of the local result that have one are of other runs, and shared already.

    Raises:
        StorageError: The store does not answer or refuses, or the local disk is full.
        InterruptedRunError: SIGTERM has come.
    """
    with temporary_folder() as working_folder, AnswerWriter(shared.save, working_folder / "part.parquet") as writer:
        for part in parts:
            termination.check()
            writer.add(_own_answers(folder / part.path, provenance))


def _own_answers(path: Path, provenance: Mapping[str, str | None]) -> pa.Table:
    table = pq.read_table(path, columns=list(COMPLETION_COLUMNS))
    is_answered = pc.invert(pc.is_in(table["status"], pa.array(FAULTY)))
    answers = table.filter(pc.and_(table["provenance"].is_null(), is_answered))
    index = answers.schema.get_field_index("provenance")
    return answers.set_column(index, "provenance", pa.array([dict(provenance)] * answers.num_rows, PROVENANCE))


class AnswerWriter:
    """Joins answers to parts of BYTES_PER_PART.

    Args:
        keep: Takes every part as it is full.
        path: A file for the part that is being written.
    """

    def __init__(self, keep: KeepPart, path: Path) -> None:
        self._keep = keep
        self._path = path
        self._writer: pq.ParquetWriter | None = None
        self._rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self._close()
        elif self._writer:
            self._writer.close()

    def add(self, answers: pa.Table) -> None:
        """Take some answers, our columns alone."""
        if not answers.num_rows:
            return
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, answers.schema, compression="zstd")
        self._writer.write_table(answers)
        self._rows += answers.num_rows
        if self._path.stat().st_size >= BYTES_PER_PART:
            self._close()

    def _close(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._keep(self._path, StoredFile.of(self._path, self._path.name, self._rows))
        self._writer, self._rows = None, 0
