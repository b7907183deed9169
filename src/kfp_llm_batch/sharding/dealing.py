"""Which row belongs to which shard: by the hash of its id, so that shards have equal work.

Ids are hashed into buckets, and buckets dealt to shards, the heaviest first, each to the shard that then has least.
Tokens of prompts and rows are both balanced: prompts are read at the cost of the first, and answers, whose lengths
nobody knows, come with the second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kfp_llm_batch.hashes import hash_texts

BUCKETS = 2**16
_BUCKET_SHIFT = np.uint64(64 - 16)
_SUM_WEIGHT = 0.01
"""Of what is second to the fullest measure; it only decides between shards that are nearly equal in that one."""

_GATHERED_ROWS = 2**16
_GATHERED_BYTES = 64 * 2**20
"""Rows are dealt out this many at a time, so that each shard gets batches and not single rows."""

Counts = npt.NDArray[np.int64]


class BucketCounts:
    """Rows and tokens by bucket: one megabyte, however many rows there are."""

    def __init__(self) -> None:
        self.rows: Counts = np.zeros(BUCKETS, np.int64)
        self.tokens: Counts = np.zeros(BUCKETS, np.int64)
        self.longest = 0
        """Tokens of the longest row."""

    def add(self, row_ids: Sequence[str], tokens: Counts) -> None:
        """Count some rows, each with its tokens."""
        buckets = buckets_of(row_ids)
        np.add.at(self.rows, buckets, 1)
        np.add.at(self.tokens, buckets, tokens)
        self.longest = max(self.longest, int(tokens.max(initial=0)))


def buckets_of(row_ids: Sequence[str]) -> Counts:
    """The bucket of each row, the same in every process and for every dataset."""
    return (hash_texts(row_ids) >> _BUCKET_SHIFT).astype(np.int64)


def deal(counts: BucketCounts, shards: int) -> Counts:
    """The shard of each bucket."""
    rows = counts.rows / max(1, counts.rows.sum())
    tokens = counts.tokens / max(1, counts.tokens.sum())
    dealt_rows, dealt_tokens = np.zeros(shards), np.zeros(shards)
    owners: Counts = np.zeros(BUCKETS, np.int64)
    used = np.flatnonzero(counts.rows)
    for bucket in used[np.argsort(-counts.tokens[used], kind="stable")]:
        after_rows, after_tokens = dealt_rows + rows[bucket], dealt_tokens + tokens[bucket]
        shard = np.argmin(np.maximum(after_rows, after_tokens) + _SUM_WEIGHT * (after_rows + after_tokens))
        owners[bucket] = shard
        dealt_rows[shard], dealt_tokens[shard] = after_rows[shard], after_tokens[shard]
    return owners


def gathered(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in larger tables."""
    waiting: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        waiting.append(table)
        rows, size = rows + table.num_rows, size + table.nbytes
        if rows >= _GATHERED_ROWS or size >= _GATHERED_BYTES:
            yield pa.concat_tables(waiting)
            waiting, rows, size = [], 0, 0
    if waiting:
        yield pa.concat_tables(waiting)


def by_shard(table: pa.Table, owners: Counts) -> Iterator[tuple[int, pa.Table]]:
    """The rows of each shard that has some, in their order; `owners` is the shard of each bucket."""
    shards = owners[buckets_of(table["row_id"].to_pylist())]
    order = np.argsort(shards, kind="stable")
    found, counts = np.unique(shards, return_counts=True)
    for shard, rows in zip(found.tolist(), np.split(order, np.cumsum(counts)), strict=False):
        yield shard, table.take(pa.array(rows))
