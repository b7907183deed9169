"""The charts of a report: which values of one run or of two each of them shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from kfp_llm_batch.evaluation.comparison import ComparedMetric, Comparison
from kfp_llm_batch.evaluation.manifest import EvaluationManifest
from kfp_llm_batch.evaluation.report.charts import Mark, forest, histogram, history, moment
from kfp_llm_batch.evaluation.run_folder import EvaluatedRun
from kfp_llm_batch.evaluation.scorers.protocol import COUNT


def changes_chart(comparison: Comparison | None) -> Markup | None:
    """The change of every metric, on one scale."""
    if comparison is None:
        return None
    # One scale for all: shares and points have none in common.
    unit = comparison.metrics[0].metric.unit if comparison.metrics else ""
    marks = [_change(entry, entry.metric.name) for entry in comparison.metrics if entry.metric.unit == unit]
    return forest(marks, unit, is_change=True) if marks else None


def slice_changes(comparison: Comparison | None) -> list[dict[str, Any]]:
    """Of the main metric the slices, those that lost most first."""
    if comparison is None or not comparison.slices:
        return []
    main = comparison.metrics[0].metric if comparison.metrics else comparison.slices[0].metric
    entries = [entry for entry in comparison.slices if entry.metric.name == main.name]
    entries = sorted(entries, key=lambda entry: main.sign * entry.paired.difference)
    marks = [_change(entry, f"{entry.column}: {entry.value}") for entry in entries]
    return [{"metric": main.name, "chart": forest(marks, main.unit, is_change=True)}]


def _change(entry: ComparedMetric, label: str) -> Mark:
    interval = entry.paired.interval
    return Mark(
        label=label,
        value=entry.paired.difference,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        rows=entry.paired.num_rows,
        is_special=entry.direction == "worse",
    )


def slice_charts(manifest: EvaluationManifest, metric: str) -> list[dict[str, Any]]:
    """One metric of one run, by every column that is looked at."""
    charts = []
    for column in manifest.slice_columns:
        found = [
            (entry["value"], estimate)
            for entry in manifest.slices
            if entry["column"] == column
            for estimate in entry["estimates"]
            if estimate["metric"] == metric and estimate["value"] is not None
        ]
        if found:
            chart = forest([_mark(label, estimate) for label, estimate in found], found[0][1]["unit"])
            charts.append({"column": column, "metric": metric, "chart": chart})
    return charts


def _mark(label: str, estimate: Mapping[str, Any], *, is_special: bool = False) -> Mark:
    return Mark(
        label=label,
        value=estimate["value"],
        low=estimate["low"],
        high=estimate["high"],
        rows=estimate["n_scored"],
        is_special=is_special,
    )


def distributions(run: EvaluatedRun, baseline: EvaluatedRun | None, metric: str) -> list[dict[str, Any]]:
    """How scores and lengths are spread, beside those of the baseline."""
    runs = [("this run", run)] + ([("baseline", baseline)] if baseline else [])
    unit = run.measurements.metrics[metric].unit
    wanted = [(f"Scores: {metric}", f"scores.{metric}", unit), ("Generated tokens", "num_completion_tokens", COUNT)]
    charts = []
    for title, column, unit_of_column in wanted:
        having = [(name, run) for name, run in runs if metric in run.measurements.metrics]
        series = {name: values for name, run in having if len(values := run.table.numbers(column))}
        if series:
            charts.append({"title": title, "chart": histogram(series, unit_of_column)})
    return charts


def history_chart(manifests: Sequence[EvaluationManifest], metric: str) -> Markup | None:
    """One metric over the runs, the current one last; nothing if there is but one."""
    found = [
        (manifest, entry)
        for manifest in manifests
        for entry in manifest.metrics
        if entry["metric"] == metric and entry["value"] is not None
    ]
    marks = [
        _mark(moment(manifest.result["created_at"]), entry, is_special=manifest is manifests[-1])
        for manifest, entry in found
    ]
    return history(marks, found[-1][1]["unit"]) if len(marks) > 1 else None
