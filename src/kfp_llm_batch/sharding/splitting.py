"""The prompts of a dataset written anew as one file a shard, in two passes over the rows and bounded memory."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kfp_llm_batch.dataset.batches import slices
from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.disk import file_sha256, new_file
from kfp_llm_batch.sharding.dealing import BucketCounts, by_shard, deal, gathered
from kfp_llm_batch.sharding.job import Shard

TOKENS_PER_MESSAGE = 4
"""What chat templates put around one."""

_PIECES = r"[0-9]|[A-Za-z]{1,8}|[^\sA-Za-z0-9]"
"""On GSM8K the real tokens of a question differ from these by 7 % (standard deviation), from its bytes by 11 %."""
_FILES_BESIDE = 128
"""That a process has open for other reasons."""


def count_buckets(prompts: Prompts) -> BucketCounts:
    """First pass: what there is to deal out."""
    counts = BucketCounts()
    for _, batch in prompts.batches():
        counts.add(batch.column("row_id").to_pylist(), prompt_tokens(batch.column("messages")))
    return counts


def prompt_tokens(messages: pa.Array) -> npt.NDArray[np.int64]:
    """About how many tokens each row has, by the column `messages` of some prompts."""
    contents = messages.flatten().field("content")
    pieces = pc.fill_null(pc.count_substring_regex(contents, _PIECES), 0).to_numpy(zero_copy_only=False)
    counts = pc.fill_null(pc.list_value_length(messages), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    sums = np.concatenate([[0], np.cumsum(pieces, dtype=np.int64)])
    ends = np.cumsum(counts)
    tokens: npt.NDArray[np.int64] = sums[ends] - sums[ends - counts] + TOKENS_PER_MESSAGE * counts
    return tokens


def write_shards(prompts: Prompts, counts: BucketCounts, shards: int, folder: Path) -> list[Shard]:
    """Second pass: write `folder`/00000.arrow and so on; the same prompts are the same bytes.

    Raises:
        StorageError: The disk is full, or does not take the files for another reason.
    """
    owners = deal(counts, shards)
    paths = [shard_file(folder, shard) for shard in range(shards)]
    _allow_files(shards)
    with contextlib.ExitStack() as opened:
        files = [opened.enter_context(new_file(path)) for path in paths]
        writers = [opened.enter_context(pa.ipc.new_file(str(path), prompts.schema)) for path in files]
        for table in gathered(pa.Table.from_batches([batch]) for _, batch in prompts.batches()):
            for shard, piece in by_shard(table, owners):
                _write(writers[shard], piece)
    tokens = np.bincount(owners, weights=counts.tokens, minlength=shards).astype(int).tolist()
    rows = np.bincount(owners, weights=counts.rows, minlength=shards).astype(int).tolist()
    return [
        Shard(rows=rows[shard], tokens=tokens[shard], bytes=path.stat().st_size, sha256=file_sha256(path))
        for shard, path in enumerate(paths)
    ]


def shard_file(folder: Path, shard: int) -> Path:
    """Where the prompts of a shard are written."""
    return folder / f"{shard:05d}.arrow"


def _write(writer: pa.RecordBatchFileWriter, rows: pa.Table) -> None:
    for batch in rows.combine_chunks().to_batches():
        for piece in slices(batch):
            writer.write_batch(piece)


def _allow_files(count: int) -> None:
    """Raise the number of files that this process may have open, as far as it is allowed to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _FILES_BESIDE
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
