"""The answer is empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kfp_llm_batch.evaluation.scorers.protocol import Metric, Row, Score, mean_of_answers


@dataclass(frozen=True, kw_only=True)
class Empty:
    """1 if nothing but white space and reasoning is left of the answer."""

    version: ClassVar[int] = 1
    needs_target: ClassVar[bool] = False
    metrics: ClassVar[Sequence[Metric]] = (Metric(name="empty", higher_is_better=False, missing=1.0),)

    def score(self, row: Row) -> Score:
        """Look at every answer."""
        return Score((mean_of_answers(row, lambda answer: float(not answer)),))
