"""Reading the prompts that `load_dataset` wrote: memory-mapped, batch by batch, rows again by their number."""

from __future__ import annotations

import bisect
import mmap
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kfp_llm_batch.errors import DataError
from kfp_llm_batch.manifests import FILE_NAME, PromptsManifest
from kfp_llm_batch.schemas import PROMPT_COLUMNS, source_fields

ROWS_PER_SHUFFLED_BATCH = 256

NumberedBatch = tuple[Sequence[int], pa.RecordBatch]
"""Rows of the prompts with their numbers."""


class Prompts:
    """A folder of prompts.

    Args:
        folder: What `load_dataset` wrote.

    Raises:
        DataError: The folder is not whole.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / FILE_NAME
        if not path.is_file():
            raise DataError("The prompts have no manifest: load_dataset did not finish", received=str(folder))
        self.manifest = PromptsManifest.from_json(path.read_text(encoding="utf-8"), str(path))
        self._maps = [_map(folder / shard.path) for shard in self.manifest.shards]
        self._readers = [
            _open(folder / shard.path, pages) for shard, pages in zip(self.manifest.shards, self._maps, strict=True)
        ]
        self._batches = [(reader, index) for reader in self._readers for index in range(reader.num_record_batches)]
        sizes = [self._size(reader, index) for reader, index in self._batches]
        self._starts = [0, *accumulate(sizes)]
        if self._starts[-1] != self.manifest.rows:
            raise DataError(
                f"The prompts' manifest counts {self.manifest.rows} rows, their files hold {self._starts[-1]}",
                received=str(folder),
            )

    @property
    def schema(self) -> pa.Schema:
        """Our columns and the carried ones."""
        return self._readers[0].schema

    @property
    def source_fields(self) -> list[pa.Field]:
        """The carried source columns."""
        return source_fields(self.schema)

    def batches(self) -> Iterator[NumberedBatch]:
        """All rows, in their own order."""
        for start, (reader, index) in zip(self._starts, self._batches, strict=False):
            batch = reader.get_batch(index)
            yield range(start, start + batch.num_rows), batch
            self._release_pages()

    def batches_in(self, order: npt.NDArray[np.int64]) -> Iterator[NumberedBatch]:
        """All rows in another order; those of one batch ascending.

        Args:
            order: Every row's number.
        """
        for start in range(0, len(order), ROWS_PER_SHUFFLED_BATCH):
            numbers = np.sort(order[start : start + ROWS_PER_SHUFFLED_BATCH]).tolist()
            (batch,) = self.columns(PROMPT_COLUMNS, numbers).combine_chunks().to_batches()
            yield numbers, batch

    def source_columns(self, rows: Sequence[int]) -> pa.Table:
        """The carried source columns of some rows, in the order given, which must be ascending."""
        return self.columns([field.name for field in self.source_fields], rows)

    def columns(self, names: Sequence[str], rows: Sequence[int]) -> pa.Table:
        """Some columns of some rows, in the order given, which must be ascending."""
        pieces = []
        for place, group in groupby(rows, key=lambda row: bisect.bisect_right(self._starts, row) - 1):
            reader, index = self._batches[place]
            offsets = [row - self._starts[place] for row in group]
            pieces.append(reader.get_batch(index).select(names).take(pa.array(offsets)))
        self._release_pages()
        return pa.Table.from_batches(pieces, schema=pa.schema([self._readers[0].schema.field(name) for name in names]))

    def _size(self, reader: pa.ipc.RecordBatchFileReader, index: int) -> int:
        """Rows of a batch; asking maps 64 KiB of it, half a gigabyte at ten million rows."""
        rows = reader.get_batch(index).num_rows
        self._release_pages()
        return int(rows)

    def _release_pages(self) -> None:
        """Mapped pages count as this process's memory, and would grow to the size of the dataset."""
        for pages in self._maps:
            pages.madvise(mmap.MADV_DONTNEED)


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _open(path: Path, pages: mmap.mmap) -> pa.ipc.RecordBatchFileReader:
    try:
        return pa.ipc.open_file(pa.BufferReader(pa.py_buffer(pages)))
    except (OSError, pa.ArrowInvalid) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"A file of the prompts cannot be read: {error}", received=str(path))
