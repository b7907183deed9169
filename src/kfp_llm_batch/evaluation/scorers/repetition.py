"""The answer says the same again and again, as small models do when they get stuck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.evaluation.scorers.protocol import Metric, Row, Score, mean_of_answers


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """The share of runs of `words` words that occurred before; 0 for an answer of fewer words."""

    version: ClassVar[int] = 1
    needs_target: ClassVar[bool] = False
    metrics: ClassVar[Sequence[Metric]] = (Metric(name="repetition", higher_is_better=False, missing=None),)

    words: int = 4

    def __post_init__(self) -> None:
        if self.words < 1:
            raise ConfigurationError("Scorer repetition: words is no positive number", received=self.words)

    def score(self, row: Row) -> Score:
        """Look at every answer."""
        return Score((mean_of_answers(row, self._repeated_share),))

    def _repeated_share(self, answer: str) -> float:
        words = answer.split()
        runs = [tuple(words[start : start + self.words]) for start in range(len(words) - self.words + 1)]
        return 1 - len(set(runs)) / len(runs) if runs else 0.0
