"""Whether at least one of k samples is right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from kfp_llm_batch.evaluation.scorers.protocol import Row, Score
from kfp_llm_batch.evaluation.scorers.samples import ScorerOfSamples


@dataclass(frozen=True, kw_only=True)
class PassAtK(ScorerOfSamples):
    """The chance that k samples drawn from those of the row hold a right one: the unbiased estimate.

    A row with fewer samples than k is not scored.
    """

    name: ClassVar[str] = "pass_at_k"

    def score(self, row: Row) -> Score | None:
        """Count the right samples."""
        scores = self.score_samples(row)
        if scores is None:
            return None
        right = sum(score.values[0] == 1 for score in scores)
        return Score(tuple(_pass_at_k(len(scores), right, k) for k in self.k))


def _pass_at_k(samples: int, right: int, k: int) -> float | None:
    """One minus the chance that k of the samples are all wrong; None for fewer samples than k."""
    if samples < k:
        return None
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)
