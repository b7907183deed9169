"""Completions as scorers see them, read part by part, a bounded number in memory at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kfp_llm_batch.dataset.carried_types import as_text
from kfp_llm_batch.errors import ConfigurationError, DataError
from kfp_llm_batch.evaluation.reasoning import without_reasoning
from kfp_llm_batch.evaluation.scorers.protocol import Answer, Row
from kfp_llm_batch.manifests import FILE_NAME, ResultManifest
from kfp_llm_batch.schemas import COMPLETION_FIELDS

RECORDED = "recorded"
"""A column with scores that were given before; it is no part of what a row was asked."""
_BATCH_ROWS = 1_000
_OWN = tuple(column.name for column in COMPLETION_FIELDS)
# Log-probabilities can be many times the text.
_OUTPUT_LEAVES = ("outputs.list.element.text", "outputs.list.element.finish_reason")


@dataclass(frozen=True, kw_only=True)
class CompletionBatch:
    """Some rows, in two forms."""

    table: pa.RecordBatch
    """Our columns and the carried ones, as they are stored."""
    rows: list[Row]


class Completions:
    """A folder of completions.

    Args:
        folder: What `generate_completions` wrote, or a fetched result.
        target_column: Which carried column the targets are in.

    Raises:
        DataError: The folder is no finished result.
        ConfigurationError: Its format cannot be scored.
    """

    def __init__(self, folder: Path, target_column: str | None) -> None:
        path = folder / FILE_NAME
        if not path.is_file():
            raise DataError("The completions have no manifest: they are not finished", received=str(folder))
        self.manifest = ResultManifest.from_json(path.read_bytes(), str(path))
        if self.manifest.output_format != "parquet":
            raise ConfigurationError(
                "Completions of this format cannot be scored",
                received=self.manifest.output_format,
                allowed=["parquet"],
                remedy="Write the result with output_format=parquet; nothing has to be generated again.",
            )
        self._parts = [folder / part.path for part in self.manifest.parts]
        self._target_column = target_column
        schema = pq.read_schema(self._parts[0]) if self._parts else pa.schema(COMPLETION_FIELDS)
        self.source_fields: list[pa.Field] = [column for column in schema if column.name not in _OWN]

    def batches(self) -> Iterator[CompletionBatch]:
        """All rows, in the order of the parts."""
        wanted = [name for name in _OWN if name != "outputs"]
        columns = [*wanted, *_OUTPUT_LEAVES, *(column.name for column in self.source_fields)]
        for part in self._parts:
            with pq.ParquetFile(part) as file:
                for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
                    yield CompletionBatch(table=batch, rows=[self._row(row) for row in batch.to_pylist()])

    def rows(self) -> Iterator[Row]:
        """All rows, as scorers see them."""
        for batch in self.batches():
            yield from batch.rows

    def _row(self, row: Mapping[str, Any]) -> Row:
        source = {column.name: row[column.name] for column in self.source_fields}
        return Row(
            row_id=row["row_id"],
            answers=tuple(_answer(output) for output in row["outputs"] or ()),
            target=source[self._target_column] if self._target_column else None,
            num_completion_tokens=row["num_completion_tokens"],
            columns=source,
        )


def input_digest(columns: Mapping[str, Any]) -> int:
    """63 bits that stand for what a row was asked, so that two runs can tell whether they were asked the same."""
    asked = {name: value for name, value in columns.items() if name != RECORDED}
    content = json.dumps(asked, sort_keys=True, default=as_text)
    return int.from_bytes(hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> 1


def _answer(output: Mapping[str, Any]) -> Answer:
    return Answer(text=without_reasoning(output["text"]), is_truncated=output["finish_reason"] == "length")
