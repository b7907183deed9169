"""The identity of rows: where it comes from, and that it is unique, at eight bytes of memory a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from kfp_llm_batch.duplicates import DuplicateFinder
from kfp_llm_batch.errors import DataError


class RowIds:
    """Row ids out of a column, or counted from zero if there is none."""

    def __init__(self, column: str | None) -> None:
        self.column = column
        self._duplicates = DuplicateFinder()

    def of(self, row: Mapping[str, Any], index: int) -> str:
        """The id of the row with the zero-based number `index`.

        Raises:
            DataError: Its id is null or empty.
        """
        if self.column is None:
            return str(index)
        value = row.get(self.column)
        row_id = "" if value is None else str(value)
        if not row_id.strip():
            raise DataError(
                f"Row {index + 1} (counted from 1) has no id in column {self.column!r}",
                received=value,
                remedy="Give every row its own id, or leave out dataset_id_column to number the rows.",
            )
        return row_id

    def note(self, row_ids: pa.Array) -> None:
        """Remember the ids of some rows for `check_unique`; counted ones cannot occur twice."""
        if self.column is not None:
            self._duplicates.add_all(row_ids.to_pylist())

    def check_unique(self, shard: Path) -> None:
        """Compare the ids for real where two hashes are equal.

        Raises:
            DataError: An id occurs twice; the message names its rows.
        """
        if suspects := self._duplicates.suspects():
            seen: dict[str, int] = {}
            for number, row_id in enumerate(_stored_ids(shard), start=1):
                if hash(row_id) not in suspects:
                    continue
                if row_id in seen:
                    raise DataError(
                        f"Rows {seen[row_id]} and {number} (counted from 1) have the same id in column {self.column!r}",
                        received=row_id[:80],
                        remedy="Make the ids unique, or leave out dataset_id_column to number the rows.",
                    )
                seen[row_id] = number


def _stored_ids(shard: Path) -> Iterator[str]:
    with pa.memory_map(str(shard)) as source, pa.ipc.open_file(source) as reader:
        for index in range(reader.num_record_batches):
            yield from reader.get_batch(index).column("row_id").to_pylist()
