"""A run and its baseline: what is not like for like, and how much the metrics differ on the rows of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from kfp_llm_batch.evaluation.gate import INCONCLUSIVE, PASS, GateConfig, GateDecision, decide, is_gated
from kfp_llm_batch.evaluation.run_folder import EvaluatedRun
from kfp_llm_batch.evaluation.scorers.protocol import Metric
from kfp_llm_batch.evaluation.statistics.measurements import IntArray
from kfp_llm_batch.evaluation.statistics.multiplicity import holm
from kfp_llm_batch.evaluation.statistics.paired import Paired, compare
from kfp_llm_batch.evaluation.summary import slices_of

_FEWEST_COMMON = 0.5
"""Of the rows of both runs: with fewer in common the gate does not decide."""
_SIGNIFICANT = 0.05
_MEASURING = ("target_column", "missing", "cluster_column")
"""Settings of an evaluation that change all of its metrics."""


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """Whether two runs were asked the same."""

    rows_compared: int
    """In both runs, with the same columns."""
    rows_changed: int
    """In both runs, with other columns."""
    rows_only_in_candidate: int
    rows_only_in_baseline: int
    differences: tuple[str, ...]
    """What else is not the same, as sentences; some of it may be what is compared on purpose."""
    incomparable: tuple[str, ...]
    """Metrics whose scorers are not the same."""

    @property
    def is_fair(self) -> bool:
        """Whether enough rows are the same for the gate to decide."""
        others = self.rows_changed + self.rows_only_in_candidate + self.rows_only_in_baseline
        return self.rows_compared >= _FEWEST_COMMON * (self.rows_compared + others) and self.rows_compared > 0


@dataclass(frozen=True, kw_only=True)
class ComparedMetric:
    """One metric of both runs, over all common rows or over a slice of them."""

    metric: Metric
    paired: Paired
    p_adjusted: float
    """After Holm, over all metrics and slices of the comparison."""
    column: str | None = None
    value: str | None = None

    @property
    def direction(self) -> str:
        """`better`, `worse` or nothing, if the change is no chance."""
        if self.p_adjusted > _SIGNIFICANT or self.metric.higher_is_better is None:
            return ""
        return "better" if (self.paired.difference > 0) == self.metric.higher_is_better else "worse"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A run held against its baseline."""

    likeness: Likeness
    metrics: tuple[ComparedMetric, ...]
    slices: tuple[ComparedMetric, ...]
    decision: GateDecision
    candidate_rows: IntArray
    """Numbers of the compared rows in the candidate's table."""
    baseline_rows: IntArray
    """Numbers of the same rows, in the same order, in the baseline's table."""


def compare_runs(candidate: EvaluatedRun, baseline: EvaluatedRun, config: GateConfig) -> Comparison:
    """Compare two evaluated runs on the rows that both were asked."""
    candidate_rows, baseline_rows, likeness = _common_rows(candidate, baseline)
    metrics = [metric for metric in candidate.measurements.metrics.values() if metric.name not in likeness.incomparable]
    metrics = [metric for metric in metrics if metric.name in baseline.measurements.metrics]
    headline = _compared(candidate, baseline, metrics, candidate_rows, baseline_rows)
    sliced = [
        (column, value, metric, paired)
        for column, value, rows in slices_of(candidate.table, candidate.manifest.slice_columns)
        for metric, paired in _compared(
            candidate, baseline, metrics, candidate_rows[rows[candidate_rows]], baseline_rows[rows[candidate_rows]]
        )
    ]
    adjusted = holm([paired.p_value for _, paired in headline] + [entry[3].p_value for entry in sliced])
    return Comparison(
        likeness=likeness,
        metrics=tuple(
            ComparedMetric(metric=metric, paired=paired, p_adjusted=p_value)
            for (metric, paired), p_value in zip(headline, adjusted, strict=False)
        ),
        slices=tuple(
            ComparedMetric(metric=metric, paired=paired, p_adjusted=p_value, column=column, value=value)
            for (column, value, metric, paired), p_value in zip(sliced, adjusted[len(headline) :], strict=True)
        ),
        decision=_decision(likeness, candidate, headline, config),
        candidate_rows=candidate_rows,
        baseline_rows=baseline_rows,
    )


def _decision(
    likeness: Likeness, candidate: EvaluatedRun, headline: Sequence[tuple[Metric, Paired]], config: GateConfig
) -> GateDecision:
    if not likeness.is_fair:
        return GateDecision(
            outcome=INCONCLUSIVE,
            metrics=(),
            reason=f"Only {likeness.rows_compared:,} rows are the same in both runs: the dataset is another one.",
        )
    decision = decide(headline, config)
    unknown = [name for name in likeness.incomparable if is_gated(candidate.measurements.metrics[name])]
    if decision.outcome != PASS or not unknown:
        return decision
    # A scorer that was changed would else take its metric out of the gate, and promote the run besides.
    reason = f"Measured otherwise than in the baseline, and so not compared: {', '.join(unknown)}."
    return dataclasses.replace(decision, outcome=INCONCLUSIVE, reason=f"{reason} {decision.reason}")


def _compared(
    candidate: EvaluatedRun,
    baseline: EvaluatedRun,
    metrics: Sequence[Metric],
    candidate_rows: IntArray,
    baseline_rows: IntArray,
) -> list[tuple[Metric, Paired]]:
    found = []
    for metric in metrics:
        other = baseline.measurements.metrics[metric.name]
        scored = candidate.measurements.scored(metric)[candidate_rows]
        scored &= baseline.measurements.scored(other)[baseline_rows]
        if scored.any():
            # The candidate's clusters serve both, so that units are the same and stand in the same order.
            clusters = candidate.measurements.clusters(candidate_rows[scored])
            left = candidate.measurements.of(metric, candidate_rows[scored], clusters)
            right = baseline.measurements.of(other, baseline_rows[scored], clusters)
            found.append((metric, compare(left, right, metric.largest)))
    return found


def _common_rows(candidate: EvaluatedRun, baseline: EvaluatedRun) -> tuple[IntArray, IntArray, Likeness]:
    ids = [run.table.column("row_id").combine_chunks() for run in (candidate, baseline)]
    places = pc.index_in(ids[0], value_set=ids[1]).to_numpy(zero_copy_only=False).astype(np.float64)
    candidate_rows = np.flatnonzero(~np.isnan(places))
    baseline_rows = places[candidate_rows].astype(np.int64)
    digests = [run.table.column("input_digest").to_numpy() for run in (candidate, baseline)]
    same = digests[0][candidate_rows] == digests[1][baseline_rows]
    incomparable = _incomparable(candidate, baseline)
    likeness = Likeness(
        rows_compared=int(same.sum()),
        rows_changed=int((~same).sum()),
        rows_only_in_candidate=len(ids[0]) - len(candidate_rows),
        rows_only_in_baseline=len(ids[1]) - len(candidate_rows),
        differences=(
            *_differences(candidate.manifest.result, baseline.manifest.result),
            *_differences_of_measuring(candidate, baseline, incomparable),
        ),
        incomparable=tuple(incomparable),
    )
    return candidate_rows[same], baseline_rows[same], likeness


def _differences(candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[str]:
    """What a reader must know before the numbers; the model itself is what is compared."""
    found = []
    for name, label in (("dataset", "The dataset"), ("sampling", "The sampling"), ("model", "The model")):
        changed = {
            key: (baseline[name].get(key), candidate[name].get(key))
            for key in sorted({*candidate[name], *baseline[name]})
            if baseline[name].get(key) != candidate[name].get(key) and key != "parameters"
        }
        parameters = [_parameters(manifest[name]) for manifest in (baseline, candidate)]
        for key in sorted({*parameters[0], *parameters[1]}):
            if parameters[0].get(key) != parameters[1].get(key):
                changed[key] = (parameters[0].get(key), parameters[1].get(key))
        found += [
            f"{label} differs in {key}: {_shown(old)} before, {_shown(new)} now." for key, (old, new) in changed.items()
        ]
    engines = [_engine(manifest) for manifest in (baseline, candidate)]
    found += [
        f"The engine differs in {name}: {_shown(old)} before, {_shown(engines[1][name])} now."
        for name, old in engines[0].items()
        if old != engines[1][name]
    ]
    found += [
        f"The {name} is partial: a deadline left rows out."
        for name, run in (("candidate", candidate), ("baseline", baseline))
        if run["is_partial"]
    ]
    return found


def _parameters(facts: Mapping[str, Any]) -> dict[str, Any]:
    return dict(facts.get("parameters") or {})


def _engine(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What changes how numbers are rounded, and with them answers; not what changes speed alone."""
    settings = {**facts["engine"].get("choices", {}), **facts["engine"].get("arguments", {})}
    return {
        "version of vllm": facts["versions"].get("vllm"),
        **{name: settings.get(name, {}).get("value") for name in ("device", "dtype", "quantization")},
        "instruction set": facts["machine"].get("instruction_set"),
    }


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _differences_of_measuring(
    candidate: EvaluatedRun, baseline: EvaluatedRun, incomparable: Sequence[str]
) -> Iterator[str]:
    for name in _MEASURING:
        before, now = (getattr(run.manifest, name) for run in (baseline, candidate))
        if before != now:
            yield f"No metric is compared: evaluation_{name} was {_shown(before)} before, and is {_shown(now)} now."
            return
    names = [run.measurements.metrics.keys() for run in (baseline, candidate)]
    yield from (f"{name} is not compared: its scorer has other options or another version." for name in incomparable)
    yield from (f"{name} is not compared: the baseline does not have it." for name in sorted(names[1] - names[0]))
    yield from (f"{name} is not compared: only the baseline has it." for name in sorted(names[0] - names[1]))


def _incomparable(candidate: EvaluatedRun, baseline: EvaluatedRun) -> list[str]:
    before = {entry["key"]: entry for entry in baseline.manifest.scorers}
    names = []
    for entry, named in zip(candidate.manifest.scorers, candidate.scorers, strict=True):
        known = before.get(entry["key"])
        if known is not None and (known["specification"], known["version"]) != (
            entry["specification"],
            entry["version"],
        ):
            names += [metric.name for metric in named.metrics]
    if any(getattr(candidate.manifest, name) != getattr(baseline.manifest, name) for name in _MEASURING):
        return list(candidate.measurements.metrics)
    return names
