"""Writing the folder of prompts: the shard, its checksum, and the preview for people."""

from __future__ import annotations

import contextlib
import json
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from kfp_llm_batch.dataset.batches import bounded
from kfp_llm_batch.dataset.messages import Message
from kfp_llm_batch.disk import new_file
from kfp_llm_batch.manifests import StoredFile
from kfp_llm_batch.schemas import PROMPT_FIELDS

SHARD = "shard-00000.arrow"
PREVIEW = "preview.jsonl"
_PREVIEW_ROWS = 20
_PREVIEW_CHARACTERS = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptRow:
    """One row of the Prompts contract, its source columns left out."""

    row_id: str
    messages: list[Message]
    params: str | None
    fault: str | None
    size: int
    """Characters of the messages and what goes with them, about."""


class PromptWriter:
    """Writes one shard in bounded record batches; the first rows also go into the preview."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._folder = folder
        self._schema = schema
        self._rows = 0
        self._preview: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opened:
            # The name comes last: a shard that has it is whole.
            path = opened.enter_context(new_file(self.shard))
            self._file = opened.enter_context(pa.ipc.new_file(str(path), self._schema))
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)

    @property
    def shard(self) -> Path:
        """The file that is written."""
        return self._folder / SHARD

    def write(self, messages: Sequence[bytes], preview: Sequence[dict[str, Any]]) -> Iterator[pa.RecordBatch]:
        """Append record batches, each an Arrow message; they are written as they are taken from the iterator."""
        self._preview += preview
        for message in messages:
            batch = pa.ipc.read_record_batch(pa.py_buffer(message), self._schema)
            self._file.write_batch(batch)
            self._rows += batch.num_rows
            yield batch

    def finish(self) -> StoredFile:
        """Write the preview, and describe the closed shard."""
        lines = [json.dumps(row) + "\n" for row in self._preview]
        with new_file(self._folder / PREVIEW) as path:
            path.write_text("".join(lines), encoding="ascii")
        return StoredFile.of(self.shard, SHARD, self._rows)


def prompt_batches(rows: Sequence[PromptRow], table: pa.RecordBatch, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Record batches of a shard, bounded: few-shot examples may multiply a row.

    Args:
        rows: The prompts.
        table: The source columns of the same rows.
        schema: Of the shard; what is not our own comes from the table.
    """
    start = 0
    for part in bounded(rows, operator.attrgetter("size")):
        own = [pa.array([getattr(row, field.name) for row in part], field.type) for field in PROMPT_FIELDS]
        carried = table.slice(start, len(part)).select(schema.names[len(own) :])
        yield pa.RecordBatch.from_arrays([*own, *carried.columns], schema=schema)
        start += len(part)


def shown(rows: Sequence[PromptRow], first: int) -> list[dict[str, Any]]:
    """What the preview shows of rows of which `first` is the number of the first one, counted from zero."""
    return [_shown(row) for row in rows[: max(0, _PREVIEW_ROWS - first)]]


def _shown(row: PromptRow) -> dict[str, Any]:
    messages = [{"role": message["role"], "content": _cut(message["content"])} for message in row.messages]
    params = None if row.params is None else _cut(row.params)
    return {"row_id": row.row_id, "messages": messages, "params": params, "fault": row.fault}


def _cut(text: str) -> str:
    return text if len(text) <= _PREVIEW_CHARACTERS else f"{text[:_PREVIEW_CHARACTERS]}... ({len(text)} characters)"
