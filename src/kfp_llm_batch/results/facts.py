"""What an audit needs of each row, read out of a part in any of the formats."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kfp_llm_batch.errors import first_line
from kfp_llm_batch.results.formats import BATCH_ROWS, METADATA
from kfp_llm_batch.schemas import COMPLETION_COLUMNS, COMPLETION_FIELDS, FAULTY, STATUSES, WARNING_CODES


class UnreadablePartError(ValueError):
    """A part does not hold rows of its format; the audit makes a finding of it."""


class RowFacts(NamedTuple):
    """One row as the manifest counts it."""

    row_id: str
    request_key: str
    status: str
    num_prompt_tokens: int | None
    num_completion_tokens: int | None
    completion: str | None
    error: dict[str, str] | None
    warnings: list[str] | None
    provenance: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class FactsBatch:
    """Some rows, column by column: an audit of single rows takes three times as long."""

    row_ids: list[str]
    request_keys: list[str]
    statuses: list[str]
    num_prompt_tokens: int
    """Of all rows together."""
    num_completion_tokens: int
    faulty: list[RowFacts]
    """The rows without an answer."""
    reused: list[RowFacts]
    """The rows with an answer of an earlier run."""


def read_facts(path: Path, output_format: str) -> Iterator[FactsBatch]:
    """The facts of all rows, a bounded number in memory at a time, once `read_columns` found its columns good.

    Raises:
        UnreadablePartError: The file is damaged or is none of that format.
    """
    if output_format == "parquet":
        yield from _parquet_facts(path)
        return
    rows, first = _json_rows(path, _unpack_openai if output_format == "openai" else _unpack_plain), 1
    while batch := list(itertools.islice(rows, BATCH_ROWS)):
        yield _checked(batch, first)
        first += len(batch)


def _checked(rows: Iterable[tuple[Any, ...]], first: int) -> FactsBatch:
    """The facts of rows that are looked at one by one.

    Args:
        rows: Values of RowFacts.
        first: The first row's number in its file.
    """
    batch = [RowFacts(*row) for row in rows]
    for number, row in enumerate(batch, start=first):
        if problem := _problem(row):
            raise UnreadablePartError(f"row {number} (counted from 1) {problem}")
    return FactsBatch(
        row_ids=[row.row_id for row in batch],
        request_keys=[row.request_key for row in batch],
        statuses=[row.status for row in batch],
        num_prompt_tokens=sum(row.num_prompt_tokens or 0 for row in batch),
        num_completion_tokens=sum(row.num_completion_tokens or 0 for row in batch),
        faulty=[row for row in batch if row.status in FAULTY],
        reused=[row for row in batch if row.provenance],
    )


def read_columns(path: Path, output_format: str) -> pa.Schema | frozenset[str] | None:
    """The columns of a part, for a comparison with those of another one; None if it has no rows to tell.

    Raises:
        UnreadablePartError: The file is damaged, is none of that format, or lacks a column of a result.
    """
    if output_format != "parquet":
        return next((frozenset(row) for row in _json_objects(path)), None)
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UnreadablePartError(f"it is no Parquet file: {first_line(error)}") from error
    for field in COMPLETION_FIELDS:
        index = schema.get_field_index(field.name)
        if index < 0 or schema.field(index).type != field.type:
            found = "absent" if index < 0 else str(schema.field(index).type)
            raise UnreadablePartError(f"its column {field.name} is {found}, not {field.type}")
    return schema


def _parquet_facts(path: Path) -> Iterator[FactsBatch]:
    first = 1
    try:
        with pq.ParquetFile(path) as file:
            # All columns are decoded: one that cannot be is a finding as well.
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                facts = batch.select(RowFacts._fields)
                if _is_answered(facts):
                    yield _answered_facts(facts)
                else:
                    yield _checked(zip(*(column.to_pylist() for column in facts.columns), strict=True), first)
                first += batch.num_rows
    except UnreadablePartError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError, MemoryError) as error:
        raise UnreadablePartError(f"it is damaged: {first_line(error)}") from error


def _is_answered(batch: pa.RecordBatch) -> bool:
    """Whether all rows are plainly what answered rows are; the others are looked at one by one."""
    statuses = pc.unique(batch.column("status")).to_pylist()
    has_all = not any(batch.column(name).null_count for name in ("row_id", "request_key", "completion"))
    has_more = any(batch.column(name).null_count < batch.num_rows for name in ("error", "warnings", "provenance"))
    return has_all and not has_more and all(status in STATUSES and status not in FAULTY for status in statuses)


def _answered_facts(batch: pa.RecordBatch) -> FactsBatch:
    return FactsBatch(
        row_ids=batch.column("row_id").to_pylist(),
        request_keys=batch.column("request_key").to_pylist(),
        statuses=batch.column("status").to_pylist(),
        num_prompt_tokens=pc.sum(batch.column("num_prompt_tokens")).as_py() or 0,
        num_completion_tokens=pc.sum(batch.column("num_completion_tokens")).as_py() or 0,
        faulty=[],
        reused=[],
    )


def _json_rows(path: Path, unpack: Callable[[dict[str, Any]], tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    columns = None
    for number, row in enumerate(_json_objects(path), start=1):
        columns = columns or row.keys()
        try:
            yield unpack(row)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UnreadablePartError(f"line {number} is none of a result: {first_line(error)}") from error
        if row.keys() != columns:
            raise UnreadablePartError(f"line {number} has other columns than the first")


def _json_objects(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UnreadablePartError(f"line {number} is none of a result: {first_line(error)}") from error
            if not isinstance(row, dict):
                raise UnreadablePartError(f"line {number} is none of a result: it is no JSON object")
            yield row


def _unpack_plain(row: dict[str, Any]) -> tuple[Any, ...]:
    if missing := [name for name in COMPLETION_COLUMNS if name not in row]:
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    return tuple(row[name] for name in RowFacts._fields)


def _unpack_openai(row: dict[str, Any]) -> RowFacts:
    facts = {name: row["metadata"][name] for name in METADATA}
    if row["id"] != f"batch_req_{facts['request_key']}":
        raise ValueError("its id is not that of its request_key")
    if (row["response"] is None) == (row["error"] is None):
        raise ValueError("it needs either a response or an error")
    message = row["response"] and row["response"]["body"]["choices"][0]["message"]
    return RowFacts(row_id=row["custom_id"], completion=message and message["content"], error=row["error"], **facts)


def _problem(row: Any) -> str:
    """What is wrong with a RowFacts whose values may be of any type; empty if nothing is."""
    if not (isinstance(row.row_id, str) and isinstance(row.request_key, str)):
        return "has no row_id or request_key"
    if row.status not in STATUSES:
        return f"has the unknown status {row.status!r}"
    if not all(count is None or type(count) is int for count in (row.num_prompt_tokens, row.num_completion_tokens)):
        return "has a number of tokens that is no number"
    return _answer_problem(row) or _warnings_problem(row.warnings) or _provenance_problem(row)


def _answer_problem(row: Any) -> str:
    if row.status in FAULTY:
        has_code = isinstance(row.error, dict) and isinstance(row.error.get("code"), str)
        return "" if has_code else f"has no error code, and its status is {row.status}"
    if row.error is not None:
        return f"has an error, and its status is {row.status}"
    return "" if isinstance(row.completion, str) else f"has no completion that is text, and its status is {row.status}"


def _warnings_problem(warnings: object) -> str:
    is_known = isinstance(warnings, list) and warnings and all(code in WARNING_CODES for code in warnings)
    return "" if warnings is None or is_known else f"has the unknown warnings {warnings!r}"


def _provenance_problem(row: RowFacts) -> str:
    if row.provenance is None:
        return ""
    if row.status in FAULTY:
        return f"says who answered it, and its status is {row.status}"
    try:
        is_known = bool(row.provenance["run_id"]) and dt.datetime.fromisoformat(row.provenance["generated_at"])
    except (LookupError, TypeError, ValueError):
        is_known = False
    return "" if is_known else f"has a provenance that names no run and time: {row.provenance!r}"
