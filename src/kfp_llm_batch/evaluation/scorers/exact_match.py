"""The answer is the target, character by character."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kfp_llm_batch.evaluation.scorers.protocol import Metric, Row, Score, best_of_targets


@dataclass(frozen=True, kw_only=True)
class ExactMatch:
    """1 if the answer is the target but for surrounding white space."""

    version: ClassVar[int] = 1
    needs_target: ClassVar[bool] = True
    metrics: ClassVar[Sequence[Metric]] = (Metric(name="exact_match"),)

    def score(self, row: Row) -> Score:
        """Compare with every accepted target."""
        return Score((best_of_targets(row, lambda answer, target: float(answer == target.strip())),))
