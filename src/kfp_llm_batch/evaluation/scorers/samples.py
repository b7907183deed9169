"""What the scorers of several samples share: another scorer, asked about one sample at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.evaluation.scorers.protocol import Metric, NeedsAllRows, Row, Score
from kfp_llm_batch.evaluation.scorers.registry import NamedScorer, make_scorer


@dataclass(frozen=True, kw_only=True)
class ScorerOfSamples:
    """A scorer whose metrics are one for each k, by what another scorer says of each sample."""

    name: ClassVar[str]
    version: ClassVar[int] = 1

    of: str | Mapping[str, Any]
    """The scorer that says whether a sample is right: its main metric is 1."""
    k: Sequence[int] = (1,)

    def __post_init__(self) -> None:
        if not self.k or min(self.k) < 1 or len(set(self.k)) < len(self.k):
            raise ConfigurationError(
                f"Scorer {self.name}: k is no list of different positive whole numbers",
                received=list(self.k),
                allowed=["[1, 5]"],
            )
        inner, name = self._inner.scorer, self._inner.name
        if isinstance(inner, NeedsAllRows) or inner.metrics[0].corpus:
            raise ConfigurationError(
                f"Scorer {self.name} cannot use {name}, which does not say of one sample whether it is right",
                remedy="Use one such as exact_match, numeric_match, multiple_choice or regex_match.",
            )

    @property
    def needs_target(self) -> bool:
        """As the inner scorer does."""
        return self._inner.scorer.needs_target

    @property
    def metrics(self) -> Sequence[Metric]:
        """One for each k."""
        return tuple(Metric(name=f"{self.name.removesuffix('k')}{k}") for k in self.k)

    def score_samples(self, row: Row) -> list[Score] | None:
        """The inner scorer's score of each sample; None if the row cannot be scored."""
        samples = [dataclasses.replace(row, answers=(answer,)) for answer in row.answers]
        scores = [score for sample in samples if (score := self._inner.scorer.score(sample)) is not None]
        is_complete = len(scores) == len(samples) and all(score.values[0] is not None for score in scores)
        return scores if is_complete else None

    @cached_property
    def _inner(self) -> NamedScorer:
        return make_scorer(self.of)
