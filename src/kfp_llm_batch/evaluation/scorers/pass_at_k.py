"""Whether at least one of k samples is right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from kfp_llm_batch.evaluation.scorers.protocol import Metric, Row, Score
from kfp_llm_batch.evaluation.scorers.samples import InnerScorer, check_ks


@dataclass(frozen=True, kw_only=True)
class PassAtK:
    """The chance that k samples drawn from those of the row hold a right one: the unbiased estimate.

    A row with fewer samples than k is not scored.
    """

    version: ClassVar[int] = 1

    of: str | Mapping[str, Any]
    """The scorer that says whether a sample is right: its main metric is 1."""
    k: Sequence[int] = (1,)

    def __post_init__(self) -> None:
        check_ks("pass_at_k", self.k)
        _ = self._inner

    @property
    def needs_target(self) -> bool:
        """As the inner scorer does."""
        return self._inner.scorer.needs_target

    @property
    def metrics(self) -> Sequence[Metric]:
        """One for each k."""
        return tuple(Metric(name=f"pass_at_{k}") for k in self.k)

    def score(self, row: Row) -> Score | None:
        """Count the right samples."""
        verdicts = self._inner.verdicts(row)
        if verdicts is None:
            return None
        return Score(tuple(pass_at_k(len(verdicts), sum(verdicts), k) for k in self.k))

    @cached_property
    def _inner(self) -> InnerScorer:
        return InnerScorer("pass_at_k", self.of)


def pass_at_k(samples: int, right: int, k: int) -> float | None:
    """One minus the chance that k of the samples are all wrong; None for fewer samples than k."""
    if samples < k:
        return None
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)
