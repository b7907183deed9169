"""How long the answers are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kfp_llm_batch.evaluation.scorers.protocol import COUNT, Metric, Row, Score, mean_of_answers


@dataclass(frozen=True, kw_only=True)
class Length:
    """Characters of the answer without reasoning, and generated tokens with it."""

    version: ClassVar[int] = 1
    needs_target: ClassVar[bool] = False
    metrics: ClassVar[Sequence[Metric]] = tuple(
        Metric(name=name, unit=COUNT, higher_is_better=None, missing=None)
        for name in ("length_characters", "length_tokens")
    )

    def score(self, row: Row) -> Score:
        """Measure every answer; tokens are counted for all samples of a row together."""
        tokens = row.num_completion_tokens
        per_answer = None if tokens is None else tokens / len(row.answers)
        return Score((mean_of_answers(row, lambda answer: float(len(answer))), per_answer))
