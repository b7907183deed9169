"""The step `compare_evaluations`: a run against its baseline, the report, and the baseline's promotion."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any, Self

from kfp_llm_batch.errors import ConfigurationError, ResultError
from kfp_llm_batch.evaluation.baselines import Baseline, BaselinePointer, fetched_baseline
from kfp_llm_batch.evaluation.comparison import Comparison, compare_runs
from kfp_llm_batch.evaluation.drift import drift
from kfp_llm_batch.evaluation.gate import NO_BASELINE, PASS, GateConfig
from kfp_llm_batch.evaluation.history import EVALUATION_FOLDER, earlier_runs
from kfp_llm_batch.evaluation.report.content import ReportInput
from kfp_llm_batch.evaluation.report.markdown import markdown_report
from kfp_llm_batch.evaluation.report.page import html_report
from kfp_llm_batch.evaluation.run_folder import EvaluatedRun
from kfp_llm_batch.manifests import FILE_NAME
from kfp_llm_batch.results.stored_result import stored_manifest
from kfp_llm_batch.steps import from_parameters
from kfp_llm_batch.storage.object_store import open_store
from kfp_llm_batch.storage.uris import join_uri

REPORT, COMPARISON = "report.html", "comparison.json"
_LOG = logging.getLogger("kfp_llm_batch")


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """With what a run is compared, and what becomes of it; checks itself."""

    gate: GateConfig = field(default_factory=GateConfig)
    baseline_uri: str | None = None
    """Address of the pointer to the baseline; without it nothing is compared."""
    promote: bool = False
    """Whether a run that passes, or that is the first, becomes the baseline."""
    run_uri: str | None = None
    """Folder of the run; its folder `evaluation` gets scores, report and comparison, the manifest last."""
    history_uri: str | None = None
    """Folder below which earlier runs lie."""

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Self:
        """What a step's parameters ask for."""
        gate = from_parameters(GateConfig, parameters, "gate_")
        return from_parameters(cls, {**parameters, "gate": gate}, "baseline_")

    def __post_init__(self) -> None:
        if self.promote and not (self.baseline_uri and self.run_uri):
            raise ConfigurationError(
                "baseline_promote moves a pointer to a published run, and one of both is not named",
                remedy="Set baseline_uri as well, and where the run is published.",
            )
        if self.baseline_uri:
            BaselinePointer(self.baseline_uri)

    @property
    def evaluation_uri(self) -> str | None:
        """Where the scores are published."""
        return join_uri(self.run_uri, EVALUATION_FOLDER) if self.run_uri else None


@dataclass(frozen=True, kw_only=True)
class ComparisonReport:
    """What the step hands on."""

    outcome: str
    """`pass`, `fail`, `inconclusive` or `no_baseline`."""
    is_promoted: bool
    html: str
    markdown: str
    metrics: dict[str, float]
    """For Kubeflow's table of metrics."""


def compare_evaluations(config: ComparisonConfig, scores_folder: Path) -> ComparisonReport:
    """Compare the scores in `scores_folder` with the baseline, write the report, publish, and promote what passed.

    Raises:
        BatchError: See errors.py; never for the outcome itself.
    """
    run = EvaluatedRun(scores_folder)
    pointer = BaselinePointer(config.baseline_uri) if config.baseline_uri else None
    baseline = pointer.read() if pointer else None
    with _opened(baseline) as earlier_run:
        comparison = None if earlier_run is None else compare_runs(run, earlier_run, config.gate)
        given = ReportInput(
            run=run,
            comparison=comparison,
            baseline=earlier_run,
            baseline_uri=baseline.evaluation_uri if baseline else None,
            earlier=earlier_runs(config.history_uri, run.manifest) if config.history_uri else (),
            drift=drift(run, earlier_run) if earlier_run else (),
        )
        html, markdown = html_report(given), markdown_report(given)
    # What Markdown needs escaped is noise in a log.
    _LOG.info("%s", unescape(markdown))
    if config.evaluation_uri:
        _publish(run, config.evaluation_uri, html, _as_json(given.outcome, baseline, comparison))
    is_promoted = config.promote and given.outcome in (PASS, NO_BASELINE)
    if is_promoted and pointer and config.evaluation_uri:
        pointer.promote(config.evaluation_uri, f"gate: {given.outcome}")
        _LOG.info("The baseline at %s is this run now.", pointer.uri)
    return ComparisonReport(
        outcome=given.outcome,
        is_promoted=is_promoted,
        html=html,
        markdown=markdown,
        metrics=_metrics(comparison),
    )


@contextmanager
def _opened(baseline: Baseline | None) -> Iterator[EvaluatedRun | None]:
    if baseline is None:
        yield None
        return
    with fetched_baseline(baseline) as run:
        yield run


def _metrics(comparison: Comparison | None) -> dict[str, float]:
    if comparison is None:
        return {}
    values = {f"{entry.metric.name}_change": entry.paired.difference for entry in comparison.metrics}
    return {**values, "rows_compared": float(comparison.likeness.rows_compared)}


def _as_json(outcome: str, baseline: Baseline | None, comparison: Comparison | None) -> dict[str, Any]:
    """What programs want to know of a comparison."""
    facts: dict[str, Any] = {"schema_version": 1, "kind": "comparison", "outcome": outcome, "baseline": None}
    if baseline is None or comparison is None:
        return facts
    return facts | {
        "baseline": dataclasses.asdict(baseline),
        "likeness": dataclasses.asdict(comparison.likeness),
        "decision": dataclasses.asdict(comparison.decision),
        "metrics": [
            {
                "metric": entry.metric.name,
                "column": entry.column,
                "value": entry.value,
                "p_adjusted": entry.p_adjusted,
                **dataclasses.asdict(entry.paired),
                "difference": entry.paired.difference,
            }
            for entry in (*comparison.metrics, *comparison.slices)
        ],
    }


def _publish(run: EvaluatedRun, evaluation_uri: str, html: str, comparison: dict[str, Any]) -> None:
    """Everything but the manifest first; an evaluation of other scores that stands there is not replaced."""
    store = open_store(evaluation_uri)
    manifest, existing = (run.folder / FILE_NAME).read_bytes(), stored_manifest(store)
    if existing not in (None, manifest):
        raise ResultError(
            "Another evaluation stands at the output", received=store.uri, remedy="Choose another output_uri."
        )
    store.write(REPORT, html.encode())
    store.write(COMPARISON, f"{json.dumps(_finite(comparison), indent=2)}\n".encode())
    if existing is None:
        store.upload(run.folder / run.manifest.scores.path, run.manifest.scores.path)
        store.write(FILE_NAME, manifest, only_if_absent=True)


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and value != value else value
