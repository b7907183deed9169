"""What the rows contribute to one metric: columns of additive numbers, and what becomes of their sums."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """One metric of one run, or of two runs on the same rows; a unit is a row, or a cluster of rows."""

    columns: FloatArray
    """One line per unit."""
    of_sums: Callable[[FloatArray], float] | None
    """The metric from the sums of the columns; without it their first divided by their second: a mean."""
    num_rows: int
    is_clustered: bool
    effective_units: int
    """As many units of one size as tell the same: fewer than there are where clusters differ in size."""

    @property
    def num_units(self) -> int:
        """What the uncertainty is about: rows of a cluster say little more than one of them."""
        return len(self.columns)

    @property
    def is_mean_of_rows(self) -> bool:
        """Whether it is a mean of rows, each of which stands for itself."""
        return self.of_sums is None and not self.is_clustered

    @property
    def is_rate(self) -> bool:
        """Whether it is a share of rows that are 1, each for itself."""
        values = self.columns[:, 0]
        return self.is_mean_of_rows and bool(((values == 0) | (values == 1)).all())

    @property
    def is_all_or_nothing(self) -> bool:
        """Whether it is the mean of rows that all are 1, or all 0."""
        hits, rows = self.columns[:, 0], self.columns[:, -1]
        return self.of_sums is None and bool((hits == rows).all() or (hits == 0).all())

    @property
    def value(self) -> float:
        """The metric."""
        return float(self.from_sums(self.columns.sum(axis=0)[None, :])[0])

    def from_sums(self, sums: FloatArray) -> FloatArray:
        """The metric from each line of sums."""
        if self.of_sums is None:
            means = np.full(len(sums), np.nan)
            np.divide(sums[:, 0], sums[:, 1], out=means, where=sums[:, 1] > 0)
            return means
        return np.array([self.of_sums(line) for line in sums])


def of_values(values: FloatArray, clusters: IntArray | None = None) -> Measurements:
    """The mean of the rows' values.

    Args:
        values: One per row, without NaN.
        clusters: Number of each row's cluster, from 0; none if every row stands for itself.
    """
    return of_statistics(np.column_stack([values, np.ones(len(values))]), None, clusters)


def of_statistics(
    columns: FloatArray, of_sums: Callable[[FloatArray], float] | None, clusters: IntArray | None = None
) -> Measurements:
    """A metric of all rows together.

    Args:
        columns: One line per row.
        of_sums: The metric from the sums of all lines, as in `Measurements`.
        clusters: As in `of_values`.
    """
    num_rows, effective_units = len(columns), len(columns)
    if clusters is not None:
        sizes: IntArray = np.bincount(clusters).astype(np.int64)
        columns = np.column_stack([np.bincount(clusters, column) for column in columns.T])
        columns = columns[sizes > 0]
        # Kish's formula.
        effective_units = num_rows**2 // max(1, int((sizes**2).sum()))
    return Measurements(
        columns=columns,
        of_sums=of_sums,
        num_rows=num_rows,
        is_clustered=clusters is not None,
        effective_units=effective_units,
    )


def difference(candidate: Measurements, baseline: Measurements) -> Measurements:
    """Candidate minus baseline, of two runs whose units are the same and stand in the same order."""
    width = candidate.columns.shape[1]

    def of_sums(sums: FloatArray) -> float:
        return float(candidate.from_sums(sums[None, :width])[0] - baseline.from_sums(sums[None, width:])[0])

    return dataclasses.replace(candidate, columns=np.hstack([candidate.columns, baseline.columns]), of_sums=of_sums)
