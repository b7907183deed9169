"""What every kind of source hands on: a schema known before the first row, and bounded Arrow batches."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from kfp_llm_batch.dataset.carried_types import brought
from kfp_llm_batch.errors import BatchError, DataError, first_line

BATCH_ROWS = 1_000
BATCH_BYTES = 8 * 2**20

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """A local file to read."""

    path: Path
    name: str
    """How messages call it."""


@dataclass(frozen=True, kw_only=True)
class SourceBatch:
    """Consecutive rows of a source."""

    table: pa.RecordBatch
    faults: Mapping[int, str] = field(default_factory=dict)
    """Rows (by position in the batch) whose text had to be repaired, with the reason."""
    rows: Sequence[Mapping[str, Any]] | None = None
    """The rows before Arrow gave them the types of all rows; None where there is no such form."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Arrow's own way to pickle a slice takes along all of what it is a slice of.
        return _unpickled, (self.table.serialize().to_pybytes(), self.table.schema, self.faults, self.rows)


def _unpickled(
    message: bytes, schema: pa.Schema, faults: Mapping[int, str], rows: Sequence[Mapping[str, Any]] | None
) -> SourceBatch:
    return SourceBatch(table=pa.ipc.read_record_batch(pa.py_buffer(message), schema), faults=faults, rows=rows)


@dataclass(frozen=True, kw_only=True)
class DatasetSource:
    """An opened dataset."""

    format: str
    revision: str | None
    schema: pa.Schema
    batches: Callable[[], Iterator[SourceBatch]]


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn whatever a reader raises about the data of `name` into a DataError."""
    try:
        yield
    except BatchError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(
            f"{name} cannot be read: {first_line(error)}",
            remedy="Check that the file is whole, and that dataset_format says what it is.",
        ) from error


def limited(batches: Iterator[SourceBatch], limit: int | None) -> Iterator[SourceBatch]:
    """The first `limit` rows; nothing behind them is read."""
    remaining = limit
    for batch in batches:
        if remaining is None or batch.table.num_rows < remaining:
            yield batch
            remaining = None if remaining is None else remaining - batch.table.num_rows
            continue
        faults = {index: text for index, text in batch.faults.items() if index < remaining}
        rows = None if batch.rows is None else batch.rows[:remaining]
        yield SourceBatch(table=batch.table.slice(0, remaining), faults=faults, rows=rows)
        return


def check_unique_columns(names: Sequence[str], file: DataFile) -> None:
    """Refuse a file in which two columns have one name."""
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{file.name} has several columns of the same name", received=repeated, remedy="Rename them.")


def bounded(items: Iterable[Item], size: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Consecutive items, not more than BATCH_ROWS nor much above BATCH_BYTES at once."""
    batch: list[Item] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size(item)
        if len(batch) == BATCH_ROWS or total >= BATCH_BYTES:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cut a batch so that no slice has more than BATCH_ROWS rows or, rows being alike, BATCH_BYTES bytes."""
    fit = BATCH_BYTES * batch.num_rows // max(batch.nbytes, 1)
    rows = max(1, min(BATCH_ROWS, fit))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def conformed(batch: pa.RecordBatch, schema: pa.Schema) -> SourceBatch:
    """Bring a batch to `schema`; absent columns are null, and invalid UTF-8 is replaced and reported."""
    columns: list[pa.Array] = []
    faults: dict[int, str] = {}
    for wanted in schema:
        if wanted.name not in batch.schema.names:
            columns.append(pa.nulls(batch.num_rows, wanted.type))
            continue
        column, broken = _valid_text(brought(batch.column(wanted.name), wanted.type))
        faults |= dict.fromkeys(broken, f"column {wanted.name!r} holds bytes that are not UTF-8")
        columns.append(column)
    return SourceBatch(table=record_batch(columns, batch.num_rows, schema), faults=faults)


def record_batch(columns: list[pa.Array], num_rows: int, schema: pa.Schema) -> pa.RecordBatch:
    """A batch of `schema`, which may have no columns at all."""
    if columns:
        return pa.RecordBatch.from_arrays(columns, schema=schema)
    # Arrow drops the number of rows of a batch without columns; a struct array keeps it.
    return pa.RecordBatch.from_struct_array(pa.array([{}] * num_rows, pa.struct([])))


def _valid_text(column: pa.Array) -> tuple[pa.Array, list[int]]:
    """The column with U+FFFD in place of invalid bytes, and the positions where that was needed."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise
    else:
        return column, []
    values = column.cast(pa.large_binary()).to_pylist()
    texts = [None if value is None else value.decode(errors="replace") for value in values]
    broken = [index for index, text in enumerate(texts) if text and text.encode() != values[index]]
    return pa.array(texts, column.type), broken
