"""chrF by sacreBLEU: common runs of characters, which suit languages that write words together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from sacrebleu.metrics.chrf import CHRF

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.evaluation.scorers.protocol import POINTS, FloatArray, Metric, Row, Score, target_texts


@dataclass(frozen=True, kw_only=True)
class Chrf:
    """The corpus's chrF is the main metric; the mean of the rows' own chrF stands beside it."""

    version: ClassVar[int] = 1
    needs_target: ClassVar[bool] = True

    word_order: int = 0
    """2 makes it chrF++."""

    def __post_init__(self) -> None:
        if self.word_order not in (0, 1, 2):
            raise ConfigurationError("Scorer chrf: word_order is unknown", received=self.word_order, allowed=["0 to 2"])

    @property
    def metrics(self) -> Sequence[Metric]:
        """Of all rows together, then of single rows."""
        return (
            Metric(name="chrf", unit=POINTS, corpus=self._value),
            Metric(name="chrf_of_rows", unit=POINTS),
        )

    def score(self, row: Row) -> Score | None:
        """Counts of character n-grams against the accepted target that fits best."""
        targets = target_texts(row)
        if not targets:
            return None
        references = [[target] for target in targets]
        # Only this function, which sacreBLEU's own significance test uses, tells the counts.
        counts = [self._metric._extract_corpus_statistics([answer.text], references)[0] for answer in row.answers]
        value = float(np.mean([self._value(np.asarray(each, dtype=float)) for each in counts]))
        return Score((None, value), statistics=tuple(np.mean(counts, axis=0).tolist()))

    def _value(self, sums: FloatArray) -> float:
        return float(self._metric._compute_score_from_stats(sums.tolist()).score)

    @cached_property
    def _metric(self) -> Any:
        return CHRF(word_order=self.word_order)
