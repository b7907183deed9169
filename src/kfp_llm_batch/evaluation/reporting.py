"""What the Kubeflow UI shows of scores alone."""

from __future__ import annotations

import math
from pathlib import Path

from kfp_llm_batch.evaluation.manifest import EvaluationManifest
from kfp_llm_batch.evaluation.report.content import ReportInput
from kfp_llm_batch.evaluation.report.page import html_report
from kfp_llm_batch.evaluation.run_folder import EvaluatedRun


def metrics(manifest: EvaluationManifest) -> dict[str, float]:
    """Finite numbers by name; the Kubeflow UI refuses others."""
    values: dict[str, float | None] = {"rows": manifest.rows}
    for entry in manifest.metrics:
        name = entry["metric"]
        values |= {name: entry["value"], f"{name}_low": entry["low"], f"{name}_high": entry["high"]}
        values[f"{name}_rows_scored"] = entry["n_scored"]
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}


def html_of_run(scores_folder: Path) -> str:
    """The report of a run that is compared with nothing."""
    return html_report(ReportInput(run=EvaluatedRun(scores_folder)))
