"""The answer is in the language that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.evaluation.scorers.protocol import Metric, Row, Score, mean_of_answers

_BEGINNING = 1_000
_FEWEST_LETTERS = 12
"""Below that a guess is worth little: 42 and OK are of no language."""


@dataclass(frozen=True, kw_only=True)
class Language:
    """1 if py3langid takes the answer for the language `expected`; answers of hardly any letters are left out."""

    version: ClassVar[int] = 1
    needs_target: ClassVar[bool] = False
    metrics: ClassVar[Sequence[Metric]] = (Metric(name="language", missing=None),)

    expected: str = "en"
    """ISO 639 code."""

    def __post_init__(self) -> None:
        known = sorted(_identifier().labels)
        if self.expected not in known:
            raise ConfigurationError("Scorer language: unknown language", received=self.expected, allowed=known)

    def score(self, row: Row) -> Score:
        """Identify the language of every answer."""
        return Score((mean_of_answers(row, self._is_expected),), extracted=language_of(row.answers[0].text))

    def _is_expected(self, answer: str) -> float | None:
        found = language_of(answer)
        return None if found is None else float(found == self.expected)


def language_of(text: str) -> str | None:
    """ISO 639 code of the language, or None for a text of too few letters."""
    beginning = text[:_BEGINNING]
    if sum(map(str.isalpha, beginning)) < _FEWEST_LETTERS:
        return None
    return str(_identifier().classify(beginning)[0])


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)
