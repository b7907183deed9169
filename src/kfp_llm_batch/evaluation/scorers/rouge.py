"""ROUGE-1, ROUGE-2 and ROUGE-L: which words, pairs of words and common subsequences answer and target share."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from rapidfuzz.distance import LCSseq

from kfp_llm_batch.evaluation.scorers.protocol import Metric, Row, Score, best_of_targets

_Token = TypeVar("_Token", str, tuple[str, str])
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_ANY_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, kw_only=True)
class Rouge:
    """F-measures as the package rouge-score computes them without stemming; the best of several targets.

    ROUGE-L is the main one.
    """

    version: ClassVar[int] = 1
    needs_target: ClassVar[bool] = True
    metrics: ClassVar[Sequence[Metric]] = (Metric(name="rouge_l"), Metric(name="rouge_1"), Metric(name="rouge_2"))

    ascii_words: bool = True
    """Whether words are made of a-z and 0-9 alone, the convention; without it of the letters of any script."""

    def score(self, row: Row) -> Score:
        """Compare with every accepted target, for each measure by itself."""
        return Score(tuple(best_of_targets(row, measure) for measure in (self._longest, self._words, self._pairs)))

    def _tokens(self, text: str) -> list[str]:
        return (_ASCII_WORD if self.ascii_words else _ANY_WORD).findall(text.lower())

    def _longest(self, answer: str, target: str) -> float:
        words, expected = self._tokens(answer), self._tokens(target)
        return _f_measure(LCSseq.similarity(words, expected), len(words), len(expected))

    def _words(self, answer: str, target: str) -> float:
        return _overlap(Counter(self._tokens(answer)), Counter(self._tokens(target)))

    def _pairs(self, answer: str, target: str) -> float:
        return _overlap(_pair_counts(self._tokens(answer)), _pair_counts(self._tokens(target)))


def _pair_counts(words: Sequence[str]) -> Counter[tuple[str, str]]:
    return Counter(itertools.pairwise(words))


def _overlap(found: Counter[_Token], expected: Counter[_Token]) -> float:
    return _f_measure((found & expected).total(), found.total(), expected.total())


def _f_measure(common: int, found: int, expected: int) -> float:
    return 2 * common / (found + expected) if common else 0.0
