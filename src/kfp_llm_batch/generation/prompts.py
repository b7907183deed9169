"""Reading the prompts that `load_dataset` wrote: memory-mapped, batch by batch, rows again by their number."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
from pathlib import Path

import pyarrow as pa

from kfp_llm_batch.errors import DataError
from kfp_llm_batch.manifests import FILE_NAME, PromptsManifest
from kfp_llm_batch.schemas import source_fields


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
        self._readers = [_open(folder / shard.path) for shard in self.manifest.shards]
        self._batches = [(reader, index) for reader in self._readers for index in range(reader.num_record_batches)]
        sizes = [reader.get_batch(index).num_rows for reader, index in self._batches]
        self._starts = [0, *accumulate(sizes)]
        if self._starts[-1] != self.manifest.rows:
            raise DataError(
                f"The prompts' manifest counts {self.manifest.rows} rows, their files hold {self._starts[-1]}",
                received=str(folder),
            )

    @property
    def source_fields(self) -> list[pa.Field]:
        """The carried source columns."""
        return source_fields(self._readers[0].schema)

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Each batch with the number of its first row."""
        for start, (reader, index) in zip(self._starts, self._batches, strict=False):
            yield start, reader.get_batch(index)

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
        return pa.Table.from_batches(pieces, schema=pa.schema([self._readers[0].schema.field(name) for name in names]))


def _open(path: Path) -> pa.ipc.RecordBatchFileReader:
    try:
        return pa.ipc.open_file(pa.memory_map(str(path)))
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"A file of the prompts cannot be read: {error}", received=str(path)) from error
