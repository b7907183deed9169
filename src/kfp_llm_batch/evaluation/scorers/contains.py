"""The target stands somewhere in the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kfp_llm_batch.evaluation.scorers.protocol import Metric, Row, Score, best_of_targets
from kfp_llm_batch.evaluation.scorers.texts import folded


@dataclass(frozen=True, kw_only=True)
class Contains:
    """1 if the target occurs in the answer; an empty target only in an empty answer."""

    version: ClassVar[int] = 1
    needs_target: ClassVar[bool] = True
    metrics: ClassVar[Sequence[Metric]] = (Metric(name="contains"),)

    ignore_case: bool = True
    """Whether case, white space and Unicode's compatible forms make no difference."""

    def score(self, row: Row) -> Score:
        """Look for every accepted target."""
        return Score((best_of_targets(row, self._contains),))

    def _contains(self, answer: str, target: str) -> float:
        if self.ignore_case:
            answer, target = folded(answer), folded(target)
        return float(target in answer if target else not answer)
