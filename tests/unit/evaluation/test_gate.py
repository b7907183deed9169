"""The three outcomes of the gate, and that chance alone seldom fails a run."""

import math

import numpy as np
import pytest

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.evaluation import gate
from kfp_llm_batch.evaluation.gate import GateConfig, power_at
from kfp_llm_batch.evaluation.scorers.protocol import COUNT, POINTS, Metric
from kfp_llm_batch.evaluation.statistics.measurements import of_values
from kfp_llm_batch.evaluation.statistics.paired import compare

ACCURACY = Metric(name="accuracy")
TRUNCATION = Metric(name="truncation", higher_is_better=False)


def decide(compared, config):
    return gate.decide(compared, config)


def changed(lost, gained, rows):
    """Two runs of rates: so many rows went from right to wrong and back."""
    right = max(lost, rows // 2)
    baseline = np.array([1.0] * right + [0.0] * (rows - right))
    candidate = baseline.copy()
    candidate[:lost] = 0
    candidate[right : right + gained] = 1
    return compare(of_values(candidate), of_values(baseline))


@pytest.mark.parametrize(
    ("lost", "gained", "rows", "outcome"),
    [
        (0, 0, 1000, "pass"),
        (5, 5, 1000, "pass"),
        (0, 60, 1000, "pass"),
        (14, 2, 1000, "inconclusive"),
        (60, 10, 1000, "fail"),
        (30, 5, 1000, "fail"),
        (0, 0, 100, "inconclusive"),
        (3, 0, 100, "inconclusive"),
        (6, 0, 100, "fail"),
        (300, 200, 20_000, "pass"),
        (1, 0, 1, "inconclusive"),
    ],
)
def test_the_outcome_of_one_metric(lost, gained, rows, outcome):
    decision = decide([(ACCURACY, changed(lost, gained, rows))], GateConfig())
    assert decision.outcome == outcome
    (found,) = decision.metrics
    assert found.loss == pytest.approx((lost - gained) / rows)
    assert found.loss_low <= found.loss <= found.loss_high
    assert (found.units_needed is not None) == (outcome == "inconclusive")
    assert decision.reason == found.reason


def test_a_significant_loss_within_the_margin_passes_and_says_so():
    decision = decide([(ACCURACY, changed(300, 200, 20_000))], GateConfig())
    assert decision.metrics[0].is_worse
    assert "worse by 0.5 points, which the margin allows" in decision.reason


def test_what_is_bad_when_it_grows_loses_by_growing():
    paired = changed(0, 60, 1000)
    decision = decide([(TRUNCATION, paired)], GateConfig())
    assert decision.outcome == "fail"
    assert decision.metrics[0].loss == pytest.approx(0.06)
    assert decide([(TRUNCATION, changed(60, 0, 1000))], GateConfig()).outcome == "pass"


def test_one_failing_metric_fails_the_run_and_numbers_without_a_direction_do_not_count():
    good, bad = changed(0, 0, 1000), changed(60, 10, 1000)
    length = Metric(name="length", unit=COUNT, higher_is_better=None)
    decision = decide([(ACCURACY, good), (TRUNCATION, changed(10, 60, 1000)), (length, bad)], GateConfig())
    assert [entry.outcome for entry in decision.metrics] == ["pass", "fail"]
    assert decision.outcome == "fail"
    assert "accuracy" not in decision.reason
    assert decide([(length, bad)], GateConfig()).outcome == "inconclusive"


def test_many_metrics_need_stronger_evidence_each():
    paired = changed(7, 0, 200)
    alone = decide([(ACCURACY, paired)], GateConfig()).metrics[0]
    names = [Metric(name=f"m{index}") for index in range(5)]
    among = decide(
        [(name, paired if index == 0 else changed(0, 0, 200)) for index, name in enumerate(names)], GateConfig()
    )
    assert (alone.outcome, among.metrics[0].outcome) == ("fail", "inconclusive")
    assert among.metrics[0].p_value == pytest.approx(5 * alone.p_value)
    assert among.metrics[0].detectable_loss > alone.detectable_loss


def test_points_of_bleu_are_read_as_points():
    draw = np.random.default_rng(1)
    baseline = 30 + draw.standard_normal(500)
    for lost, outcome in ((0.0, "pass"), (5.0, "fail")):
        paired = compare(of_values(baseline - lost + 0.1 * draw.standard_normal(500)), of_values(baseline))
        decision = decide([(Metric(name="bleu", unit=POINTS), paired)], GateConfig(margin=0.02))
        assert decision.outcome == outcome
        assert decision.metrics[0].margin == 2
        assert 2 <= decision.metrics[0].detectable_loss < 3


def test_the_gate_fails_runs_without_a_loss_no_oftener_than_stated():
    draw, failures, runs = np.random.default_rng(2), 0, 100
    for _ in range(runs):
        baseline = (draw.random(300) < 0.6).astype(float)
        candidate = np.where(draw.random(300) < 0.15, draw.random(300) < 0.6, baseline).astype(float)
        failures += (
            decide([(ACCURACY, compare(of_values(candidate), of_values(baseline)))], GateConfig()).outcome == "fail"
        )
    assert failures / runs <= 0.025 + 2 * math.sqrt(0.025 * 0.975 / runs)


def test_the_power_is_that_of_the_losses_it_prints():
    paired = changed(50, 50, 1000)
    (found,) = decide([(ACCURACY, paired)], GateConfig()).metrics
    assert power_at(found.detectable_loss, ACCURACY, paired, GateConfig()) == pytest.approx(0.8, abs=0.01)
    assert power_at(0.0, ACCURACY, paired, GateConfig()) < 0.025
    assert power_at(0.05, ACCURACY, paired, GateConfig()) > 0.95


@pytest.mark.parametrize(
    ("action", "ending"), [("fail", {"fail"}), ("strict", {"fail", "inconclusive"}), ("mark", set())]
)
def test_what_ends_the_run(action, ending):
    outcomes = ("pass", "fail", "inconclusive", "no_baseline")
    assert {outcome for outcome in outcomes if GateConfig(action=action).ends_run(outcome)} == ending


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"margin": 0.0}, "gate_margin is no share"),
        ({"margin": 2.0}, "gate_margin is no share"),
        ({"action": "stop"}, "Unknown gate_action"),
    ],
)
def test_the_configuration_checks_itself(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        GateConfig(**changes)
