"""The metrics of one run: each with its interval, over all rows and over the slices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from kfp_llm_batch.evaluation.score_table import ScoreTable
from kfp_llm_batch.evaluation.scorers.protocol import Metric
from kfp_llm_batch.evaluation.scorers.registry import NamedScorer
from kfp_llm_batch.evaluation.statistics.intervals import interval_of
from kfp_llm_batch.evaluation.statistics.measurements import (
    FloatArray,
    IntArray,
    Measurements,
    of_statistics,
    of_values,
)

FEWEST_ROWS_OF_A_SLICE = 30
"""Below that a slice says hardly anything, and is not shown."""
MOST_SLICES_OF_A_COLUMN = 30
_QUANTILES = 4
_MOST_NUMBERS = 12
"""A column of more different numbers than this is cut into quarters."""

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One metric of some rows."""

    metric: str
    unit: str
    higher_is_better: bool | None
    value: float | None
    """None if no row was scored."""
    low: float | None
    high: float | None
    method: str | None
    """Of the interval."""
    n_total: int
    n_scored: int


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The rows that have one value in a column."""

    column: str
    value: str
    estimates: tuple[Estimate, ...]


class RunMeasurements:
    """What the rows of one table of scores contribute to each metric.

    Args:
        table: The scores.
        scorers: Those that made them.
        cluster_column: Which rows hang together.
    """

    def __init__(self, table: ScoreTable, scorers: Sequence[NamedScorer], cluster_column: str | None) -> None:
        self.table = table
        self._keys = {metric.name: named.key for named in scorers for metric in named.metrics}
        self.metrics: dict[str, Metric] = {metric.name: metric for named in scorers for metric in named.metrics}
        self._clusters = None if cluster_column is None else _codes(table, cluster_column)
        self._columns: dict[str, FloatArray] = {}

    def scored(self, metric: Metric) -> BoolArray:
        """Which rows have a value, or statistics."""
        return np.asarray(~np.isnan(self._numbers(metric)).any(axis=1))

    def clusters(self, rows: IntArray) -> IntArray | None:
        """The cluster of each of some rows, numbered from 0; None if every row stands for itself."""
        return None if self._clusters is None else np.unique(self._clusters[rows], return_inverse=True)[1]

    def of(self, metric: Metric, rows: IntArray, clusters: IntArray | None) -> Measurements:
        """The measurements of some rows, all of which must be scored.

        Args:
            metric: One of `metrics`.
            rows: Their numbers, in the order that they are to have.
            clusters: What `clusters` says of them.
        """
        numbers = self._numbers(metric)[rows]
        if metric.corpus is None:
            return of_values(numbers[:, 0], clusters)
        return of_statistics(numbers, metric.corpus, clusters)

    def _numbers(self, metric: Metric) -> FloatArray:
        name = self._keys[metric.name] if metric.corpus else f"scores.{metric.name}"
        if name not in self._columns:
            is_corpus = metric.corpus is not None
            self._columns[name] = self.table.statistics(name) if is_corpus else self.table.values(metric.name)[:, None]
        return self._columns[name]


def estimates(run: RunMeasurements, rows: BoolArray) -> tuple[Estimate, ...]:
    """All metrics of some rows."""
    return tuple(_estimate(run, metric, rows) for metric in run.metrics.values())


def _estimate(run: RunMeasurements, metric: Metric, rows: BoolArray) -> Estimate:
    numbers = np.flatnonzero(rows & run.scored(metric))
    measured = run.of(metric, numbers, run.clusters(numbers))
    interval = interval_of(measured) if len(numbers) else None
    return Estimate(
        metric=metric.name,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        value=measured.value if len(numbers) else None,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        method=interval.method if interval else None,
        n_total=int(rows.sum()),
        n_scored=len(numbers),
    )


def slices_of(table: ScoreTable, columns: Sequence[str]) -> Iterator[tuple[str, str, BoolArray]]:
    """Column, value and rows of every slice that is large enough; the largest of a column first."""
    for column in columns:
        labels = _slice_labels(table, column)
        names, counts = np.unique(labels, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:MOST_SLICES_OF_A_COLUMN]
        for index in order:
            if counts[index] >= FEWEST_ROWS_OF_A_SLICE:
                yield column, str(names[index]), labels == names[index]


def _slice_labels(table: ScoreTable, column: str) -> npt.NDArray[np.str_]:
    values = [
        None if isinstance(value, float) and not math.isfinite(value) else value
        for value in table.source(column).to_pylist()
    ]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len([value for value in values if value is not None]) or len(set(numbers)) <= _MOST_NUMBERS:
        return np.array(["(none)" if value is None else str(value) for value in values])
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, _QUANTILES + 1)))
    names = [f"{low:,.6g} to {high:,.6g}" for low, high in itertools.pairwise(edges)]
    places = [None if value is None else int(np.searchsorted(edges[1:-1], value, side="left")) for value in values]
    return np.array(["(none)" if place is None else names[place] for place in places])


def _codes(table: ScoreTable, column: str) -> IntArray:
    """Each row's cluster as a number; rows without a value are clusters of their own."""
    encoded = pc.dictionary_encode(table.source(column).combine_chunks())
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.float64)
    alone = np.isnan(codes)
    codes[alone] = len(encoded.dictionary) + np.arange(alone.sum())
    return np.asarray(codes, dtype=np.int64)
