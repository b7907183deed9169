"""Answers of earlier runs on their way to the shards of today's job, as if the shards had been begun already.

Each shard would otherwise read all that runs share. The split reads it once and hands every answer to the shard that
has a row of its id now; there it counts only if the row asks the very same request.
"""

from __future__ import annotations

import contextlib
import logging

from kfp_llm_batch.disk import temporary_folder
from kfp_llm_batch.generation.checkpoint import Checkpoint
from kfp_llm_batch.generation.parts import KeepPart
from kfp_llm_batch.generation.reuse import AnswerWriter
from kfp_llm_batch.sharding.dealing import Counts, by_shard, gathered
from kfp_llm_batch.sharding.job import checkpoint_uri

_LOG = logging.getLogger("kfp_llm_batch")


def hand_out_answers(shared: Checkpoint, owners: Counts, job_uri: str) -> None:
    """Put what runs share into the checkpoints of a job's shards; `owners` is the shard of each bucket.

    Raises:
        StorageError: A store does not answer or refuses, or the local disk is full.
    """
    rows = 0
    with temporary_folder() as working_folder, contextlib.ExitStack() as opened:
        writers: dict[int, AnswerWriter] = {}
        for answers in gathered(shared.tables()):
            rows += answers.num_rows
            for shard, piece in by_shard(answers, owners):
                if shard not in writers:
                    keep = _upload_to(checkpoint_uri(job_uri, shard))
                    writers[shard] = opened.enter_context(AnswerWriter(keep, working_folder / str(shard)))
                writers[shard].add(piece)
    _LOG.info("%d answers of earlier runs at %s are handed out to the shards.", rows, shared.uri)


def _upload_to(uri: str) -> KeepPart:
    """Stores a part in a checkpoint; the connections last no longer than an upload, since there are many shards."""
    return lambda path, part: Checkpoint(uri).save(path, part)
