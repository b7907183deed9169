"""Samples of lm-evaluation-harness to a published run, compared like any other."""

from __future__ import annotations

import tempfile
from pathlib import Path

from kfp_llm_batch.errors import DataError
from kfp_llm_batch.evaluation.comparing import ComparisonConfig, compare_evaluations
from kfp_llm_batch.evaluation.config import EvaluationConfig
from kfp_llm_batch.evaluation.harness_samples import import_samples
from kfp_llm_batch.evaluation.scoring import evaluate
from kfp_llm_batch.results.publishing import publish_result


def publish_samples(samples: Path, config: ComparisonConfig, model: str | None) -> str:
    """Publish answers, scores and report at `config.run_uri`; the gate's outcome.

    Args:
        samples: What the harness logged of one task.
        config: With what the run is compared, and where it is published.
        model: What answered.

    Raises:
        BatchError: See errors.py; never for the outcome itself.
    """
    if not samples.is_file():
        raise DataError("There is no file with samples", received=str(samples))
    with tempfile.TemporaryDirectory(prefix="kfp-llm-batch-") as folder:
        completions, scores = Path(folder) / "completions", Path(folder) / "scores"
        imported = import_samples(samples, completions, model)
        publish_result(completions, str(config.run_uri))
        evaluate(EvaluationConfig(scorers=[imported.scorer], target_column="target"), completions, scores)
        return compare_evaluations(config, scores).outcome
