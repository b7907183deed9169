"""Finished rows become immutable Parquet parts of a local result folder while the run goes on."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kfp_llm_batch.generation.prompts import Prompts
from kfp_llm_batch.manifests import StoredFile
from kfp_llm_batch.schemas import COMPLETION_FIELDS, STATUSES, completions_schema

ROWS_PER_PART = 1000
BYTES_PER_PART = 64 * 2**20
"""Of completion text; a part is closed at whichever comes first."""

_OWN_NAMES = [column.name for column in COMPLETION_FIELDS]
_FAILURES = ("invalid", "failed")


class PartWriter:
    """Collects finished rows and writes them out part by part, faulty rows to `errors/` as well.

    Args:
        folder: The result folder; gets `parts/` and `errors/`.
        prompts: Where the rows' source columns come from.
    """

    def __init__(self, folder: Path, prompts: Prompts) -> None:
        self._folder = folder
        self._prompts = prompts
        self._schema = completions_schema(prompts.source_fields)
        self._rows: list[tuple[int, dict[str, Any]]] = []
        self._text_bytes = 0
        self.parts: list[StoredFile] = []
        self.errors: list[StoredFile] = []
        self.num_prompt_tokens = 0
        self.num_completion_tokens = 0
        self.rows_by_status: Counter[str] = Counter(dict.fromkeys(STATUSES, 0))

    def add(self, row: int, completion: dict[str, Any]) -> None:
        """Take one finished row: its number in the prompts and our columns."""
        self._rows.append((row, completion))
        self._text_bytes += sum(len(output["text"]) for output in completion["outputs"] or ())
        self.rows_by_status[completion["status"]] += 1
        self.num_prompt_tokens += completion["num_prompt_tokens"] or 0
        self.num_completion_tokens += completion["num_completion_tokens"]
        if len(self._rows) >= ROWS_PER_PART or self._text_bytes >= BYTES_PER_PART:
            self.flush()

    def flush(self) -> None:
        """Write the rows collected so far."""
        if not self._rows:
            return
        self._rows.sort(key=lambda entry: entry[0])
        own = pa.Table.from_pylist([completion for _, completion in self._rows], schema=pa.schema(COMPLETION_FIELDS))
        source = self._prompts.source_columns([row for row, _ in self._rows])
        table = pa.Table.from_arrays([*own.columns, *source.columns], schema=self._schema)
        self.parts.append(self._write(table, f"parts/part-{len(self.parts):05d}.parquet"))
        failures = table.filter(pa.compute.is_in(table["status"], pa.array(_FAILURES)))
        if failures.num_rows:
            self.errors.append(self._write(failures, f"errors/errors-{len(self.errors):05d}.parquet"))
        self._rows, self._text_bytes = [], 0

    def _write(self, table: pa.Table, name: str) -> StoredFile:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        pq.write_table(table, temporary, compression="zstd")
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = temporary.stat().st_size
        temporary.replace(path)
        return StoredFile(path=name, rows=table.num_rows, bytes=size, sha256=digest)
