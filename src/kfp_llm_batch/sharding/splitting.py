"""The prompts of a dataset written anew as one file a shard, in two passes over the rows and bounded memory."""

from __future__ import annotations

import contextlib
import hashlib
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kfp_llm_batch.dataset.batches import slices
from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.disk import new_file
from kfp_llm_batch.sharding.dealing import BucketCounts, buckets_of, deal
from kfp_llm_batch.sharding.job import Shard
from kfp_llm_batch.sharding.token_estimates import prompt_tokens

_GATHERED_ROWS = 2**16
_GATHERED_BYTES = 64 * 2**20
"""Rows are dealt out this many at a time, so that each shard gets batches and not single rows."""
_FILES_BESIDE = 128
"""That a process has open for other reasons."""


def count_buckets(prompts: Prompts) -> BucketCounts:
    """First pass: what there is to deal out."""
    counts = BucketCounts()
    for _, batch in prompts.batches():
        counts.add(batch.column("row_id").to_pylist(), prompt_tokens(batch.column("messages")))
    return counts


def write_shards(prompts: Prompts, counts: BucketCounts, shards: int, folder: Path) -> list[Shard]:
    """Second pass: write `folder`/00000.arrow and so on; the same prompts are the same bytes.

    Raises:
        StorageError: The disk is full, or does not take the files for another reason.
    """
    owners = deal(counts, shards)
    paths = [shard_file(folder, shard) for shard in range(shards)]
    with _Writers(paths, prompts.schema) as writers:
        for batches in _gathered(prompts):
            table = pa.Table.from_batches(batches)
            writers.write(table, owners[buckets_of(table["row_id"].to_pylist())])
    tokens = np.bincount(owners, weights=counts.tokens, minlength=shards).astype(int).tolist()
    rows = np.bincount(owners, weights=counts.rows, minlength=shards).astype(int).tolist()
    return [_described(*facts) for facts in zip(paths, rows, tokens, strict=True)]


def shard_file(folder: Path, shard: int) -> Path:
    """Where the prompts of a shard are written."""
    return folder / f"{shard:05d}.arrow"


def _gathered(prompts: Prompts) -> Iterator[list[pa.RecordBatch]]:
    gathered: list[pa.RecordBatch] = []
    for _, batch in prompts.batches():
        gathered.append(batch)
        is_full = sum(entry.num_rows for entry in gathered) >= _GATHERED_ROWS
        if is_full or sum(entry.nbytes for entry in gathered) >= _GATHERED_BYTES:
            yield gathered
            gathered = []
    if gathered:
        yield gathered


class _Writers:
    """One open file a shard."""

    def __init__(self, paths: Sequence[Path], schema: pa.Schema) -> None:
        self._paths = paths
        self._schema = schema

    def __enter__(self) -> _Writers:
        _allow_files(len(self._paths))
        with contextlib.ExitStack() as opened:
            files = [opened.enter_context(new_file(path)) for path in self._paths]
            self._writers = [opened.enter_context(pa.ipc.new_file(str(path), self._schema)) for path in files]
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.__exit__(*error)  # type: ignore[arg-type]

    def write(self, table: pa.Table, owners: npt.NDArray[np.int64]) -> None:
        """Append rows, each to the shard that owns it, in their order."""
        order = np.argsort(owners, kind="stable")
        ends = np.cumsum(np.bincount(owners, minlength=len(self._writers)))
        for writer, start, end in zip(self._writers, [0, *ends], ends, strict=False):
            if start == end:
                continue
            for batch in table.take(pa.array(order[start:end])).combine_chunks().to_batches():
                for piece in slices(batch):
                    writer.write_batch(piece)


def _allow_files(count: int) -> None:
    """Raise the number of files that this process may have open, as far as it is allowed to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _FILES_BESIDE
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


def _described(path: Path, rows: int, tokens: int) -> Shard:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Shard(rows=rows, tokens=tokens, bytes=path.stat().st_size, sha256=digest)
