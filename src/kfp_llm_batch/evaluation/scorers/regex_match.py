"""What a pattern finds in the answer is the target, or is there at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.evaluation.scorers.protocol import Metric, Row, Score, mean_of_answers, target_texts
from kfp_llm_batch.evaluation.scorers.texts import folded

TAKES = ("first", "last")


@dataclass(frozen=True, kw_only=True)
class RegexMatch:
    """1 if the first group, or else the whole match, equals the target; without comparison 1 if there is a match."""

    version: ClassVar[int] = 1
    metrics: ClassVar[Sequence[Metric]] = (Metric(name="regex_match"),)

    pattern: str
    """A Python regular expression."""
    take: str = "last"
    """Which match counts: one of TAKES."""
    compare: bool = True
    """Whether it must equal the target, case and white space aside."""

    def __post_init__(self) -> None:
        if self.take not in TAKES:
            raise ConfigurationError("Scorer regex_match: unknown take", received=self.take, allowed=TAKES)
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ConfigurationError(
                f"Scorer regex_match: the pattern is no regular expression: {error}", received=self.pattern
            ) from error

    @property
    def needs_target(self) -> bool:
        """A pattern that must only match needs none."""
        return self.compare

    def score(self, row: Row) -> Score | None:
        """Search in every answer."""
        targets = [folded(target) for target in target_texts(row)]
        if self.compare and not targets:
            return None
        value = mean_of_answers(row, lambda answer: self._value(self._find(answer), targets))
        return Score((value,), extracted=self._find(row.answers[0].text))

    def _value(self, found: str | None, targets: Sequence[str]) -> float:
        return float(found is not None and (not self.compare or folded(found) in targets))

    def _find(self, answer: str) -> str | None:
        matches = list(self._pattern.finditer(answer))
        if not matches:
            return None
        match = matches[0 if self.take == "first" else -1]
        return match[1] if self._pattern.groups else match[0]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(self.pattern)
