"""BLEU by sacreBLEU: of each row, and of all rows together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from sacrebleu.metrics.bleu import BLEU

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.evaluation.scorers.protocol import (
    POINTS,
    FloatArray,
    Metric,
    Row,
    Score,
    target_texts,
)

TOKENIZERS = ("13a", "intl", "char", "zh", "none")
_ORDERS = 4


@dataclass(frozen=True, kw_only=True)
class Bleu:
    """The corpus's BLEU is the main metric; the mean of the rows' own BLEU stands beside it."""

    version: ClassVar[int] = 1
    needs_target: ClassVar[bool] = True

    tokenize: str = "13a"
    """One of TOKENIZERS, sacreBLEU's names."""
    lowercase: bool = False

    def __post_init__(self) -> None:
        if self.tokenize not in TOKENIZERS:
            raise ConfigurationError("Scorer bleu: unknown tokenizer", received=self.tokenize, allowed=TOKENIZERS)

    @property
    def metrics(self) -> Sequence[Metric]:
        """Of all rows together, then of single rows."""
        return (
            Metric(name="bleu", unit=POINTS, corpus=corpus_bleu),
            Metric(name="bleu_of_rows", unit=POINTS),
        )

    def score(self, row: Row) -> Score | None:
        """Counts of n-grams against all accepted targets at once."""
        targets = target_texts(row)
        if not targets:
            return None
        scores = [self._metric.sentence_score(answer.text, targets) for answer in row.answers]
        counts = [[score.sys_len, score.ref_len, *score.counts, *score.totals] for score in scores]
        value = float(np.mean([score.score for score in scores]))
        return Score((None, value), statistics=tuple(np.mean(counts, axis=0).tolist()))

    @cached_property
    def _metric(self) -> Any:
        # With single rows an order without n-grams is left out; the counts are the same either way.
        return BLEU(tokenize=self.tokenize, lowercase=self.lowercase, effective_order=True)


def corpus_bleu(sums: FloatArray) -> float:
    """BLEU from summed lengths and counts."""
    correct, total = sums[2 : 2 + _ORDERS].tolist(), sums[2 + _ORDERS :].tolist()
    answer_length, target_length = (round(length) for length in sums[:2].tolist())
    score = BLEU.compute_bleu(correct, total, answer_length, target_length, smooth_method="exp")
    return float(score.score)
