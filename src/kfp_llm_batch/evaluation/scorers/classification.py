"""The class that the answer names is the right one: accuracy, and precision, recall, F1 and MCC over all rows."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import ClassVar

import numpy as np

from kfp_llm_batch.errors import ConfigurationError, DataError
from kfp_llm_batch.evaluation.scorers.protocol import FloatArray, Metric, Row, Score, Scorer, as_text
from kfp_llm_batch.evaluation.scorers.texts import folded

TAKES = ("only", "first", "last")
MOST_CLASSES = 100


@dataclass(frozen=True, kw_only=True)
class Classification:
    """1 if the class that is read out of the answer is that of the target, case and white space aside.

    An answer that is a class is that class; else the classes that it mentions as whole words are looked for, a class
    within a longer one left out. The averages are over the classes, each of the same weight, as scikit-learn's `macro`.
    """

    version: ClassVar[int] = 1
    needs_target: ClassVar[bool] = True
    takes_lists: ClassVar[bool] = False

    classes: Sequence[str] = ()
    """All classes; none means those that occur as targets."""
    take: str = "only"
    """Which class counts if several are mentioned: one of TAKES; `only` takes none then."""

    def __post_init__(self) -> None:
        if self.take not in TAKES:
            raise ConfigurationError("Scorer classification: unknown take", received=self.take, allowed=TAKES)
        if len(set(self._folded)) < len(self.classes):
            raise ConfigurationError(
                "Scorer classification: two classes are the same but for case and white space",
                received=list(self.classes),
            )

    @property
    def metrics(self) -> Sequence[Metric]:
        """Accuracy is the main one."""
        return (
            Metric(name="accuracy"),
            Metric(name="macro_f1", corpus=macro_f1),
            Metric(name="macro_precision", corpus=macro_precision),
            Metric(name="macro_recall", corpus=macro_recall),
            Metric(name="mcc", corpus=matthews_correlation),
        )

    def prepare(self, rows: Callable[[], Iterator[Row]], folder: Path) -> Scorer:
        """Take the classes from the targets, unless they are given."""
        if self.classes:
            return self
        found = {folded(as_text(row.target)): as_text(row.target) for row in rows() if row.target is not None}
        if len(found) > MOST_CLASSES:
            raise DataError(
                f"Scorer classification: the targets are of {len(found)} classes",
                allowed=[f"at most {MOST_CLASSES}"],
                remedy="Name the classes in its option `classes`, or use another scorer.",
            )
        return dataclasses.replace(self, classes=sorted(found.values()))

    def score(self, row: Row) -> Score | None:
        """Compare the classes of all answers with the target's."""
        expected = self._expected(row)
        if expected is None:
            return None
        found = [self._find(answer.text) for answer in row.answers]
        counts = np.mean([self._counts(each, expected) for each in found], axis=0)
        extracted = None if found[0] is None else self.classes[found[0]]
        accuracy = fmean(each == expected for each in found)
        return Score((accuracy, None, None, None, None), extracted, tuple(counts.tolist()))

    def expected_class(self, row: Row) -> str | None:
        """The target's class; None if it is none."""
        expected = self._expected(row)
        return None if expected is None else self.classes[expected]

    def _expected(self, row: Row) -> int | None:
        return self._index(as_text(row.target)) if row.target is not None else None

    @cached_property
    def _folded(self) -> list[str]:
        return [folded(name) for name in self.classes]

    @cached_property
    def _mentions(self) -> re.Pattern[str]:
        return re.compile("|".join(map(_whole_words, sorted(self._folded, key=len, reverse=True))))

    def _index(self, text: str) -> int | None:
        return self._folded.index(folded(text)) if folded(text) in self._folded else None

    def _find(self, answer: str) -> int | None:
        if (index := self._index(answer)) is not None:
            return index
        found = [self._folded.index(match) for match in self._mentions.findall(folded(answer))]
        if not found or (self.take == "only" and len(set(found)) > 1):
            return None
        return found[-1 if self.take == "last" else 0]

    def _counts(self, found: int | None, expected: int) -> FloatArray:
        """Hits, findings and expectations of each class, then 1 for the row."""
        size = len(self.classes)
        counts = np.zeros(3 * size + 1)
        counts[[2 * size + expected, 3 * size]] = 1
        if found is not None:
            counts[size + found] = 1
            counts[found] = found == expected
        return counts


def _whole_words(name: str) -> str:
    """A pattern for the name where no letter touches it; scripts without spaces, from U+2E80 on, need none."""
    before, after = ("" if character >= "\u2e80" else boundary for character, boundary in _edges(name))
    return f"{before}{re.escape(name)}{after}"


def _edges(name: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return (name[:1], r"(?<!\w)"), (name[-1:], r"(?!\w)")


def macro_precision(sums: FloatArray) -> float:
    """Mean over the classes that occur, of hits among findings."""
    hits, found, expected, _ = _split(sums)
    return _mean_ratio(hits, found, found + expected)


def macro_recall(sums: FloatArray) -> float:
    """Mean over the classes that occur, of hits among expectations."""
    hits, found, expected, _ = _split(sums)
    return _mean_ratio(hits, expected, found + expected)


def macro_f1(sums: FloatArray) -> float:
    """Mean over the classes that occur, of the harmonic mean of precision and recall."""
    hits, found, expected, _ = _split(sums)
    return _mean_ratio(2 * hits, found + expected, found + expected)


def matthews_correlation(sums: FloatArray) -> float:
    """Of several classes; answers without a class are a class of their own, which is never expected."""
    hits, found, expected, rows = _split(sums)
    covariance = rows * hits.sum() - found @ expected
    unknown = rows - found.sum()
    spread = (rows**2 - found @ found - unknown**2) * (rows**2 - expected @ expected)
    return float(covariance / math.sqrt(spread)) if spread > 0 else 0.0


def _split(sums: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, float]:
    hits, found, expected = np.split(sums[:-1], 3)
    return hits, found, expected, float(sums[-1])


def _mean_ratio(part: FloatArray, whole: FloatArray, occurs: FloatArray) -> float:
    ratios = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return float(ratios[occurs > 0].mean()) if (occurs > 0).any() else 0.0
