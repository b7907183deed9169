"""The statistics of one run and of two, held against other ways to compute the same."""

import itertools
import math

import numpy as np
import pytest
from scipy import optimize, stats

from kfp_llm_batch.evaluation.statistics.intervals import interval_of
from kfp_llm_batch.evaluation.statistics.measurements import of_statistics, of_values
from kfp_llm_batch.evaluation.statistics.multiplicity import holm
from kfp_llm_batch.evaluation.statistics.paired import compare, tango
from kfp_llm_batch.evaluation.statistics.power import (
    detectable_loss,
    power_for_means,
    power_for_rates,
    units_to_decide,
)

Z = stats.norm.ppf(0.975)


def interval(measurements):
    return interval_of(measurements)


def compared(candidate, baseline, largest=1.0):
    return compare(candidate, baseline, largest)


def rates(right, rows):
    return of_values(np.array([1.0] * right + [0.0] * (rows - right)))


@pytest.mark.parametrize(("right", "rows"), [(0, 1), (1, 1), (0, 20), (7, 20), (20, 20), (531, 1000)])
def test_a_rate_has_the_interval_of_wilson(right, rows):
    found = interval(rates(right, rows))
    share = right / rows
    # Its bounds are the shares that the normal test just does not refuse.
    for bound in (found.low, found.high):
        if 0 < bound < 1:
            assert abs(share - bound) / math.sqrt(bound * (1 - bound) / rows) == pytest.approx(Z)
    assert found.low <= share <= found.high
    assert found.method == "wilson"


def test_a_mean_has_the_bca_interval_of_scipy():
    values = np.random.default_rng(1).lognormal(size=300)
    found = interval(of_values(values))
    expected = stats.bootstrap((values,), np.mean, n_resamples=20_000, rng=2).confidence_interval
    assert found.method == "bca"
    assert (found.low, found.high) == pytest.approx(tuple(expected), rel=0.02)


def test_many_rows_have_an_interval_of_the_same_size():
    values = np.random.default_rng(1).random(20_000)
    found = interval(of_values(values))
    assert found.method == "t"
    assert found.half_width == pytest.approx(Z * values.std() / math.sqrt(len(values)), rel=0.01)


def ratio(sums):
    return float(sums[0] / sums[1])


def test_a_metric_of_all_rows_together_is_resampled_by_rows():
    draw = np.random.default_rng(3)
    columns = np.column_stack([draw.random(400), 1 + draw.random(400)])
    found = interval(of_statistics(columns, ratio))
    expected = stats.bootstrap(
        (columns[:, 0], columns[:, 1]),
        lambda part, whole, axis: part.sum(axis=axis) / whole.sum(axis=axis),
        paired=True,
        n_resamples=20_000,
        rng=4,
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx(tuple(expected), rel=0.01)
    many = interval(of_statistics(np.tile(columns, (20, 1)), ratio))
    assert many.method == "percentile"
    assert many.half_width == pytest.approx(found.half_width / math.sqrt(20), rel=0.1)


def test_rows_of_a_cluster_count_as_one():
    values = np.random.default_rng(5).random(100)
    alone, repeated = of_values(values), of_values(np.repeat(values, 7), np.repeat(np.arange(100), 7))
    assert (repeated.num_rows, repeated.num_units) == (700, 100)
    assert repeated.value == pytest.approx(alone.value)
    assert interval(repeated).low == pytest.approx(interval(alone).low)
    assert interval(repeated).high == pytest.approx(interval(alone).high)


def test_clusters_of_different_size_weigh_by_their_rows():
    clustered = of_values(np.array([1.0, 1.0, 1.0, 0.0]), np.array([0, 0, 0, 1]))
    assert clustered.value == 0.75
    assert not clustered.is_rate


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.5, 0.5]], ids=["none", "one", "alike"])
def test_where_no_interval_can_be_told_there_is_none(values):
    assert interval(of_values(np.array(values))) is None


def test_rows_that_are_all_right_have_an_interval():
    assert interval(rates(20, 20)).low == pytest.approx(20 / (20 + Z**2))


def profile_deviate(lower, higher, units, bound):
    """Tango's statistic with its nuisance parameter found by maximising the likelihood numerically."""

    def unlikelihood(losing):
        chances = np.array([losing, losing + bound, 1 - 2 * losing - bound])
        counts = np.array([lower, higher, units - lower - higher])
        return -np.sum(counts[counts > 0] * np.log(np.maximum(chances[counts > 0], 1e-300)))

    edges = (max(0.0, -bound), (1 - bound) / 2)
    losing = optimize.minimize_scalar(unlikelihood, bounds=edges, method="bounded", options={"xatol": 1e-12}).x
    variance = units * (2 * losing + bound - bound**2)
    return (higher - lower - units * bound) / math.sqrt(variance)


@pytest.mark.parametrize(
    ("lower", "higher", "units"), [(2, 1, 200), (6, 0, 200), (12, 43, 100), (1, 30, 60), (50, 55, 1000), (9, 4, 14)]
)
def test_the_interval_of_paired_rates_is_that_of_the_score_test(lower, higher, units):
    found = tango(lower, higher, units)
    assert profile_deviate(lower, higher, units, found.low) == pytest.approx(Z, abs=1e-3)
    assert profile_deviate(lower, higher, units, found.high) == pytest.approx(-Z, abs=1e-3)


def test_paired_rates_without_a_change_leave_room():
    found = tango(0, 0, 200)
    assert (found.low, found.high) == pytest.approx((-(Z**2) / (200 + Z**2), Z**2 / (200 + Z**2)))
    assert tango(1, 0, 1).low == -1
    assert tango(0, 1, 1).high == 1
    mirrored = tango(7, 3, 50)
    assert (-mirrored.high, -mirrored.low) == pytest.approx((tango(3, 7, 50).low, tango(3, 7, 50).high))


def test_paired_rates_are_tested_by_the_changed_rows_alone():
    baseline = np.array([1.0] * 60 + [0.0] * 40)
    candidate = baseline.copy()
    candidate[:12] = 0  # right to wrong
    candidate[60:63] = 1  # wrong to right
    found = compared(of_values(candidate), of_values(baseline))
    assert (found.num_lower, found.num_higher, found.test) == (12, 3, "mcnemar")
    chance = 2 * sum(math.comb(15, count) for count in range(4)) / 2**15
    assert found.p_value == pytest.approx(chance)
    assert found.difference == pytest.approx(-0.09)
    assert found.interval == tango(12, 3, 100)


def test_paired_means_are_tested_by_all_exchanges():
    draw = np.random.default_rng(6)
    baseline, candidate = draw.random(10), draw.random(10)
    found = compared(of_values(candidate), of_values(baseline))
    changes = candidate - baseline
    sums = [abs(np.dot(signs, changes)) for signs in itertools.product([-1, 1], repeat=10)]
    assert found.p_value == pytest.approx(np.mean(np.array(sums) >= abs(changes.sum()) - 1e-12))
    assert found.test == "permutation"
    expected = stats.bootstrap((changes,), np.mean, rng=7).confidence_interval
    assert (found.interval.low, found.interval.high) == pytest.approx(tuple(expected), abs=0.02)


def test_rows_that_did_not_change_do_not_matter_to_the_test_of_means():
    draw = np.random.default_rng(8)
    baseline, candidate = draw.random(10), draw.random(10)
    same = draw.random(50)
    alone = compared(of_values(candidate), of_values(baseline))
    among = compared(of_values(np.append(candidate, same)), of_values(np.append(baseline, same)))
    assert among.p_value == pytest.approx(alone.p_value)
    assert among.deviation < alone.deviation


def test_a_corpus_metric_is_tested_by_exchanges_too():
    draw = np.random.default_rng(9)
    baseline = np.column_stack([draw.random(9), np.ones(9)])
    candidate = np.column_stack([draw.random(9), np.ones(9)])
    corpus = compared(of_statistics(candidate, ratio), of_statistics(baseline, ratio))
    means = compared(of_values(candidate[:, 0]), of_values(baseline[:, 0]))
    assert corpus.p_value == pytest.approx(means.p_value)
    assert corpus.interval.low == pytest.approx(means.interval.low, abs=0.02)
    assert corpus.difference == pytest.approx(means.difference)


def test_a_corpus_metric_of_many_rows_is_tested_by_its_bootstrap():
    draw = np.random.default_rng(10)
    baseline = np.column_stack([draw.random(6_000), np.ones(6_000)])
    candidate = baseline + np.column_stack([0.01 * draw.standard_normal(6_000) + 2e-4, np.zeros(6_000)])
    corpus = compared(of_statistics(candidate, ratio), of_statistics(baseline, ratio))
    means = compared(of_values(candidate[:, 0]), of_values(baseline[:, 0]))
    assert (corpus.test, means.test) == ("z", "t")
    assert corpus.p_value == pytest.approx(means.p_value, abs=0.05)


def test_runs_without_a_difference():
    values = np.random.default_rng(11).random(50)
    found = compared(of_values(values), of_values(values))
    assert (found.p_value, found.difference) == (1.0, 0.0)
    assert found.interval == tango(0, 0, 50)
    columns = np.column_stack([values, np.ones(50)])
    corpus = compared(of_statistics(columns, ratio), of_statistics(columns, ratio), 100.0)
    assert (corpus.p_value, corpus.difference) == (1.0, 0.0)
    assert corpus.interval.high == pytest.approx(100 * tango(0, 0, 50).high)
    assert compared(of_values(values * 9), of_values(values * 9), None).interval is None


def test_clusters_without_a_difference_leave_as_much_room_as_their_number_says():
    values = np.random.default_rng(11).random(60)
    equal, unequal = np.repeat(np.arange(20), 3), np.r_[np.zeros(41, dtype=int), np.arange(1, 20)]
    found = [
        compared(of_values(values, clusters), of_values(values, clusters)).interval for clusters in (equal, unequal)
    ]
    # 60 * 60 / (41 * 41 + 19) = 2.1
    assert found == [tango(0, 0, 20), tango(0, 0, 2)]


def test_clusters_that_are_all_right_have_an_interval():
    clusters = np.repeat(np.arange(20), 3)
    assert interval(of_values(np.ones(60), clusters)) == interval(rates(20, 20))
    assert interval(of_values(np.zeros(60), clusters)) == interval(rates(0, 20))
    assert interval(of_values(np.ones(0), np.zeros(0, dtype=int))) is None


def test_a_single_row_tells_nothing_of_means():
    found = compared(of_values(np.array([0.5])), of_values(np.array([0.7])))
    assert found.interval is None
    assert found.p_value == 1.0


def simulated_failures(draw, loss, churn, units, margin, alpha, runs):
    """How often the gate's rule fails in simulated runs with a true loss."""
    counts = draw.multinomial(units, [churn + loss, churn, 1 - 2 * churn - loss], size=runs)
    p_values = stats.binom.sf(counts[:, 0] - 1, counts[:, 0] + counts[:, 1], 0.5)
    return np.mean((p_values <= alpha) & ((counts[:, 0] - counts[:, 1]) / units > margin))


@pytest.mark.parametrize("loss", [0.0, 0.02, 0.03, 0.05])
@pytest.mark.parametrize(("units", "gains"), [(1000, 50), (200, 2), (300, 60)])
def test_the_power_for_rates_is_how_often_simulated_runs_fail(loss, units, gains):
    draw = np.random.default_rng(12)
    power = power_for_rates(loss, gains=gains, units=units, margin=0.02, alpha=0.025)
    churn = (gains + 0.5) / (units + 1)
    runs = 20_000
    found = simulated_failures(draw, loss, churn, units, 0.02, 0.025, runs)
    assert power == pytest.approx(found, abs=4 * math.sqrt(0.25 / runs))


def test_the_power_for_means_is_how_often_simulated_runs_fail():
    draw = np.random.default_rng(13)
    units, deviation, runs = 400, 0.2, 20_000
    for loss in (0.0, 0.02, 0.04):
        losses = loss + deviation / math.sqrt(units) * draw.standard_normal(runs)
        fails = (losses * math.sqrt(units) / deviation > Z) & (losses > 0.015)
        power = power_for_means(loss, deviation=deviation, units=units, margin=0.015, alpha=0.025)
        assert power == pytest.approx(fails.mean(), abs=0.015)
    assert power_for_means(0.05, deviation=0.0, units=10, margin=0.02, alpha=0.025) == 1
    assert power_for_means(0.5, deviation=0.001, units=1000, margin=0.02, alpha=0.025) == pytest.approx(1)


def test_the_detectable_loss_has_the_power():
    def power_of(loss):
        return power_for_rates(loss, gains=40, units=1000, margin=0.02, alpha=0.025)

    loss = detectable_loss(power_of, 0.02)
    assert loss is not None
    assert 0.02 < loss < 0.05
    assert power_of(loss) == pytest.approx(0.8, abs=0.01)
    few = detectable_loss(lambda loss: power_for_rates(loss, gains=0, units=3, margin=0.02, alpha=0.025), 0.02)
    assert few is None


def test_the_rows_that_a_decision_takes_are_enough():
    units = units_to_decide(0.0, deviation=0.3, margin=0.02, alpha=0.025)
    assert units is not None
    # That many rows bring the interval below the margin in 80 of 100 runs.
    estimates = 0.3 / math.sqrt(units) * np.random.default_rng(14).standard_normal(20_000)
    assert np.mean(estimates + Z * 0.3 / math.sqrt(units) < 0.02) == pytest.approx(0.8, abs=0.01)
    assert units_to_decide(0.02, deviation=0.3, margin=0.02, alpha=0.025) is None
    assert units_to_decide(0.02 + 1e-9, deviation=0.3, margin=0.02, alpha=0.025) is None
    assert units_to_decide(0.0, deviation=math.nan, margin=0.02, alpha=0.025) is None


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
