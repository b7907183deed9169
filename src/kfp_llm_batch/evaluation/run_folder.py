"""A folder with the scores of one run, opened for comparison and report."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kfp_llm_batch.errors import DataError, ResultError
from kfp_llm_batch.evaluation.manifest import EvaluationManifest
from kfp_llm_batch.evaluation.score_table import ScoreTable
from kfp_llm_batch.evaluation.scorers.registry import NamedScorer, make_scorers
from kfp_llm_batch.evaluation.summary import RunMeasurements
from kfp_llm_batch.manifests import FILE_NAME


@dataclass(frozen=True)
class EvaluatedRun:
    """The scores of one run.

    Args:
        folder: What `evaluate` wrote, or was fetched.
    """

    folder: Path

    def __post_init__(self) -> None:
        with (self.folder / self.manifest.scores.path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != self.manifest.scores.sha256:
            raise ResultError(f"The scores in {self.folder} are not what their manifest says", received=digest)

    @cached_property
    def manifest(self) -> EvaluationManifest:
        """What was measured."""
        path = self.folder / FILE_NAME
        if not path.is_file():
            raise DataError("The scores have no manifest: evaluate_completions did not finish", received=str(path))
        return EvaluationManifest.from_json(path.read_bytes(), str(path))

    @cached_property
    def table(self) -> ScoreTable:
        """The scores."""
        return ScoreTable(self.folder / self.manifest.scores.path)

    @cached_property
    def scorers(self) -> tuple[NamedScorer, ...]:
        """Those that made the scores."""
        return make_scorers([entry["specification"] for entry in self.manifest.scorers])

    @cached_property
    def measurements(self) -> RunMeasurements:
        """What the rows contribute to each metric."""
        return RunMeasurements(self.table, self.scorers, self.manifest.cluster_column)
