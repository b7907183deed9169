"""The answer is JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from kfp_llm_batch.evaluation.scorers.json_answers import INVALID, parsed_answer
from kfp_llm_batch.evaluation.scorers.protocol import Metric, Row, Score


@dataclass(frozen=True, kw_only=True)
class JsonValid:
    """1 if the whole answer is one JSON value; a truncated one never is, even if its beginning happens to be."""

    version: ClassVar[int] = 1
    needs_target: ClassVar[bool] = False
    metrics: ClassVar[Sequence[Metric]] = (Metric(name="json_valid"),)

    code_block: bool = True
    """Whether the value may stand in a Markdown code block."""

    def score(self, row: Row) -> Score:
        """Parse every answer."""
        return Score((fmean(parsed_answer(answer, self.code_block) is not INVALID for answer in row.answers),))
