"""What the scorers of several samples share: another scorer, asked about one sample at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.evaluation.scorers.protocol import NeedsAllRows, Row, Score
from kfp_llm_batch.evaluation.scorers.registry import make_scorer
from kfp_llm_batch.evaluation.scorers.texts import folded


class InnerScorer:
    """A scorer of single samples inside another one.

    Args:
        outer: Name of the other one, for messages.
        specification: What `make_scorer` takes.

    Raises:
        ConfigurationError: The inner scorer has to see all rows first, or its main metric is of no single row.
    """

    def __init__(self, outer: str, specification: str | Mapping[str, Any]) -> None:
        named = make_scorer(specification)
        self.scorer = named.scorer
        if isinstance(self.scorer, NeedsAllRows) or self.scorer.metrics[0].corpus:
            raise ConfigurationError(
                f"Scorer {outer} cannot use {named.name}, which does not say of one sample whether it is right",
                remedy="Use one such as exact_match, numeric_match, multiple_choice or regex_match.",
            )

    def verdicts(self, row: Row) -> list[bool] | None:
        """Whether each sample is right; None if the row cannot be scored."""
        scores = [self._score(row, index) for index in range(len(row.answers))]
        values = [score.values[0] for score in scores if score is not None]
        if len(values) < len(scores) or None in values:
            return None
        return [value == 1 for value in values]

    def readings(self, row: Row) -> list[str | None]:
        """What is read out of each sample; the text itself, where the scorer reads nothing out of any."""
        scores = [self._score(row, index) for index in range(len(row.answers))]
        found = [score.extracted if score else None for score in scores]
        if any(reading is not None for reading in found):
            return found
        return [folded(answer.text) or None for answer in row.answers]

    def _score(self, row: Row, index: int) -> Score | None:
        return self.scorer.score(dataclasses.replace(row, answers=(row.answers[index],)))


def check_ks(name: str, ks: Sequence[int]) -> None:
    """Refuse numbers of samples that are none, or repeated.

    Raises:
        ConfigurationError: One is not positive, or there are none.
    """
    if not ks or min(ks) < 1 or len(set(ks)) < len(ks):
        raise ConfigurationError(
            f"Scorer {name}: k is no list of different positive whole numbers", received=list(ks), allowed=["[1, 5]"]
        )
