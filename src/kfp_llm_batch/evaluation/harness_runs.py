"""Samples of lm-evaluation-harness to a published run, compared like any other."""

from __future__ import annotations

from pathlib import Path

from kfp_llm_batch.disk import temporary_folder
from kfp_llm_batch.errors import DataError
from kfp_llm_batch.evaluation.comparing import ComparisonConfig, compare_evaluations
from kfp_llm_batch.evaluation.config import EvaluationConfig
from kfp_llm_batch.evaluation.harness_samples import import_samples
from kfp_llm_batch.evaluation.scoring import evaluate
from kfp_llm_batch.results.publishing import publish_result


def publish_samples(samples: Path, config: ComparisonConfig, model: str | None) -> str:
    """Publish answers, scores and report at `config.run_uri`; the gate's outcome.

    Args:
        samples: What the harness logged of one task, or the folder in which it did.
        config: With what the run is compared, and where it is published.
        model: What answered.

    Raises:
        BatchError: See errors.py; never for the outcome itself.
    """
    path = samples_file(samples)
    with temporary_folder() as folder:
        completions, scores = folder / "completions", folder / "scores"
        scorer = import_samples(path, completions, model)
        publish_result(completions, str(config.run_uri))
        evaluate(EvaluationConfig(scorers=[scorer], target_column="target"), completions, scores)
        return compare_evaluations(config, scores).outcome


def samples_file(path: Path) -> Path:
    """The file itself, or the only one with samples in a folder and those below it.

    Raises:
        DataError: There is none, or there are several, of which the caller has to choose.
    """
    if path.is_file():
        return path
    found = sorted(path.rglob("samples_*.jsonl")) if path.is_dir() else []
    if not found:
        raise DataError(
            "There is no file with samples",
            received=str(path),
            remedy="Run lm_eval with --log_samples --output_path FOLDER, and name FOLDER or its samples_*.jsonl.",
        )
    if len(found) > 1:
        raise DataError(
            f"There are {len(found)} files with samples, and a run is of one",
            received=str(path),
            allowed=[str(entry) for entry in found],
            remedy="Name one of them; each task becomes a run of its own.",
        )
    return found[0]
