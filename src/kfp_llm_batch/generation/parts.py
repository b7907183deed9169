"""Finished rows become immutable Parquet parts of a local result folder while the run goes on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.disk import new_file
from kfp_llm_batch.manifests import Checksum, StoredFile, reused_of
from kfp_llm_batch.schemas import COMPLETION_FIELDS, FAULTY, STATUSES, completions_schema

ROWS_PER_PART = 10_000
BYTES_PER_PART = 64 * 2**20
"""Of completions and of the source columns that go with them."""
LOGPROB_BYTES = 48
"""One candidate token in memory."""
MIN_SECONDS_PER_PART = 10.0
MAX_SECONDS_PER_PART = 60.0
"""A part is closed at whichever comes first; the time bounds the work that a killed pod loses, see `part_seconds`."""

KeepPart = Callable[[Path, StoredFile], None]
WatchRow = Callable[[dict[str, Any]], None]


def part_seconds(age_seconds: float) -> float:
    """How long a part may be open whose first row came so long after the first row of the run.

    A young run loses a third of its work at most, an old one writes few small parts.
    """
    return min(MAX_SECONDS_PER_PART, max(MIN_SECONDS_PER_PART, age_seconds / 2))


class PartWriter:
    """Collects finished rows and writes them out part by part, faulty rows to `errors/` as well.

    Args:
        folder: The result folder; gets `parts/` and `errors/`.
        prompts: Where the rows' source columns come from.
        watch: Shown every finished row; may end the run by raising.
    """

    def __init__(self, folder: Path, prompts: Prompts, watch: WatchRow = lambda completion: None) -> None:
        self._folder = folder
        self._prompts = prompts
        self._schema = completions_schema(prompts.source_fields)
        self._rows: list[tuple[int, dict[str, Any]]] = []
        self._bytes = 0
        source_bytes = sum(file.bytes for file in prompts.manifest.shards)
        self._source_bytes_per_row = source_bytes // max(1, prompts.manifest.rows)
        self.parts: list[StoredFile] = []
        self.errors: list[StoredFile] = []
        self.num_prompt_tokens = 0
        self.num_completion_tokens = 0
        self.reused = reused_of(0, 0)
        """Rows and tokens of answers that other runs have made."""
        self._first_row_at: float | None = None
        self._opened = 0.0
        self._keep_part: KeepPart | None = None
        self._watch = watch
        self.keys = Checksum()
        """Of the rows taken; a finished run has the same as its prompts."""
        self.rows_by_status: Counter[str] = Counter(dict.fromkeys(STATUSES, 0))

    def keep_parts(self, keep: KeepPart) -> None:
        """From now on hand every part to `keep` as soon as it is written."""
        self._keep_part = keep
        self._first_row_at = None  # rows until now were only taken over

    def add(self, row: int, completion: dict[str, Any]) -> None:
        """Take one finished row: its number in the prompts and our columns."""
        if completion.get("provenance"):
            self.reused["rows"] += 1
            self.reused["completion_tokens"] += completion["num_completion_tokens"]
        if not self._rows:
            self._opened = time.monotonic()
            self._first_row_at = self._first_row_at or self._opened
        self._rows.append((row, completion))
        self.keys.add(completion["row_id"], completion["request_key"])
        self._bytes += self._source_bytes_per_row + sum(map(_size, completion["outputs"] or ()))
        self.rows_by_status[completion["status"]] += 1
        self.num_prompt_tokens += completion["num_prompt_tokens"] or 0
        self.num_completion_tokens += completion["num_completion_tokens"]
        self._watch(completion)
        if len(self._rows) >= ROWS_PER_PART or self._bytes >= BYTES_PER_PART:
            self.flush()

    def flush_if_old(self) -> None:
        """Write the rows collected so far if the first of them has waited long."""
        age = self._opened - (self._first_row_at or self._opened)
        if self._rows and time.monotonic() - self._opened >= part_seconds(age):
            self.flush()

    def flush(self) -> None:
        """Write the rows collected so far."""
        if not self._rows:
            return
        self._rows.sort(key=lambda entry: entry[0])
        own = pa.Table.from_pylist([completion for _, completion in self._rows], schema=pa.schema(COMPLETION_FIELDS))
        source = self._prompts.source_columns([row for row, _ in self._rows])
        table = pa.Table.from_arrays([*own.columns, *source.columns], schema=self._schema)
        part = self._write(table, f"parts/part-{len(self.parts):05d}.parquet")
        self.parts.append(part)
        failures = table.filter(pa.compute.is_in(table["status"], pa.array(FAULTY)))
        if failures.num_rows:
            self.errors.append(self._write(failures, f"errors/errors-{len(self.errors):05d}.parquet"))
        self._rows, self._bytes = [], 0
        if self._keep_part:
            self._keep_part(self._folder / part.path, part)

    def _write(self, table: pa.Table, name: str) -> StoredFile:
        with new_file(self._folder / name) as path:
            pq.write_table(table, path, compression="zstd")
            return StoredFile.of(path, name, table.num_rows)


def _size(output: dict[str, Any]) -> int:
    return len(output["text"]) + LOGPROB_BYTES * sum(map(len, output.get("logprobs") or ()))
