"""The table of scores: one line per row of the completions, everything that statistics and report need of it.

row_id | status | answer | target | scores {numeric_match: 1.0} | extracted {...} | statistics {...} | source {...}
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kfp_llm_batch.disk import new_file
from kfp_llm_batch.evaluation.completion_rows import CompletionBatch, input_digest
from kfp_llm_batch.evaluation.scorers.classification import Classification
from kfp_llm_batch.evaluation.scorers.protocol import Answer, FloatArray, Metric, Row, Score, as_text, target_texts
from kfp_llm_batch.evaluation.scorers.registry import NamedScorer

TABLE = "scores.parquet"
_COPIED = (
    "row_id",
    "request_key",
    "status",
    "finish_reason",
    "truncated_by",
    "num_prompt_tokens",
    "num_completion_tokens",
)
_NO_CLASS = ""
"""In a confusion matrix: answers that name no class."""


class ScoreWriter:
    """Scores batches of completions into a table.

    Args:
        folder: Gets the table.
        scorers: Ready to score.
        source_fields: The carried columns.
        missing_is_wrong: Whether rows without an answer get what a metric gives for them; else they are left out.
    """

    def __init__(
        self, folder: Path, scorers: Sequence[NamedScorer], source_fields: Sequence[pa.Field], *, missing_is_wrong: bool
    ) -> None:
        self._path = folder / TABLE
        self._scorers = scorers
        self._source_fields = list(source_fields)
        self._missing_is_wrong = missing_is_wrong
        self._schema = _schema(scorers, self._source_fields)
        self.confusion: dict[str, Counter[tuple[str, str]]] = {
            named.key: Counter() for named in scorers if named.name == "classification"
        }
        """By classification scorer, pairs of expected and found class."""
        self.rows = 0

    def __enter__(self) -> Self:
        self._file = new_file(self._path)
        self._writer = pq.ParquetWriter(self._file.__enter__(), self._schema, compression="zstd")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        self._file.__exit__(kind, error, trace)

    def add(self, batch: CompletionBatch) -> None:
        """Score some rows."""
        scores = {named.key: [self._score(named, row) for row in batch.rows] for named in self._scorers}
        for named in self._scorers:
            if isinstance(named.scorer, Classification):
                for row, score in zip(batch.rows, scores[named.key], strict=True):
                    if score is not None and (expected := named.scorer.expected_class(row)) is not None:
                        self.confusion[named.key][expected, score.extracted or _NO_CLASS] += 1
        self.rows += len(batch.rows)
        columns = {
            **{name: batch.table.column(name) for name in _COPIED},
            "answer": [row.answers[0].text if row.answers else None for row in batch.rows],
            "num_answers": [len(row.answers) for row in batch.rows],
            "target": [None if row.target is None else _target_text(row.target) for row in batch.rows],
            "input_digest": [input_digest(row.columns) for row in batch.rows],
            **self._score_columns(scores),
        }
        if self._source_fields:
            sources = [batch.table.column(field.name) for field in self._source_fields]
            columns["source"] = pa.StructArray.from_arrays(sources, fields=self._source_fields)
        arrays = [
            column if isinstance(column, pa.Array) else pa.array(column, field.type)
            for field, column in ((field, columns[field.name]) for field in self._schema)
        ]
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))

    def _score_columns(self, scores: Mapping[str, list[Score | None]]) -> dict[str, Any]:
        columns: dict[str, Any] = {"scores": [], "extracted": [], "statistics": []}
        for entries in zip(*scores.values(), strict=True):
            values: dict[str, float | None] = {}
            for named, score in zip(self._scorers, entries, strict=True):
                values |= _values(named.metrics, score)
            keyed = list(zip(self._scorers, entries, strict=True))
            columns["scores"].append(values)
            columns["extracted"].append({named.key: score and score.extracted for named, score in keyed})
            columns["statistics"].append({named.key: (score and score.statistics) or None for named, score in keyed})
        return columns

    def _score(self, named: NamedScorer, row: Row) -> Score | None:
        if named.scorer.needs_target and not target_texts(row):
            return None
        if row.answers:
            return named.scorer.score(row)
        if not self._missing_is_wrong:
            return None
        # What is counted over all rows together needs an answer, and an empty one is the worst.
        score = named.scorer.score(dataclasses.replace(row, answers=(Answer(text=""),)))
        values = tuple(None if metric.corpus else metric.missing for metric in named.metrics)
        return None if score is None else Score(values, None, score.statistics)


def _values(metrics: Sequence[Metric], score: Score | None) -> dict[str, float | None]:
    if score is None:
        return dict.fromkeys(metric.name for metric in metrics)
    return {metric.name: value for metric, value in zip(metrics, score.values, strict=True)}


def _target_text(target: Any) -> str:
    return " | ".join(map(as_text, target)) if isinstance(target, list) else as_text(target)


def _schema(scorers: Sequence[NamedScorer], source_fields: Sequence[pa.Field]) -> pa.Schema:
    text, count = pa.string(), pa.int32()
    values = pa.struct([pa.field(metric.name, pa.float64()) for named in scorers for metric in named.metrics])
    fields = [
        pa.field("row_id", text, nullable=False),
        pa.field("request_key", text, nullable=False),
        pa.field("status", text, nullable=False),
        pa.field("finish_reason", text),
        pa.field("truncated_by", text),
        pa.field("num_prompt_tokens", count),
        pa.field("num_completion_tokens", count),
        pa.field("answer", text),
        pa.field("num_answers", count),
        pa.field("target", text),
        pa.field("input_digest", pa.int64()),
        pa.field("scores", values),
        pa.field("extracted", pa.struct([pa.field(named.key, text) for named in scorers])),
        pa.field("statistics", pa.struct([pa.field(named.key, pa.list_(pa.float64())) for named in scorers])),
    ]
    if source_fields:
        fields.append(pa.field("source", pa.struct(list(source_fields))))
    return pa.schema(fields)


@dataclass(frozen=True)
class ScoreTable:
    """A table of scores on the disk; every column is read when it is asked for."""

    path: Path

    def column(self, name: str) -> pa.ChunkedArray:
        """One of our columns, or a field of one, as in `scores.exact_match`."""
        head, _, field = name.partition(".")
        column = self._read(name).column(head)
        return pc.struct_field(column, field) if field else column

    @property
    def source_names(self) -> list[str]:
        """The carried source columns."""
        schema = pq.read_schema(self.path)
        return [column.name for column in schema.field("source").type] if "source" in schema.names else []

    def source(self, name: str) -> pa.ChunkedArray:
        """A carried source column; an empty one of a table without rows, which carries none."""
        if name not in self.source_names:
            return pa.chunked_array([], pa.string())
        # A name with a point in it would be taken for a path.
        wanted = "source" if "." in name else f"source.{name}"
        return pc.struct_field(self._read(wanted).column("source"), [name])

    def numbers(self, name: str) -> FloatArray:
        """What `column` gives, without rows that have none."""
        return np.asarray(self.column(name).drop_null().to_numpy(), dtype=np.float64)

    def values(self, metric: str) -> FloatArray:
        """A metric's values of all rows, NaN where a row has none."""
        return np.asarray(self.column(f"scores.{metric}").to_numpy(), dtype=np.float64)

    def statistics(self, key: str) -> FloatArray:
        """A scorer's statistics, one line per row, NaN where a row has none."""
        lists = self.column(f"statistics.{key}").combine_chunks()
        has_some = lists.is_valid().to_numpy(zero_copy_only=False)
        flat = np.asarray(lists.drop_null().flatten().to_numpy(zero_copy_only=False), dtype=np.float64)
        lines = np.full((len(lists), max(1, len(flat) // max(1, int(has_some.sum())))), np.nan)
        lines[has_some] = flat.reshape(-1, lines.shape[1])
        return lines

    def _read(self, name: str) -> pa.Table:
        # The reader of whole datasets takes a field of a struct for a column of its own.
        with pq.ParquetFile(self.path) as file:
            return file.read(columns=[name])
