"""Which Arrow types the source columns have in prompts and results: plain ones that every later step can handle."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kfp_llm_batch.errors import DataError

# No kernel selects rows of views.
_WITHOUT_VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}

_REMEDY = "Leave it out, or store it as JSON text."


def plain_schema(schema: pa.Schema, name: str) -> pa.Schema:
    """The schema without dictionaries, views, run-ends, extensions, and without the metadata of other tools.

    The IPC file format knows one dictionary per column, so that batches with their own could not be written.

    Args:
        schema: What a reader gives.
        name: How messages call the data.

    Raises:
        DataError: A column has a type that cannot be stored.
    """
    return _changed(schema, lambda column: _plain_type(column.type, column.name, name))


def storable_schema(schema: pa.Schema) -> pa.Schema:
    """A merged schema as it is carried: text for columns without values, JSON text around objects without fields.

    Raises:
        DataError: A column is nested too deeply.
    """
    return _changed(schema, lambda column: _storable_type(column.type))


def check_storable(schema: pa.Schema, name: str) -> None:
    """Prove on no rows at all that every column can be written, read, and have its rows selected.

    Raises:
        DataError: One cannot; the message names it.
    """
    for column in schema:
        try:
            _store(pa.RecordBatch.from_pylist([], schema=pa.schema([column])))
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{name}: column {column.name!r} cannot be stored: {str(error)[:200]}",
                received=f"{column.type!s:.200}",
                remedy=_REMEDY,
            ) from error


def brought(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    """The column with the type that it has in the storable schema."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_run_end_encoded(column.type):
        column = pc.run_end_decode(column)
    if column.type == wanted:
        return column
    if pa.types.is_string(wanted) and pa.types.is_nested(column.type):
        return pa.array([None if value is None else _to_json(value) for value in column.to_pylist()], wanted)
    # Arrow 26 loses rows where it casts list views, and cannot cast run-ends inside of others.
    if _has(column.type, _is_without_cast):
        return pa.array(column.to_pylist(), wanted)
    return column.cast(wanted)


def _store(batch: pa.RecordBatch) -> None:
    batch.take(pa.array([], pa.int64()))
    pq.write_table(pa.Table.from_batches([batch]), io.BytesIO())
    stored = io.BytesIO()
    with pa.ipc.new_file(stored, batch.schema) as file:
        file.write_batch(batch)
    pa.ipc.open_file(stored).read_all()


def _changed(schema: pa.Schema, change: Callable[[pa.Field], pa.DataType]) -> pa.Schema:
    columns: dict[str, pa.DataType] = {}
    for column in schema:
        try:
            columns[column.name] = change(column)
        except RecursionError as error:
            raise DataError(f"Column {column.name!r} is nested too deeply", remedy=_REMEDY) from error
    return pa.schema(list(columns.items()))


def _plain_type(kind: pa.DataType, column: str, name: str) -> pa.DataType:
    plain = functools.partial(_plain_type, column=column, name=name)
    if isinstance(kind, pa.BaseExtensionType):
        return plain(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain(kind.value_type)
    if pa.types.is_union(kind) or pa.types.is_interval(kind):
        raise DataError(
            f"{name}: column {column!r} has a type that cannot be stored",
            received=f"{kind!s:.200}",
            remedy=_REMEDY,
        )
    return _WITHOUT_VIEWS.get(kind) or _rebuilt(kind, plain)


def _storable_type(kind: pa.DataType) -> pa.DataType:
    # Parquet cannot store an object without fields.
    return pa.string() if _has(kind, _is_empty_struct) else _without_nulls(kind)


def _has(kind: pa.DataType, is_such: Callable[[pa.DataType], bool]) -> bool:
    """Whether the type, or one inside of it, is such a type."""
    if isinstance(kind, pa.BaseExtensionType):
        return _has(kind.storage_type, is_such)
    return is_such(kind) or any(_has(kind.field(index).type, is_such) for index in range(kind.num_fields))


def _is_empty_struct(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind) and kind.num_fields == 0)


def _is_without_cast(kind: pa.DataType) -> bool:
    checks = (pa.types.is_list_view, pa.types.is_large_list_view, pa.types.is_run_end_encoded)
    return any(check(kind) for check in checks)


def _without_nulls(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_null(kind) else _rebuilt(kind, _without_nulls)


def _rebuilt(kind: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """The type with its children's types changed; list views become lists."""
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(change(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(change(kind.key_type), change(kind.item_type))
    if kind.num_fields == 0:
        return kind
    value = kind.value_field.with_type(change(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(value, kind.list_size)
    is_large = pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind)
    return pa.large_list(value) if is_large else pa.list_(value)


def as_text(value: Any) -> str:
    """A value that JSON has no form for; bytes as hexadecimal digits."""
    return value.hex() if isinstance(value, bytes) else str(value)


_to_json = json.JSONEncoder(default=as_text).encode
