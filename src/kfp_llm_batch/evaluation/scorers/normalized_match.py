"""The answer is the target but for case, punctuation and English articles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kfp_llm_batch.evaluation.scorers.protocol import Metric, Row, Score, best_of_targets
from kfp_llm_batch.evaluation.scorers.texts import squad_normalized


@dataclass(frozen=True, kw_only=True)
class NormalizedMatch:
    """1 if answer and target are equal as SQuAD normalises them."""

    version: ClassVar[int] = 1
    needs_target: ClassVar[bool] = True
    metrics: ClassVar[Sequence[Metric]] = (Metric(name="normalized_match"),)

    def score(self, row: Row) -> Score:
        """Compare with every accepted target."""
        return Score((best_of_targets(row, _is_equal),))


def _is_equal(answer: str, target: str) -> float:
    return float(squad_normalized(answer) == squad_normalized(target))
