"""Two runs on the same rows: how much they differ, how sure that is, and whether it can be chance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy

from kfp_llm_batch.evaluation.statistics.intervals import (
    CONFIDENCE,
    INDICES_AT_ONCE,
    MOST_UNITS_FOR_BCA,
    RESAMPLES,
    Interval,
    bootstrap,
    from_indices,
    of_mean,
)
from kfp_llm_batch.evaluation.statistics.measurements import FloatArray, IntArray, Measurements, difference

_MOST_UNITS_TO_PERMUTE = 5_000
_SEED = 20_240_301
_EDGE = 1e-12
_DEVIATE = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The difference of two runs in one metric: candidate minus baseline."""

    num_rows: int
    num_units: int
    candidate: float
    baseline: float
    interval: Interval | None
    """Of the difference."""
    p_value: float
    """Two-sided: how often chance alone differs as much."""
    test: str
    """`mcnemar`, `permutation`, `t` or `z`."""
    num_lower: int
    """Units with a lower value than in the baseline: for rates, those that went from 1 to 0."""
    num_higher: int
    is_rate: bool
    deviation: float
    """Standard deviation of the difference of one unit, which tells how many units a decision takes."""

    @property
    def difference(self) -> float:
        """Candidate minus baseline."""
        return self.candidate - self.baseline


def compare(candidate: Measurements, baseline: Measurements, largest: float | None = 1.0) -> Paired:
    """Compare two runs whose units are the same and stand in the same order; there must be at least one.

    Args:
        candidate: The newer run.
        baseline: The one that it is held against.
        largest: The best or worst that the metric can be, such as 1 or 100; None if it has no bound.
    """
    lower, higher = _changed_units(candidate, baseline)
    is_rate = candidate.is_rate and baseline.is_rate
    if is_rate:
        interval: Interval | None = tango(lower, higher, candidate.num_units)
        p_value, test = _mcnemar(lower, higher), "mcnemar"
    else:
        interval = _interval(candidate, baseline, largest)
        p_value, test = _permutation(candidate, baseline, interval)
    return Paired(
        num_rows=candidate.num_rows,
        num_units=candidate.num_units,
        candidate=candidate.value,
        baseline=baseline.value,
        interval=interval,
        p_value=p_value,
        test=test,
        num_lower=lower,
        num_higher=higher,
        is_rate=is_rate,
        deviation=_deviation(candidate, baseline, interval),
    )


def tango(lower: int, higher: int, units: int) -> Interval:
    """Tango's score interval of a difference of paired rates, which holds for few and for no changed rows too.

    Args:
        lower: Units that went from 1 to 0.
        higher: Units that went from 0 to 1.
        units: All of them.
    """
    found = (higher - lower) / units

    def beyond(bound: float, side: float) -> float:
        likeliest = _likeliest_loss_rate(lower, higher, units, bound)
        variance = units * (2 * likeliest + bound * (1 - bound))
        return (higher - lower - units * bound) / math.sqrt(max(variance, _EDGE)) - side

    low = scipy.optimize.brentq(beyond, -1 + _EDGE, found, (_DEVIATE,)) if found > -1 + _EDGE else -1.0
    high = scipy.optimize.brentq(beyond, found, 1 - _EDGE, (-_DEVIATE,)) if found < 1 - _EDGE else 1.0
    return Interval(low=float(low), high=float(high), method="tango")


def _likeliest_loss_rate(lower: int, higher: int, units: int, bound: float) -> float:
    """The rate of losses that makes the counts likeliest if the rates differ by `bound`."""
    middle = lower + higher - bound * (2 * units - higher + lower)
    root = math.sqrt(max(0.0, middle**2 + 8 * units * lower * bound * (1 - bound)))
    return max(0.0, -bound, (middle + root) / (4 * units))


def _changed_units(candidate: Measurements, baseline: Measurements) -> tuple[int, int]:
    """Of a metric of all rows together none is said to have changed."""
    if candidate.of_sums is not None:
        return 0, 0
    changes = _changes(candidate, baseline)
    return int((changes < 0).sum()), int((changes > 0).sum())


def _changes(candidate: Measurements, baseline: Measurements) -> FloatArray:
    return np.asarray(candidate.columns[:, 0] - baseline.columns[:, 0])


def _mcnemar(lower: int, higher: int) -> float:
    from statsmodels.stats.contingency_tables import mcnemar

    return float(mcnemar([[0, lower], [higher, 0]], exact=True).pvalue)


def _interval(candidate: Measurements, baseline: Measurements, largest: float | None) -> Interval | None:
    if candidate.num_units < 2:
        return None
    if np.array_equal(candidate.columns, baseline.columns):
        return None if largest is None else _of_no_change(candidate.effective_units, largest)
    if candidate.is_mean_of_rows and candidate.num_units > MOST_UNITS_FOR_BCA:
        return of_mean(_changes(candidate, baseline))
    return bootstrap(difference(candidate, baseline))


def _of_no_change(units: int, largest: float) -> Interval:
    """Equal values in every row still leave room: as much as rates would have, on the scale of the metric."""
    of_rates = tango(0, 0, units)
    return Interval(low=largest * of_rates.low, high=largest * of_rates.high, method=of_rates.method)


def _permutation(candidate: Measurements, baseline: Measurements, interval: Interval | None) -> tuple[float, str]:
    """Whether the runs' names could be exchanged in any unit: p-value and name of the test."""
    if candidate.of_sums is not None:
        return _corpus_test(candidate, baseline, interval)
    pairs = np.column_stack([candidate.columns[:, 0], baseline.columns[:, 0]])
    changed = pairs[pairs[:, 0] != pairs[:, 1]]
    if len(changed) < 2:
        return 1.0, "permutation"
    # Exchanging equal values changes nothing, so that the other units alone decide.
    if len(changed) > _MOST_UNITS_TO_PERMUTE:
        return float(scipy.stats.ttest_rel(pairs[:, 0], pairs[:, 1]).pvalue), "t"
    p_value = _p_of_permutations(
        changed[:, 0], changed[:, 1], lambda left, right, axis: np.mean(left - right, axis=axis)
    )
    return p_value, "permutation"


def _corpus_test(candidate: Measurements, baseline: Measurements, interval: Interval | None) -> tuple[float, str]:
    if candidate.num_units < 2 or np.array_equal(candidate.columns, baseline.columns):
        return 1.0, "permutation"
    if candidate.num_units <= _MOST_UNITS_TO_PERMUTE or interval is None:
        return _corpus_permutation(candidate, baseline), "permutation"
    # 47 s for 50,000 units and ten columns; by then the bootstrap's values are distributed normally.
    deviates = (candidate.value - baseline.value) / (interval.half_width / _DEVIATE)
    return float(2 * scipy.stats.norm.sf(abs(deviates))), "z"


def _corpus_permutation(candidate: Measurements, baseline: Measurements) -> float:
    num_units = candidate.num_units
    stacked = dataclasses.replace(candidate, columns=np.vstack([candidate.columns, baseline.columns]))

    def statistic(left: IntArray, right: IntArray, axis: int) -> FloatArray:
        return from_indices(stacked, left) - from_indices(stacked, right)

    return _p_of_permutations(np.arange(num_units), np.arange(num_units, 2 * num_units), statistic)


def _p_of_permutations(left: npt.NDArray[Any], right: npt.NDArray[Any], statistic: Callable[..., FloatArray]) -> float:
    found = scipy.stats.permutation_test(
        (left, right),
        statistic,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, INDICES_AT_ONCE // (len(left) + len(right))),
        rng=np.random.default_rng(_SEED),
    )
    return float(found.pvalue)


def _deviation(candidate: Measurements, baseline: Measurements, interval: Interval | None) -> float:
    """From the units where they have differences of their own, else from the interval, with room for no change."""
    if candidate.is_mean_of_rows and candidate.num_units > 1 and (changes := _changes(candidate, baseline)).any():
        return float(np.std(changes, ddof=1))
    if interval is None:
        return math.nan
    return interval.half_width / _DEVIATE * math.sqrt(candidate.num_units)
