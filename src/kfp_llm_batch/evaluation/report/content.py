"""What stands in a report, in the order in which a reader wants to know it; numbers are texts by now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kfp_llm_batch.evaluation.comparison import ComparedMetric, Comparison
from kfp_llm_batch.evaluation.drift import Drift
from kfp_llm_batch.evaluation.gate import FAIL, NO_BASELINE, GatedMetric
from kfp_llm_batch.evaluation.manifest import EvaluationManifest
from kfp_llm_batch.evaluation.report.charts import moment, shown
from kfp_llm_batch.evaluation.report.figures import (
    changes_chart,
    distributions,
    history_chart,
    slice_changes,
    slice_charts,
)
from kfp_llm_batch.evaluation.report.row_choice import shown_rows
from kfp_llm_batch.evaluation.run_folder import EvaluatedRun
from kfp_llm_batch.evaluation.scorers.protocol import POINTS
from kfp_llm_batch.evaluation.statistics.intervals import interval_of
from kfp_llm_batch.evaluation.statistics.measurements import of_values

OUTCOMES = {
    "pass": "The gate passed",
    "fail": "The gate failed",
    "inconclusive": "The gate could not decide",
    NO_BASELINE: "There is no baseline yet",
}


@dataclass(frozen=True, kw_only=True)
class ReportInput:
    """Everything that a report is made of."""

    run: EvaluatedRun
    comparison: Comparison | None = None
    baseline: EvaluatedRun | None = None
    baseline_uri: str | None = None
    """Which run the baseline is."""
    earlier: Sequence[EvaluationManifest] = ()
    """Runs before this one, oldest first."""
    drift: Sequence[Drift] = ()

    @property
    def outcome(self) -> str:
        """Of the gate."""
        return self.comparison.decision.outcome if self.comparison else NO_BASELINE


def content(given: ReportInput, *, with_rows: bool = True) -> dict[str, Any]:
    """The values of the page's template.

    Args:
        given: What the report is of.
        with_rows: Whether the rows' texts are needed.
    """
    manifest = given.run.manifest
    main = manifest.metrics[0]["metric"]
    by_rows = _main_of_rows(given.run)
    browsed = _metric_of_the_browser(given, by_rows)
    compared = {entry.metric.name: entry for entry in given.comparison.metrics} if given.comparison else {}
    return {
        "outcome": given.outcome,
        "headline": OUTCOMES[given.outcome],
        "reason": given.comparison.decision.reason if given.comparison else "",
        "facts": _facts(given),
        "warnings": given.comparison.likeness.differences if given.comparison else (),
        "metrics": [_metric_line(entry, compared.get(entry["metric"]), manifest.noise) for entry in manifest.metrics],
        "gate": [_gate_line(entry) for entry in given.comparison.decision.metrics] if given.comparison else [],
        "changes": changes_chart(given.comparison),
        "slices": slice_charts(manifest, main),
        "slice_changes": slice_changes(given.comparison),
        "distributions": distributions(given.run, given.baseline, by_rows),
        "completeness": _completeness(given.run, by_rows),
        "confusion": [{"name": name, **matrix} for name, matrix in manifest.confusion.items()],
        "noise": _noise_text(manifest.noise),
        "history": history_chart([*given.earlier, manifest], main),
        "history_metric": main,
        "drift": given.drift,
        "row_metric": by_rows,
        "browsed_metric": browsed,
        "row_data": {
            "rows": shown_rows(given.run, browsed, given.comparison, given.baseline) if with_rows else [],
            "metric": browsed,
            "best": given.run.measurements.metrics[browsed].best,
            "total": manifest.rows,
            "compared": given.comparison is not None,
        },
    }


def _main_of_rows(run: EvaluatedRun) -> str:
    """The first metric that single rows have."""
    return next(metric.name for metric in run.measurements.metrics.values() if metric.corpus is None)


def _metric_of_the_browser(given: ReportInput, main: str) -> str:
    """The main metric, unless another one failed the gate: then its rows are what a reader looks for."""
    gated = given.comparison.decision.metrics if given.comparison else ()
    failed = [entry.metric for entry in gated if entry.outcome == FAIL]
    of_rows = [name for name in failed if given.run.measurements.metrics[name].corpus is None]
    return main if main in failed or not of_rows else of_rows[0]


def _facts(given: ReportInput) -> list[tuple[str, str]]:
    manifest = given.run.manifest
    result = manifest.result
    statuses = ", ".join(f"{count:,} {status}" for status, count in result["rows_by_status"].items() if count)
    facts = [
        ("Model", str(result["model"].get("uri"))),
        ("Dataset", str(result["dataset"].get("uri"))),
        ("Rows", f"{manifest.rows:,} ({statuses or 'none'})"),
        ("Answered", f"{moment(result['created_at'])} UTC"),
        ("Scored", f"{moment(manifest.created_at)} UTC"),
    ]
    if given.baseline:
        before = given.baseline.manifest.result
        facts.append(
            ("Baseline", f"{given.baseline_uri}: {before['model'].get('uri')}, {moment(before['created_at'])} UTC")
        )
    if given.comparison:
        likeness = given.comparison.likeness
        facts.append(
            (
                "Compared",
                f"{likeness.rows_compared:,} rows that both runs were asked; {likeness.rows_changed:,} were asked "
                f"otherwise, {likeness.rows_only_in_candidate:,} are new, {likeness.rows_only_in_baseline:,} are gone",
            )
        )
    return facts


def _noise_text(noise: Mapping[str, Any]) -> str:
    if not noise.get("rows"):
        return ""
    changed, rows = noise["answers_changed"], noise["rows"]
    interval = interval_of(of_values(np.array([1.0] * changed + [0.0] * (rows - changed))))
    most = f", at most {100 * interval.high:.0f}%" if interval else ""
    return (
        f"Noise floor: of {rows:,} rows answered again in another order {changed:,} came out otherwise "
        f"({100 * changed / rows:.0f}%{most}). Changes of that size say nothing of the model."
    )


def _metric_line(entry: dict[str, Any], compared: ComparedMetric | None, noise: Mapping[str, Any]) -> dict[str, Any]:
    unit = entry["unit"]
    line = {
        "name": entry["metric"],
        "value": "-" if entry["value"] is None else shown(entry["value"], unit),
        "interval": interval_text(entry["low"], entry["high"], unit),
        "rows": f"{entry['n_scored']:,} of {entry['n_total']:,}",
        "is_short": entry["n_scored"] < entry["n_total"],
    }
    if compared is None:
        return line | dict.fromkeys(("change", "change_interval", "direction", "turned", "p", "by_chance"), "")
    paired = compared.paired
    by_chance = noise.get("values_changed", {}).get(entry["metric"])
    return {
        **line,
        "change": shown(paired.difference, unit, is_change=True),
        "change_interval": _change_interval(compared),
        "direction": compared.direction,
        "turned": f"{paired.num_lower:,} lower, {paired.num_higher:,} higher",
        "by_chance": "" if by_chance is None else f"{100 * by_chance / noise['rows']:.0f}%",
        "p": "<0.001" if compared.p_adjusted < 0.001 else f"{compared.p_adjusted:.3f}",
    }


def _change_interval(compared: ComparedMetric) -> str:
    interval = compared.paired.interval
    return "" if interval is None else interval_text(interval.low, interval.high, compared.metric.unit, is_change=True)


def interval_text(low: float | None, high: float | None, unit: str, *, is_change: bool = False) -> str:
    """Both ends of an interval."""
    if low is None or high is None:
        return ""
    return f"{shown(low, unit, is_change=is_change)} to {shown(high, unit, is_change=is_change)}"


def _gate_line(entry: GatedMetric) -> dict[str, str]:
    # Margins of shares are below 1, those of points are not.
    scale = 1 if entry.margin >= 1 else 100
    points = {"loss": entry.loss, "most": entry.loss_high, "margin": entry.margin, "detectable": entry.detectable_loss}
    texts = {name: "-" if value is None else shown(scale * value, POINTS) for name, value in points.items()}
    needed = "" if entry.units_needed is None else f"{entry.units_needed:,}"
    return {"name": entry.metric, "outcome": entry.outcome, "needed": needed, **texts}


def _completeness(run: EvaluatedRun, metric: str) -> list[dict[str, str]]:
    """How answers of each kind score: what cut and missing answers cost is not the model's fault."""
    scores = run.table.values(metric)
    statuses = np.array(run.table.column("status").to_pylist(), dtype=object)
    statuses[np.array(run.table.column("finish_reason").to_pylist(), dtype=object) == "length"] = "truncated"
    lines = []
    for status in sorted(set(statuses.tolist())):
        rows = statuses == status
        scored = scores[rows & ~np.isnan(scores)]
        value = shown(float(scored.mean()), run.measurements.metrics[metric].unit) if len(scored) else "-"
        share = f"{100 * rows.mean():.1f}%"
        lines.append({"status": str(status), "rows": f"{rows.sum():,}", "share": share, "score": value})
    return lines
