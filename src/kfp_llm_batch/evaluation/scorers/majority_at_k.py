"""Whether the answer that most of k samples give is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from kfp_llm_batch.evaluation.scorers.protocol import Row, Score
from kfp_llm_batch.evaluation.scorers.samples import ScorerOfSamples
from kfp_llm_batch.evaluation.scorers.texts import folded


@dataclass(frozen=True, kw_only=True)
class MajorityAtK(ScorerOfSamples):
    """1 if the commonest of the first k samples' answers is right; of several commonest ones their mean.

    Samples say the same if the inner scorer reads the same out of them, or if it reads nothing out of any and their
    texts are equal. Those it reads nothing out of do not vote; if that is all of them the row counts as wrong. A row
    with fewer samples than k is not scored.
    """

    name: ClassVar[str] = "majority_at_k"

    def score(self, row: Row) -> Score | None:
        """Let the samples vote."""
        scores = self.score_samples(row)
        if scores is None:
            return None
        readings = [score.extracted for score in scores]
        if not any(reading is not None for reading in readings):
            readings = [folded(answer.text) or None for answer in row.answers]
        votes = [(reading, score.values[0] == 1) for reading, score in zip(readings, scores, strict=True)]
        values = tuple(_majority(votes[:k]) if len(votes) >= k else None for k in self.k)
        winner = Counter(reading for reading in readings if reading is not None).most_common(1)
        return Score(values, extracted=winner[0][0] if winner else None)


def _majority(votes: Sequence[tuple[str | None, bool]]) -> float:
    """Votes are what was read out of a sample, and whether that is right."""
    counts = Counter(reading for reading, _ in votes if reading is not None)
    most = max(counts.values(), default=0)
    is_right = dict(votes)
    winners = [float(is_right[reading]) for reading, count in counts.items() if count == most]
    return fmean(winners) if winners else 0.0
