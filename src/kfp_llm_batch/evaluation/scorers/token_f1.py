"""How many words answer and target share: the F1 of SQuAD."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kfp_llm_batch.evaluation.scorers.protocol import Metric, Row, Score, best_of_targets
from kfp_llm_batch.evaluation.scorers.texts import squad_normalized


@dataclass(frozen=True, kw_only=True)
class TokenF1:
    """F1 of the words, normalised as SQuAD does; the best of several targets."""

    version: ClassVar[int] = 1
    needs_target: ClassVar[bool] = True
    metrics: ClassVar[Sequence[Metric]] = (Metric(name="token_f1"),)

    def score(self, row: Row) -> Score:
        """Compare with every accepted target."""
        return Score((best_of_targets(row, token_f1),))


def token_f1(answer: str, target: str) -> float:
    """Harmonic mean of precision and recall; two texts without words are equal."""
    words, expected = squad_normalized(answer).split(), squad_normalized(target).split()
    if not words or not expected:
        return float(words == expected)
    common = (Counter(words) & Counter(expected)).total()
    return 2 * common / (len(words) + len(expected))
