"""The gate: whether a run is no worse than its baseline by more than a margin.

pass          the whole interval of every loss lies below the margin
fail          a loss exceeds the margin, and is no chance
inconclusive  neither can be said with so many rows
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kfp_llm_batch.errors import ConfigurationError, GateError
from kfp_llm_batch.evaluation.scorers.protocol import COUNT, POINTS, Metric
from kfp_llm_batch.evaluation.statistics.multiplicity import holm
from kfp_llm_batch.evaluation.statistics.paired import Paired
from kfp_llm_batch.evaluation.statistics.power import (
    detectable_loss,
    power_for_means,
    power_for_rates,
    units_to_decide,
)

PASS, FAIL, INCONCLUSIVE, NO_BASELINE = "pass", "fail", "inconclusive", "no_baseline"
ACTIONS = ("fail", "strict", "mark")
ALPHA = 0.025
"""Of 1,000 runs that are as good as the baseline, at most 25 fail."""


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """How large a loss may be, and what follows; checks itself."""

    margin: float = 0.02
    """Largest accepted loss: 0.02 is two points of accuracy, or of BLEU."""
    action: str = "fail"
    """`fail` ends the step with an error if the gate fails, `strict` also if it is inconclusive, `mark` never."""

    def __post_init__(self) -> None:
        if not 0 < self.margin < 1:
            raise ConfigurationError("gate_margin is no share", received=self.margin, allowed=["between 0 and 1"])
        if self.action not in ACTIONS:
            raise ConfigurationError("Unknown gate_action", received=self.action, allowed=ACTIONS)

    def ends_run(self, outcome: str) -> bool:
        """Whether the step is to fail."""
        ending: dict[str, tuple[str, ...]] = {"fail": (FAIL,), "strict": (FAIL, INCONCLUSIVE), "mark": ()}
        return outcome in ending[self.action]


@dataclass(frozen=True, kw_only=True)
class GatedMetric:
    """One metric at the gate; a loss is positive if the run is worse."""

    metric: str
    outcome: str
    loss: float
    loss_low: float | None
    loss_high: float | None
    p_value: float
    """One-sided, of a loss; adjusted for all metrics at the gate."""
    is_worse: bool
    """Whether the loss is no chance, whatever its size."""
    margin: float
    detectable_loss: float | None
    """The smallest true loss that would fail in 80 of 100 runs of so many rows."""
    units_needed: int | None
    """For an inconclusive outcome: how many rows would settle it, if the loss stays what it is."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class GateDecision:
    """The outcome of all metrics together."""

    outcome: str
    metrics: tuple[GatedMetric, ...]
    reason: str


def is_gated(metric: Metric) -> bool:
    """Whether it is good or bad, on a scale that a margin can be read on."""
    return metric.higher_is_better is not None and metric.unit != COUNT


def decide(compared: Sequence[tuple[Metric, Paired]], config: GateConfig) -> GateDecision:
    """Hold the compared metrics against the margin, those left out that no gate looks at."""
    gated = [(metric, paired) for metric, paired in compared if is_gated(metric)]
    if not gated:
        return GateDecision(outcome=INCONCLUSIVE, metrics=(), reason="No metric could be compared.")
    adjusted = holm([_one_sided(metric, paired) for metric, paired in gated])
    metrics = tuple(
        _gated(metric, paired, p_value, config, len(gated))
        for (metric, paired), p_value in zip(gated, adjusted, strict=True)
    )
    outcomes = {entry.outcome for entry in metrics}
    outcome = next((outcome for outcome in (FAIL, INCONCLUSIVE) if outcome in outcomes), PASS)
    deciding = [entry for entry in metrics if entry.outcome == outcome]
    return GateDecision(outcome=outcome, metrics=metrics, reason=" ".join(entry.reason for entry in deciding))


def _gated(metric: Metric, paired: Paired, p_value: float, config: GateConfig, num_metrics: int) -> GatedMetric:
    scale = metric.largest or 1.0
    margin = config.margin * scale
    loss, low, high = _loss(metric, paired)
    is_worse = p_value <= ALPHA and loss > 0
    outcome = PASS if high is not None and high < margin else INCONCLUSIVE
    outcome = FAIL if is_worse and loss > margin else outcome
    needed = None
    if outcome == INCONCLUSIVE:
        needed = units_to_decide(loss, deviation=paired.deviation, margin=margin, alpha=ALPHA)
    detectable = detectable_loss(
        lambda share: power_at(share * scale, metric, paired, config, num_metrics), config.margin
    )
    return GatedMetric(
        metric=metric.name,
        outcome=outcome,
        loss=loss,
        loss_low=low,
        loss_high=high,
        p_value=p_value,
        is_worse=is_worse,
        margin=margin,
        detectable_loss=None if detectable is None else detectable * scale,
        units_needed=needed,
        reason=_reason(metric, outcome, loss, high, margin, needed, is_worse=is_worse),
    )


def enforce(outcome: str, config: GateConfig, report_uri: str) -> None:
    """End the step where the outcome says so.

    Raises:
        GateError: The gate failed, or could not decide and `strict` forbids that.
    """
    if config.ends_run(outcome):
        raise GateError(
            f"The gate's outcome is {outcome}",
            received=f"gate_action={config.action}",
            remedy=f"The report shows which metrics and rows: {report_uri}",
        )


def power_at(loss: float, metric: Metric, paired: Paired, config: GateConfig, num_metrics: int = 1) -> float:
    """How often a true loss would fail the gate in runs like this one."""
    margin, alpha = config.margin * (metric.largest or 1.0), ALPHA / num_metrics
    if paired.is_rate:
        gains = paired.num_higher if metric.higher_is_better else paired.num_lower
        return power_for_rates(loss, gains=gains, units=paired.num_units, margin=margin, alpha=alpha)
    if math.isnan(paired.deviation):
        return 0.0
    return power_for_means(loss, deviation=paired.deviation, units=paired.num_units, margin=margin, alpha=alpha)


def _loss(metric: Metric, paired: Paired) -> tuple[float, float | None, float | None]:
    loss = -metric.sign * paired.difference
    if paired.interval is None:
        return loss, None, None
    low, high = sorted(-metric.sign * end for end in (paired.interval.low, paired.interval.high))
    return loss, low, high


def _one_sided(metric: Metric, paired: Paired) -> float:
    """Of the two-sided tests each side has the half."""
    loss = _loss(metric, paired)[0]
    return paired.p_value / 2 if loss > 0 else 1 - paired.p_value / 2


def _reason(
    metric: Metric, outcome: str, loss: float, high: float | None, margin: float, needed: int | None, *, is_worse: bool
) -> str:
    shown, limit = _points(metric, loss), _points(metric, margin)
    if outcome == FAIL:
        return f"{metric.name} lost {shown}, more than the margin of {limit}, and that is no chance."
    if outcome == PASS:
        worse = f" It is worse by {shown}, which the margin allows." if is_worse else ""
        return f"{metric.name} lost less than the margin of {limit}.{worse}"
    most = "an unknown amount" if high is None else f"up to {_points(metric, high)}"
    rows = f"About {needed:,} rows would tell." if needed else "No number of rows would tell a loss from the margin."
    return f"{metric.name} may have lost {most}, and the margin is {limit}. {rows}"


def _points(metric: Metric, value: float) -> str:
    return f"{round(value if metric.unit == POINTS else 100 * value, 1) + 0.0:.1f} points"
