"""The answer was cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from kfp_llm_batch.evaluation.scorers.protocol import Metric, Row, Score


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """1 if the answer ended at `max_tokens` or at the end of the context."""

    version: ClassVar[int] = 1
    needs_target: ClassVar[bool] = False
    metrics: ClassVar[Sequence[Metric]] = (Metric(name="truncation", higher_is_better=False, missing=None),)

    def score(self, row: Row) -> Score:
        """Look at every answer's end."""
        return Score((fmean(answer.is_truncated for answer in row.answers),))
