"""Answers of earlier runs on their way to the shards of today's job, as if the shards had been begun already.

Each shard would otherwise read all that runs share. The split reads it once and hands every answer to the shard that
has a row of its id now; there it counts only if the row asks the very same request.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from kfp_llm_batch.disk import writing
from kfp_llm_batch.generation.checkpoint import Checkpoint
from kfp_llm_batch.generation.reuse import AnswerWriter
from kfp_llm_batch.manifests import StoredFile
from kfp_llm_batch.sharding.dealing import Counts, buckets_of
from kfp_llm_batch.sharding.job import checkpoint_uri

_LOG = logging.getLogger("kfp_llm_batch")

_GATHERED_ROWS = 2**16
_GATHERED_BYTES = 64 * 2**20
"""Answers are dealt out this many at a time, so that each shard gets blocks of rows and not single ones."""


def hand_out_answers(shared: Checkpoint, owners: Counts, job_uri: str) -> None:
    """Put what runs share into the checkpoints of the shards.

    Args:
        shared: Answers of earlier runs.
        owners: The shard of each bucket of row ids.
        job_uri: Address of the job.

    Raises:
        StorageError: A store does not answer or refuses, or the local disk is full.
    """
    rows = 0
    with (
        writing(Path(tempfile.gettempdir())),
        tempfile.TemporaryDirectory(prefix="kfp-llm-batch-") as name,
        contextlib.ExitStack() as opened,
    ):
        writers: dict[int, AnswerWriter] = {}
        for answers in _gathered(shared.tables()):
            rows += answers.num_rows
            for shard, piece in _by_shard(answers, owners):
                if shard not in writers:
                    target = _Target(checkpoint_uri(job_uri, shard))
                    writers[shard] = opened.enter_context(AnswerWriter(target.save, Path(name, str(shard))))
                writers[shard].add(piece)
    _LOG.info("%d answers of earlier runs at %s are handed out to the shards.", rows, shared.uri)


class _Target:
    """The checkpoint of a shard, whose connections last no longer than an upload."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def save(self, path: Path, part: StoredFile) -> None:
        Checkpoint(self._uri).save(path, part)


def _gathered(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    gathered: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        gathered.append(table)
        rows, size = rows + table.num_rows, size + table.nbytes
        if rows >= _GATHERED_ROWS or size >= _GATHERED_BYTES:
            yield pa.concat_tables(gathered)
            gathered, rows, size = [], 0, 0
    if gathered:
        yield pa.concat_tables(gathered)


def _by_shard(answers: pa.Table, owners: Counts) -> Iterator[tuple[int, pa.Table]]:
    shards = owners[buckets_of(answers["row_id"].to_pylist())]
    for shard in np.unique(shards).tolist():
        yield shard, answers.take(pa.array(np.flatnonzero(shards == shard)))
