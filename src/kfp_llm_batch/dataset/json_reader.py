"""Reading JSON lines, JSON arrays and OpenAI batch lines, with the line of every fault.

Rows are parsed here and not by Arrow, since its reader names no line, turns texts that look like dates into
timestamps, and rejects the whole block for one lone surrogate.
"""

from __future__ import annotations

import itertools
import json
import operator
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from kfp_llm_batch.dataset.batches import (
    DataFile,
    SourceBatch,
    bounded,
    reading,
    record_batch,
)
from kfp_llm_batch.dataset.carried_types import storable_schema
from kfp_llm_batch.dataset.text_readers import numbered_lines, open_stream
from kfp_llm_batch.errors import DataError, first_line

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_TYPE_ERRORS = (pa.ArrowException, OverflowError, TypeError, ValueError)

OPENAI_SCHEMA = pa.schema([pa.field(name, pa.string()) for name in ("custom_id", "url", "body")])
"""`body` as JSON text: requests differ too much from each other for one Arrow type."""


@dataclass(frozen=True, slots=True)
class JsonRow:
    """One parsed object."""

    where: str
    values: dict[str, Any]
    fault: str | None
    size: int


_SIZE = operator.attrgetter("size")


def json_rows(files: Sequence[DataFile], format_name: str) -> Iterator[JsonRow]:
    """All objects of all files, in order.

    Args:
        files: The files to read.
        format_name: `json` for files that hold one array each, else one object a line.
    """
    for file in files:
        yield from _array_rows(file) if format_name == "json" else _line_rows(file)


def json_schema(rows: Iterable[JsonRow], variable_columns: Collection[str]) -> pa.Schema:
    """The columns of all rows with the types that hold every value.

    Args:
        rows: All rows.
        variable_columns: Columns that become JSON text if no type holds every value.

    Raises:
        DataError: A column changes its type; the message names the line.
    """
    types: dict[str, pa.DataType] = {}
    for batch in bounded(rows, _SIZE):
        for name, values in _columns(batch).items():
            try:
                types[name] = _merged(types.get(name, pa.null()), pa.infer_type(values))
            except _TYPE_ERRORS as error:
                if name not in variable_columns:
                    raise _conflict(types.get(name, pa.null()), name, batch, error) from error
                types[name] = pa.string()
    return storable_schema(pa.schema(list(types.items())))


def json_batches(
    rows: Iterable[JsonRow], schema: pa.Schema, variable_columns: Collection[str]
) -> Iterator[SourceBatch]:
    """The rows as Arrow batches of `schema`, and as they were."""
    nothing = dict.fromkeys(schema.names)
    for batch in bounded(rows, _SIZE):
        present = _columns(batch)
        for name in present.keys() & variable_columns:
            if pa.types.is_string(schema.field(name).type):
                present[name] = [
                    value if value is None or isinstance(value, str) else json.dumps(value) for value in present[name]
                ]
        columns = [_array(present.get(column.name, [None] * len(batch)), column, batch) for column in schema]
        yield SourceBatch(
            table=record_batch(columns, len(batch), schema),
            faults=_faults(batch),
            rows=[nothing | row.values for row in batch],
        )


def openai_batches(rows: Iterable[JsonRow]) -> Iterator[SourceBatch]:
    """OpenAI batch lines as batches of OPENAI_SCHEMA."""
    for batch in bounded(rows, _SIZE):
        lines = [
            {
                "custom_id": _text_or_none(row.values.get("custom_id")),
                "url": _text_or_none(row.values.get("url")),
                "body": json.dumps(row.values.get("body"), ensure_ascii=False),
            }
            for row in batch
        ]
        yield SourceBatch(table=pa.RecordBatch.from_pylist(lines, schema=OPENAI_SCHEMA), faults=_faults(batch))


def looks_like_openai(rows: Iterator[JsonRow]) -> bool:
    """Whether the first row has what an OpenAI batch line has."""
    first = next(rows, None)
    return first is not None and "custom_id" in first.values and isinstance(first.values.get("body"), dict)


def _line_rows(file: DataFile) -> Iterator[JsonRow]:
    for number, line in numbered_lines(file):
        if not line.isspace():
            where = f"{file.name} line {number}"
            yield _row(where, _parsed(where, line), line, len(line))


def _array_rows(file: DataFile) -> Iterator[JsonRow]:
    with reading(file.name), open_stream(file) as stream:
        text = stream.read().decode("utf-8-sig")
    elements = _parsed(file.name, text) if text.strip() else []
    if not isinstance(elements, list):
        raise DataError(
            f"{file.name} is not a JSON array of objects",
            received=type(elements).__name__,
            remedy="Write [{...}, {...}], or one object a line with dataset_format jsonl.",
        )
    may_have_surrogates = _SURROGATE_ESCAPE.search(text) is not None
    size = len(text) // max(len(elements), 1)
    del text
    for number, element in enumerate(elements, start=1):
        source = json.dumps(element) if may_have_surrogates else ""
        yield _row(f"{file.name} element {number}", element, source, size)


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        remedy = "Correct it, or remove it."
        if getattr(error, "msg", "") == "Extra data":
            remedy = "A file with one object a line needs dataset_format jsonl."
        elif text.lstrip().startswith("["):
            remedy = "A file that holds one array needs dataset_format json."
        raise DataError(
            f"{where} is not valid JSON: {first_line(error)}", received=_excerpt(text), remedy=remedy
        ) from error


def _row(where: str, value: Any, source: str, size: int) -> JsonRow:
    if not isinstance(value, dict):
        remedy = "A file that holds one array needs dataset_format json." if isinstance(value, list) else ""
        raise DataError(f"{where} is not a JSON object", received=_excerpt(json.dumps(value)), remedy=remedy)
    fault = None
    if _SURROGATE_ESCAPE.search(source) and (broken := [name for name in value if _has_surrogate(value[name], name)]):
        fault = f"column {', '.join(map(ascii, broken))} holds half of a surrogate pair"
        value = _mended(value)
    return JsonRow(where, value, fault, size)


def _has_surrogate(value: Any, name: str) -> bool:
    return _SURROGATE.search(json.dumps([name, value], ensure_ascii=False)) is not None


def _mended(value: Any) -> Any:
    return json.loads(_SURROGATE.sub("\ufffd", json.dumps(value, ensure_ascii=False)))


def _excerpt(text: str) -> str:
    text = text.strip()
    return text if len(text) <= 80 else text[:77] + "..."


def _columns(batch: Sequence[JsonRow]) -> dict[str, list[Any]]:
    names = dict.fromkeys(itertools.chain.from_iterable(row.values for row in batch))
    return {name: [row.values.get(name) for row in batch] for name in names}


def _array(values: list[Any], column: pa.Field, batch: Sequence[JsonRow]) -> pa.Array:
    if pa.types.is_string(column.type):
        values = [json.dumps(value) if isinstance(value, (dict, list)) else value for value in values]
    try:
        return pa.array(values, column.type)
    except _TYPE_ERRORS as error:
        raise _conflict(column.type, column.name, batch, error) from error


def _merged(known: pa.DataType, found: pa.DataType) -> pa.DataType:
    schemas = [pa.schema([pa.field("column", kind)]) for kind in (known, found)]
    return pa.unify_schemas(schemas, promote_options="permissive").field(0).type


def _conflict(known: pa.DataType, name: str, batch: Sequence[JsonRow], error: Exception) -> DataError:
    """Name the first row of the batch whose value does not go with the values before it."""
    for row in batch:
        value = row.values.get(name)
        try:
            found = pa.array([value]).type
            known = _merged(known, found)
        except (pa.ArrowTypeError, pa.ArrowInvalid):
            return DataError(
                f"{row.where}: column {name!r} changes its type, from {known} in the rows before",
                received=_excerpt(json.dumps(value)),
                remedy="Give the column one type in all rows.",
            )
        except OverflowError:
            return DataError(
                f"{row.where}: column {name!r} holds a number beyond 64 bits",
                received=_excerpt(json.dumps(value)),
                remedy="Store it as text.",
            )
    return DataError(f"{batch[0].where} and after: column {name!r} cannot be stored: {first_line(error)}")


def _faults(batch: Sequence[JsonRow]) -> Mapping[int, str]:
    return {index: row.fault for index, row in enumerate(batch) if row.fault}


def _text_or_none(value: Any) -> str | None:
    return None if value is None else str(value)
