"""The charts of a report: which values of one run or of two each of them shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from kfp_llm_batch.evaluation.comparison import ComparedMetric, Comparison
from kfp_llm_batch.evaluation.manifest import EvaluationManifest
from kfp_llm_batch.evaluation.report.charts import Bar, Point, forest, histogram, history
from kfp_llm_batch.evaluation.run_folder import EvaluatedRun
from kfp_llm_batch.evaluation.scorers.protocol import COUNT


def changes_chart(comparison: Comparison | None) -> Markup | None:
    """The change of every metric, on one scale."""
    if comparison is None:
        return None
    # One scale for all: shares and points have none in common.
    unit = comparison.metrics[0].metric.unit if comparison.metrics else ""
    bars = [_change_bar(entry, entry.metric.name) for entry in comparison.metrics if entry.metric.unit == unit]
    return forest(bars, unit, is_change=True) if bars else None


def slice_changes(comparison: Comparison | None) -> list[dict[str, Any]]:
    """Of every metric at the gate the slices, those that lost most first."""
    if comparison is None or not comparison.slices:
        return []
    main = comparison.metrics[0].metric if comparison.metrics else comparison.slices[0].metric
    entries = [entry for entry in comparison.slices if entry.metric.name == main.name]
    entries = sorted(entries, key=lambda entry: main.sign * entry.paired.difference)
    bars = [_change_bar(entry, f"{entry.column}: {entry.value}") for entry in entries]
    return [{"metric": main.name, "chart": forest(bars, main.unit, is_change=True)}]


def _change_bar(entry: ComparedMetric, label: str) -> Bar:
    interval = entry.paired.interval
    return Bar(
        label=label,
        value=entry.paired.difference,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        rows=entry.paired.num_rows,
        is_marked=entry.direction == "worse",
    )


def slice_charts(manifest: EvaluationManifest, metric: str) -> list[dict[str, Any]]:
    """One metric of one run, by every column that is looked at."""
    charts = []
    for column in manifest.slice_columns:
        bars, unit = [], ""
        for entry in (entry for entry in manifest.slices if entry["column"] == column):
            (found,) = [estimate for estimate in entry["estimates"] if estimate["metric"] == metric]
            if found["value"] is not None:
                unit = found["unit"]
                bars.append(_bar(entry["value"], found))
        if bars:
            charts.append({"column": column, "metric": metric, "chart": forest(bars, unit)})
    return charts


def _bar(label: str, found: Mapping[str, Any]) -> Bar:
    return Bar(label=label, value=found["value"], low=found["low"], high=found["high"], rows=found["n_scored"])


def distributions(run: EvaluatedRun, baseline: EvaluatedRun | None, metric: str) -> list[dict[str, Any]]:
    """How scores and lengths are spread, beside those of the baseline."""
    runs = [("this run", run)] + ([("baseline", baseline)] if baseline else [])
    unit = run.measurements.metrics[metric].unit
    wanted = [(f"Scores: {metric}", f"scores.{metric}", unit), ("Generated tokens", "num_completion_tokens", COUNT)]
    charts = []
    for title, column, unit_of_column in wanted:
        having = [(name, run) for name, run in runs if metric in run.measurements.metrics]
        series = [(name, values) for name, run in having if (values := _numbers(run, column))]
        if series:
            chart = histogram([values for _, values in series], [name for name, _ in series], unit_of_column)
            charts.append({"title": title, "chart": chart})
    return charts


def _numbers(run: EvaluatedRun, column: str) -> list[float]:
    return [float(value) for value in run.table.column(column).drop_null().to_pylist()]


def history_chart(manifests: Sequence[EvaluationManifest], metric: str) -> Markup | None:
    """One metric over the runs, the current one last; nothing if there is but one."""
    found = [
        (manifest, entry)
        for manifest in manifests
        for entry in manifest.metrics
        if entry["metric"] == metric and entry["value"] is not None
    ]
    points = [
        Point(
            label=str(manifest.result["created_at"])[:16].replace("T", " "),
            value=entry["value"],
            low=entry["low"],
            high=entry["high"],
            is_current=manifest is manifests[-1],
        )
        for manifest, entry in found
    ]
    return history(points, found[-1][1]["unit"]) if len(points) > 1 else None
