"""The source columns of parts and of a dataset in one form, and the rows in which they differ."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kfp_llm_batch.results.formats import BATCH_ROWS, json_rows
from kfp_llm_batch.schemas import COMPLETION_COLUMNS


@dataclass(frozen=True, kw_only=True)
class PartRows:
    """Consecutive rows of a part."""

    row_ids: list[str]
    columns: Mapping[str, pa.Array] | None
    """The carried ones; None in a format that carries none."""


def read_part(path: Path, output_format: str) -> Iterator[PartRows]:
    """The rows of a whole part, a bounded number in memory at a time."""
    if output_format == "parquet":
        yield from _parquet_rows(path)
        return
    with path.open("rb") as lines:
        while rows := [json.loads(line) for line in itertools.islice(lines, BATCH_ROWS)]:
            if output_format == "openai":
                yield PartRows(row_ids=[row["custom_id"] for row in rows], columns=None)
                continue
            names = [name for name in rows[0] if name not in COMPLETION_COLUMNS]
            yield PartRows(row_ids=[row["row_id"] for row in rows], columns=_json_columns(rows, names))


def columns_in_format(table: pa.Table, output_format: str) -> Mapping[str, pa.Array]:
    """Rows of the dataset, at least one, as a part in that format has them."""
    if not table.column_names:
        return {}
    (batch,) = _through_parquet(table).combine_chunks().to_batches()
    if output_format == "parquet":
        return dict(zip(batch.schema.names, batch.columns, strict=True))
    return _json_columns(json_rows(batch), batch.schema.names)


def json_column(values: Iterable[Any]) -> pa.Array:
    """Values as their JSON texts, since to Python True, 1 and 1.0 are equal."""
    return pa.array(map(json.dumps, values), pa.string())


def rows_that_differ(left: pa.Array, right: pa.Array) -> list[int]:
    """Positions of the rows in which two columns of one type and length differ; NaN equals NaN."""
    if _alike(left, right):
        return []
    return [index for index in range(len(left)) if not _alike(left.slice(index, 1), right.slice(index, 1))]


def _json_columns(rows: Sequence[Mapping[str, Any]], names: Iterable[str]) -> dict[str, pa.Array]:
    return {name: json_column(row[name] for row in rows) for name in names}


def _parquet_rows(path: Path) -> Iterator[PartRows]:
    with pq.ParquetFile(path) as file:
        names = [name for name in file.schema_arrow.names if name not in COMPLETION_COLUMNS]
        for batch in file.iter_batches(BATCH_ROWS, columns=["row_id", *names]):
            columns = {name: batch.column(name) for name in names}
            yield PartRows(row_ids=batch.column("row_id").to_pylist(), columns=columns)


def _through_parquet(table: pa.Table) -> pa.Table:
    """The table as Parquet gives it back: it has no seconds, for example, only milliseconds."""
    stored = io.BytesIO()
    pq.write_table(table, stored)
    return pq.read_table(stored)


def _alike(left: pa.Array, right: pa.Array) -> bool:
    """Whether two arrays of one type are equal, NaN being equal to NaN; Arrow cannot be told that."""
    if left.equals(right):
        return True
    if not left.is_valid().equals(right.is_valid()):
        return False
    kind = left.type
    if pa.types.is_floating(kind):
        numbers, others = (array.to_numpy(zero_copy_only=False) for array in (left, right))
        return np.array_equal(numbers, others, equal_nan=True)
    if pa.types.is_map(kind):
        entries = pa.list_(pa.struct([kind.key_field, kind.item_field]))
        return _alike(left.cast(entries), right.cast(entries))
    if pa.types.is_struct(kind):
        return all(itertools.starmap(_alike, zip(left.flatten(), right.flatten(), strict=True)))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        lengths = pc.list_value_length(left), pc.list_value_length(right)
        return lengths[0].equals(lengths[1]) and _alike(left.flatten(), right.flatten())
    return False
