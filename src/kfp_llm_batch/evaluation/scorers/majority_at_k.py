"""Whether the answer that most of k samples give is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, ClassVar

from kfp_llm_batch.evaluation.scorers.protocol import Metric, Row, Score
from kfp_llm_batch.evaluation.scorers.samples import InnerScorer, check_ks


@dataclass(frozen=True, kw_only=True)
class MajorityAtK:
    """1 if the commonest of the first k samples' answers is right; of several commonest ones their mean.

    Samples say the same if the inner scorer reads the same out of them. Those it reads nothing out of do not vote; if
    that is all of them the row counts as wrong. A row with fewer samples than k is not scored.
    """

    version: ClassVar[int] = 1

    of: str | Mapping[str, Any]
    """The scorer that reads the answers and says whether one is right: its main metric is 1."""
    k: Sequence[int] = (1,)

    def __post_init__(self) -> None:
        check_ks("majority_at_k", self.k)
        _ = self._inner

    @property
    def needs_target(self) -> bool:
        """As the inner scorer does."""
        return self._inner.scorer.needs_target

    @property
    def metrics(self) -> Sequence[Metric]:
        """One for each k."""
        return tuple(Metric(name=f"majority_at_{k}") for k in self.k)

    def score(self, row: Row) -> Score | None:
        """Let the samples vote."""
        verdicts = self._inner.verdicts(row)
        if verdicts is None:
            return None
        votes = self._inner.readings(row)
        values = tuple(_majority(votes[:k], verdicts[:k]) if len(votes) >= k else None for k in self.k)
        winner = Counter(vote for vote in votes if vote is not None).most_common(1)
        return Score(values, extracted=winner[0][0] if winner else None)

    @cached_property
    def _inner(self) -> InnerScorer:
        return InnerScorer("majority_at_k", self.of)


def _majority(votes: Sequence[str | None], verdicts: Sequence[bool]) -> float:
    counts = Counter(vote for vote in votes if vote is not None)
    most = max(counts.values(), default=0)
    is_right = dict(zip(votes, verdicts, strict=True))
    winners = [float(is_right[vote]) for vote, count in counts.items() if count == most]
    return fmean(winners) if winners else 0.0
