"""The step `evaluate_completions`: completions in, a table of scores and its manifest out."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kfp_llm_batch.disk import temporary_folder, writing
from kfp_llm_batch.errors import ConfigurationError, DataError
from kfp_llm_batch.evaluation import canary
from kfp_llm_batch.evaluation.completion_rows import Completions
from kfp_llm_batch.evaluation.config import EvaluationConfig
from kfp_llm_batch.evaluation.manifest import EvaluationManifest, facts_of_result
from kfp_llm_batch.evaluation.score_table import TABLE, ScoreTable, ScoreWriter
from kfp_llm_batch.evaluation.scorers.protocol import NeedsAllRows, Row
from kfp_llm_batch.evaluation.scorers.registry import NamedScorer
from kfp_llm_batch.evaluation.summary import RunMeasurements, Slice, estimates, slices_of
from kfp_llm_batch.manifests import StoredFile
from kfp_llm_batch.results.publishing import fetch_result
from kfp_llm_batch.row_log import RowLog

_LOG = logging.getLogger("kfp_llm_batch")


@contextmanager
def completions_folder(local: Path | None, result_uri: str | None) -> Iterator[Path]:
    """The completions that are to be scored, from an earlier step or from a store.

    Raises:
        ConfigurationError: None or both are named.
        ResultError: There is no result, or it is damaged.
    """
    if (local is None) == (result_uri is None):
        raise ConfigurationError(
            "Either completions or result_uri says what is scored", received=f"result_uri={result_uri!r}"
        )
    if local is not None:
        yield local
        return
    with temporary_folder() as folder:
        fetch_result(str(result_uri), folder)
        yield folder


def evaluate(
    config: EvaluationConfig, completions_folder: Path, scores_folder: Path, canary_folder: Path | None = None
) -> EvaluationManifest:
    """Score every row of `completions_folder`, and write the table and what follows from it into `scores_folder`.

    Args:
        config: What is measured.
        completions_folder: What `generate_completions` wrote.
        scores_folder: Gets the table and the manifest.
        canary_folder: Some of the rows answered a second time.

    Raises:
        BatchError: See errors.py.
    """
    completions = Completions(completions_folder, config.target_column)
    again = Completions(canary_folder, config.target_column) if canary_folder else None
    if completions.manifest.rows_out:
        config.check_columns({column.name: column.type for column in completions.source_fields})
    with writing(scores_folder), temporary_folder() as folder:
        scores_folder.mkdir(parents=True, exist_ok=True)
        scorers = tuple(_prepared(named, (completions, again), folder) for named in config.made_scorers)
        confusion = _write_scores(config, completions, scorers, scores_folder)
        _check_identities(ScoreTable(scores_folder / TABLE))
        noise = _noise(config, again, scorers, scores_folder, folder) if again else {}
    manifest = dataclasses.replace(_manifest(config, completions, scorers, scores_folder, confusion), noise=noise)
    manifest.save(scores_folder)
    return manifest


def _prepared(named: NamedScorer, completions: Sequence[Completions | None], folder: Path) -> NamedScorer:
    if not isinstance(named.scorer, NeedsAllRows):
        return named

    def rows() -> Iterator[Row]:
        return itertools.chain.from_iterable(entry.rows() for entry in completions if entry)

    own_folder = folder / named.key
    own_folder.mkdir()
    return dataclasses.replace(named, scorer=named.scorer.prepare(rows, own_folder))


def _write_scores(
    config: EvaluationConfig, completions: Completions, scorers: Sequence[NamedScorer], folder: Path
) -> dict[str, Any]:
    log = RowLog("Scored")
    with ScoreWriter(folder, scorers, completions.source_fields, missing_is_wrong=config.missing == "wrong") as writer:
        for batch in completions.batches():
            writer.add(batch)
            log.log(writer.rows)
    return {key: _matrix(pairs) for key, pairs in writer.confusion.items()}


def _check_identities(table: ScoreTable) -> None:
    ids = table.column("row_id")
    if (different := pc.count_distinct(ids).as_py()) < len(ids):
        raise DataError(
            "Two rows of the completions have the same row_id, by which scores are joined",
            received=f"{len(ids):,} rows, {different:,} different ids",
            remedy="Name a column without repetitions as dataset_id_column, and generate again.",
        )


def _noise(
    config: EvaluationConfig, again: Completions, scorers: Sequence[NamedScorer], scores_folder: Path, folder: Path
) -> dict[str, Any]:
    if not again.manifest.rows_out:
        return {}
    _write_scores(config, again, scorers, folder)
    metrics = [metric for named in scorers for metric in named.metrics]
    return canary.noise(ScoreTable(scores_folder / TABLE), ScoreTable(folder / TABLE), metrics)


def _matrix(pairs: Counter[tuple[str, str]]) -> dict[str, Any]:
    """Classes, expected ones as lines and found ones as columns; answers without a class in a column of their own."""
    classes = sorted({name for pair in pairs for name in pair} - {""})
    return {
        "classes": [*classes, "(none)"],
        "matrix": [[pairs[expected, found] for found in [*classes, ""]] for expected in [*classes, ""]],
    }


def _manifest(
    config: EvaluationConfig,
    completions: Completions,
    scorers: Sequence[NamedScorer],
    folder: Path,
    confusion: Mapping[str, Any],
) -> EvaluationManifest:
    table = ScoreTable(folder / TABLE)
    run = RunMeasurements(table, scorers, config.cluster_column)
    scores = StoredFile.of(table.path, TABLE, pq.read_metadata(table.path).num_rows)
    slices = [
        Slice(column=column, value=value, estimates=estimates(run, rows))
        for column, value, rows in slices_of(table, config.slice_columns)
    ]
    return EvaluationManifest(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        rows=scores.rows,
        scorers=tuple(_described_scorer(named) for named in scorers),
        target_column=config.target_column,
        slice_columns=tuple(config.slice_columns),
        cluster_column=config.cluster_column,
        missing=config.missing,
        metrics=tuple(dataclasses.asdict(entry) for entry in estimates(run, np.ones(scores.rows, dtype=bool))),
        slices=tuple(dataclasses.asdict(entry) for entry in slices),
        confusion=dict(confusion),
        scores=scores,
        result=facts_of_result(completions.manifest),
    )


def _described_scorer(named: NamedScorer) -> dict[str, Any]:
    return {"key": named.key, "specification": named.specification(), "version": named.scorer.version}
