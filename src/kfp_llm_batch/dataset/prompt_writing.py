"""Writing the folder of prompts: the shard, its checksum, and the preview for people."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from kfp_llm_batch.dataset.batches import BATCH_BYTES
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

    def __init__(self, folder: Path, carried: Sequence[pa.Field]) -> None:
        self._folder = folder
        self._carried = [field.name for field in carried]
        self._schema = pa.schema([*PROMPT_FIELDS, *carried])
        self._rows = 0
        self._preview: list[PromptRow] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opened:
            # The name comes last: a shard that has it is whole.
            path = opened.enter_context(new_file(self.shard))
            self._file = opened.enter_context(pa.ipc.new_file(str(path), self._schema))
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.__exit__(kind, error, trace)

    @property
    def shard(self) -> Path:
        """The file that is written."""
        return self._folder / SHARD

    def write(self, rows: Sequence[PromptRow], table: pa.RecordBatch) -> None:
        """Append rows; `table` holds their source columns."""
        for start, stop in _bounded(rows):
            own = [
                pa.array([getattr(row, field.name) for row in rows[start:stop]], field.type) for field in PROMPT_FIELDS
            ]
            part = table.slice(start, stop - start)
            columns = [*own, *(part.column(name) for name in self._carried)]
            self._file.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._rows += len(rows)
        self._preview += rows[: _PREVIEW_ROWS - len(self._preview)]

    def finish(self) -> StoredFile:
        """Write the preview, and describe the closed shard."""
        lines = [json.dumps(_shown(row)) + "\n" for row in self._preview]
        with new_file(self._folder / PREVIEW) as path:
            path.write_text("".join(lines), encoding="ascii")
        with self.shard.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return StoredFile(path=SHARD, rows=self._rows, bytes=self.shard.stat().st_size, sha256=sha256)


def _bounded(rows: Sequence[PromptRow]) -> Iterator[tuple[int, int]]:
    """Ranges of rows whose messages together stay near BATCH_BYTES: few-shot examples may multiply a row."""
    start = size = 0
    for index, row in enumerate(rows):
        size += row.size
        if size >= BATCH_BYTES:
            yield start, index + 1
            start, size = index + 1, 0
    if start < len(rows):
        yield start, len(rows)


def _shown(row: PromptRow) -> dict[str, Any]:
    messages = [{"role": message["role"], "content": _cut(message["content"])} for message in row.messages]
    params = None if row.params is None else _cut(row.params)
    return {"row_id": row.row_id, "messages": messages, "params": params, "fault": row.fault}


def _cut(text: str) -> str:
    return text if len(text) <= _PREVIEW_CHARACTERS else f"{text[:_PREVIEW_CHARACTERS]}... ({len(text)} characters)"
