"""The number that the answer comes to is the target: the convention of GSM8K, with a tolerance."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.evaluation.scorers.protocol import Metric, Row, Score, mean_of_answers, target_texts

TAKES = ("marked", "first", "last")
_CURRENCY = r"[$\u20ac\u00a3\u00a5\u20b9]"
# A hyphen between digits or letters joins them, as in 5-3 or COVID-19; it is no sign.
_NUMBER = re.compile(
    rf"""(?<![\w.])(?P<sign>[-\u2212])?(?:{_CURRENCY}\s?)?
    (?P<digits>(?:\d{{1,3}}(?:,\d{{3}})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][+-]?\d{{1,3}}(?!\d))?|\.\d+)""",
    re.VERBOSE | re.ASCII,
)
_MOST_DIGITS = 300


@dataclass(frozen=True, kw_only=True)
class NumericMatch:
    """1 if the number of the answer is that of the target, however both are written.

    The number is the first one after the last marker; without a marker the last one, or the first.
    """

    version: ClassVar[int] = 1
    needs_target: ClassVar[bool] = True
    metrics: ClassVar[Sequence[Metric]] = (Metric(name="numeric_match"),)

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


def numbers_in(text: str) -> list[Decimal]:
    """All numbers in their order, `1,234.50`, `-3` and `1e6` too; a percent sign and a currency are not part of one."""
    matches = _NUMBER.finditer(unicodedata.normalize("NFKC", text))
    return [_parsed(match) for match in matches if len(match["digits"]) <= _MOST_DIGITS]


def _parsed(match: re.Match[str]) -> Decimal:
    value = Decimal(match["digits"].replace(",", ""))
    return -value if match["sign"] else value
