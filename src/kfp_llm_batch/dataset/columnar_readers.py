"""Reading Parquet and Arrow IPC files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kfp_llm_batch.dataset.batches import (
    BATCH_BYTES,
    BATCH_ROWS,
    DataFile,
    SourceBatch,
    check_unique_columns,
    conformed,
    reading,
    slices,
)
from kfp_llm_batch.dataset.carried_types import plain_schema, storable_schema
from kfp_llm_batch.dataset.text_readers import SUFFIXES, open_stream
from kfp_llm_batch.disk import writing
from kfp_llm_batch.errors import DataError, first_line


def decompressed(file: DataFile, working_folder: Path) -> DataFile:
    """The file itself, or a copy unpacked into `working_folder`: both formats are read from their end."""
    if file.path.suffix not in SUFFIXES:
        return file
    with writing(working_folder):
        working_folder.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(dir=working_folder)) / file.path.stem
    with reading(file.name), open_stream(file) as source, path.open("wb", buffering=0) as target:
        while chunk := source.read(2**20):
            with writing(path):
                target.write(chunk)
    return DataFile(path=path, name=file.name)


def columnar_schema(files: Sequence[DataFile], format_name: str) -> pa.Schema:
    """The columns of all files with the types that hold every value."""
    merged = pa.schema([])
    for file in files:
        with reading(file.name):
            schema = _schema(file, format_name)
        check_unique_columns(schema.names, file)
        schema = plain_schema(schema, file.name)
        try:
            merged = pa.unify_schemas([merged, schema], promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(
                f"{file.name} has columns of other types than {files[0].name}: {first_line(error)}",
                remedy="Read the files one by one, or give them the same columns.",
            ) from error
    return storable_schema(merged)


def columnar_batches(files: Sequence[DataFile], schema: pa.Schema, format_name: str) -> Iterator[SourceBatch]:
    """The rows of all files, brought to `schema`."""
    read = _parquet_batches if format_name == "parquet" else _arrow_batches
    for file in files:
        with reading(file.name):
            for batch in read(file):
                for part in slices(batch):
                    yield conformed(part, schema)


def _schema(file: DataFile, format_name: str) -> pa.Schema:
    if format_name == "parquet":
        return pq.read_schema(file.path)
    with pa.memory_map(str(file.path)) as source:
        return _open_arrow(source).schema


def _parquet_batches(file: DataFile) -> Iterator[pa.RecordBatch]:
    # Buffered ahead, all of the file would be in memory at its end.
    with pq.ParquetFile(file.path, pre_buffer=False) as parquet:
        yield from parquet.iter_batches(batch_size=_batch_rows(parquet.metadata))


def _batch_rows(metadata: pq.FileMetaData) -> int:
    """Fewer rows at once where rows are long, by the sizes that the file itself gives."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    longest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=1)
    return int(max(1, min(BATCH_ROWS, BATCH_BYTES // max(longest, 1))))


def _arrow_batches(file: DataFile) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(file.path)) as source:
        reader = _open_arrow(source)
        if isinstance(reader, pa.ipc.RecordBatchFileReader):
            yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            yield from reader


def _open_arrow(source: pa.MemoryMappedFile) -> pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader:
    """Both kinds of Arrow IPC are called `.arrow`; the `datasets` library writes streams."""
    if source.read(6) == b"ARROW1":
        return pa.ipc.open_file(source)
    source.seek(0)
    return pa.ipc.open_stream(source)
