"""The number that the answer comes to is the target: the convention of GSM8K, with a tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.evaluation.scorers.numbers import numbers_in
from kfp_llm_batch.evaluation.scorers.protocol import Metric, Row, Score, mean_of_answers, target_texts

TAKES = ("marked", "first", "last")


@dataclass(frozen=True, kw_only=True)
class NumericMatch:
    """1 if the number of the answer is that of the target, however both are written.

    The number is the first one after the last marker; without a marker the last one, or the first.
    """

    version: ClassVar[int] = 1
    needs_target: ClassVar[bool] = True

    tolerance: float = 0.0
    """Largest accepted difference."""
    relative_tolerance: float = 0.0
    """The same as a share of the target."""
    marker: str = "####"
    """What the final number stands behind, in answers and targets."""
    take: str = "last"
    """Of an answer without marker: `first` or `last`; `marked` takes none."""

    def __post_init__(self) -> None:
        if self.take not in TAKES:
            raise ConfigurationError("Scorer numeric_match: unknown take", received=self.take, allowed=TAKES)
        for name in ("tolerance", "relative_tolerance"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigurationError(
                    f"Scorer numeric_match: {name} is no number from 0", received=getattr(self, name)
                )

    @property
    def metrics(self) -> Sequence[Metric]:
        """The share of right numbers."""
        return (Metric(name="numeric_match"),)

    def score(self, row: Row) -> Score | None:
        """Compare with the number of every accepted target."""
        numbers = [self._number(target, "last") for target in target_texts(row)]
        targets = [number for number in numbers if number is not None]
        if not targets:
            return None
        value = mean_of_answers(row, lambda answer: self._is_right(self._number(answer, self.take), targets))
        found = self._number(row.answers[0].text, self.take)
        return Score((value,), extracted=None if found is None else f"{found.normalize():f}")

    def _number(self, text: str, take: str) -> Decimal | None:
        before, marker, marked = text.rpartition(self.marker) if self.marker else ("", "", text)
        if marker and (found := numbers_in(marked)):
            return found[0]
        if take == "marked":
            return None
        found = numbers_in(before or marked)
        return (found[0] if take == "first" else found[-1]) if found else None

    def _is_right(self, number: Decimal | None, targets: Sequence[Decimal]) -> float:
        if number is None:
            return 0.0
        return float(any(abs(number - target) <= self._allowed(target) for target in targets))

    def _allowed(self, target: Decimal) -> Decimal:
        return max(Decimal(str(self.tolerance)), Decimal(str(self.relative_tolerance)) * abs(target))
