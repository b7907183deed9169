"""Reading text files: decoded lines with their numbers, and CSV."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Sequence

import pyarrow as pa

from kfp_llm_batch.dataset.batches import DataFile, SourceBatch, bounded, check_unique_columns, reading
from kfp_llm_batch.errors import DataError

MAX_LINE_BYTES = 64 * 2**20
"""A longer line is no row of prompts, and would have to be held in memory whole."""

SUFFIXES = {".gz": "gzip", ".zst": "zstd"}
"""Compressions that are read as they are."""

# The csv module's own limit, 128 kB, is smaller than a long document.
csv.field_size_limit(MAX_LINE_BYTES)

CsvRow = tuple[int, list[str]]


def open_stream(file: DataFile) -> pa.NativeFile:
    """The file's bytes, decompressed if its name says that it is compressed."""
    return pa.input_stream(str(file.path), compression=SUFFIXES.get(file.path.suffix))


def numbered_lines(file: DataFile) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, from 1; a byte order mark is dropped.

    Raises:
        DataError: The file cannot be read, is not UTF-8, or has a line beyond MAX_LINE_BYTES.
    """
    with reading(file.name), io.BufferedReader(open_stream(file), 2**20) as stream:
        for number in itertools.count(1):
            line = stream.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            yield number, _decoded(line, file, number)


def _decoded(line: bytes, file: DataFile, number: int) -> str:
    if len(line) > MAX_LINE_BYTES:
        raise DataError(f"{file.name} line {number} is longer than {MAX_LINE_BYTES // 2**20} MiB")
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file.name} line {number} is not UTF-8 (byte {line[error.start]:#04x} at position {error.start + 1})",
            remedy="Save the file as UTF-8.",
        ) from error


def csv_schema(files: Sequence[DataFile], delimiter: str) -> pa.Schema:
    """All columns of all headers, every one as text: "007" stays "007"."""
    names = dict.fromkeys(name for file in files for name in _header(file, _rows(file, delimiter)))
    return pa.schema([pa.field(name, pa.string()) for name in names])


def csv_batches(files: Sequence[DataFile], schema: pa.Schema, delimiter: str) -> Iterator[SourceBatch]:
    """The rows of all files; a column that a file lacks is null there."""
    for file in files:
        rows = _rows(file, delimiter)
        header = _header(file, rows)
        for batch in bounded(_checked(file, rows, len(header)), _characters):
            cells = dict(zip(header, zip(*batch, strict=True), strict=True))
            columns = [pa.array(cells.get(name, [None] * len(batch)), pa.string()) for name in schema.names]
            yield SourceBatch(table=pa.RecordBatch.from_arrays(columns, schema=schema))


def _rows(file: DataFile, delimiter: str) -> Iterator[CsvRow]:
    """Rows with the numbers of the lines on which they end.

    The csv module is used, since Arrow's streaming reader names no line, accepts a quote that never closes, drops one
    of two columns of the same name, and fails on a cell that is longer than its block.
    """
    lines = (line for _, line in numbered_lines(file))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise DataError(
            f"{file.name} line {reader.line_num} is not valid CSV: {error}",
            remedy="Check the quotes and the delimiter; tab-separated files need dataset_format tsv.",
        ) from error


def _header(file: DataFile, rows: Iterator[CsvRow]) -> list[str]:
    _, header = next(rows, (0, []))
    check_unique_columns(header, file)
    return header


def _checked(file: DataFile, rows: Iterator[CsvRow], width: int) -> Iterator[list[str]]:
    for number, row in rows:
        if width > 1 and len(row) == 1 and row[0].isspace():
            continue
        if len(row) != width:
            raise DataError(
                f"{file.name} line {number} has {len(row)} cells, but the header has {width}",
                received=[cell[:80] for cell in row[:5]],
                remedy="Quote cells that hold the delimiter or a line break.",
            )
        yield row


def _characters(cells: list[str]) -> int:
    return sum(map(len, cells))
