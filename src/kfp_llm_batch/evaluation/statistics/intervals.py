"""The interval around a metric: Wilson's for rates, the bootstrap's for everything else."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import scipy

from kfp_llm_batch.evaluation.statistics.measurements import FloatArray, IntArray, Measurements

CONFIDENCE = 0.95
RESAMPLES = 9_999
MOST_UNITS_FOR_BCA = 5_000
"""BCa leaves out each unit once, which takes the square of their number; beyond, its corrections are of no size."""
_RESAMPLES_OF_MANY = 1_999
INDICES_AT_ONCE = 2_000_000
_SEED = 20_240_229


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A range that holds the true value in 95 of 100 runs."""

    low: float
    high: float
    method: str
    """`wilson`, `bca`, `percentile`, `t` or `tango`."""

    @property
    def half_width(self) -> float:
        """Half of its length."""
        return (self.high - self.low) / 2


def interval_of(measurements: Measurements) -> Interval | None:
    """The interval around `measurements.value`; None where the data cannot tell one, as of a single mean."""
    if measurements.is_rate or (measurements.is_clustered and measurements.is_all_or_nothing):
        return _wilson(measurements)
    if measurements.num_units < 2:
        return None
    if measurements.num_units > MOST_UNITS_FOR_BCA and measurements.is_mean_of_rows:
        values = measurements.columns[:, 0]
        return None if np.ptp(values) == 0 else of_mean(values)
    return bootstrap(measurements)


def bootstrap(measurements: Measurements) -> Interval | None:
    """The bootstrap's interval, which draws units with replacement; None if all draws give the same value."""
    num_units, is_small = measurements.num_units, measurements.num_units <= MOST_UNITS_FOR_BCA
    method = "BCa" if is_small else "percentile"

    def statistic(indices: IntArray, axis: int) -> FloatArray:
        return from_indices(measurements, indices)

    with warnings.catch_warnings():
        # Of data that are all alike, where there is no interval, as the result says.
        warnings.simplefilter("ignore")
        found = scipy.stats.bootstrap(
            (np.arange(num_units),),
            statistic,
            vectorized=True,
            method=method,
            confidence_level=CONFIDENCE,
            n_resamples=RESAMPLES if is_small else _RESAMPLES_OF_MANY,
            batch=max(1, INDICES_AT_ONCE // num_units),
            rng=np.random.default_rng(_SEED),
        )
    low, high = map(float, found.confidence_interval)
    if not (math.isfinite(low) and math.isfinite(high)) or low == high:
        return None
    return Interval(low=low, high=high, method=method.lower())


def from_indices(measurements: Measurements, indices: IntArray) -> FloatArray:
    """The metric of each line of drawn units."""
    lines = indices.reshape(-1, indices.shape[-1])
    width = measurements.num_units
    places = lines + np.arange(len(lines))[:, None] * width
    counts = np.bincount(places.ravel(), minlength=len(lines) * width).reshape(len(lines), width)
    values = measurements.from_sums(counts.astype(np.float64) @ measurements.columns)
    return values.reshape(indices.shape[:-1])


def _wilson(measurements: Measurements) -> Interval | None:
    from statsmodels.stats.proportion import proportion_confint

    units = measurements.effective_units
    if not units:
        return None
    # Of clusters all rows are right, or none, so that this is a whole number.
    right = round(measurements.value * units)
    low, high = proportion_confint(right, units, alpha=1 - CONFIDENCE, method="wilson")
    return Interval(low=float(low), high=float(high), method="wilson")


def of_mean(values: FloatArray) -> Interval:
    """Student's interval around the mean of many values."""
    low, high = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(CONFIDENCE)
    return Interval(low=float(low), high=float(high), method="t")
