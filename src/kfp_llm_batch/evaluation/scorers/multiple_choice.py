"""The letter that the answer chooses is the right one."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.evaluation.scorers.protocol import Metric, Row, Score, as_text, mean_of_answers
from kfp_llm_batch.evaluation.scorers.texts import folded

_BOXED = re.compile(r"\\boxed\{\s*(?:\\text\{)?\s*\(?([A-Z])\b")
_ANNOUNCED = re.compile(r"\b(?:answer|choice|option)\b\W{0,4}(?:is|would be)?\W{0,6}([A-Z])(?![\w'])", re.IGNORECASE)
_LEADING = re.compile(r"\A\W{0,3}([A-Z])(?:\Z|[).:,\]\n]|\W{1,3}\Z)")
_ALONE = re.compile(r"(?<![\w'])\(?([A-Z])\)?(?![\w'])")


@dataclass(frozen=True, kw_only=True)
class MultipleChoice:
    r"""1 if the chosen letter is the target: a letter, a number counted from 0, or the text of a choice.

    The letter is taken from `\boxed{B}`, else from the last "answer is B", else from the beginning, else the only
    letter that stands alone, else from the only choice whose text occurs.
    """

    version: ClassVar[int] = 1
    needs_target: ClassVar[bool] = True
    metrics: ClassVar[Sequence[Metric]] = (Metric(name="multiple_choice"),)

    num_choices: int = 4
    choices_column: str | None = None
    """Column with the list of the choices' texts; then their number follows from it."""

    def __post_init__(self) -> None:
        if not 2 <= self.num_choices <= len(string.ascii_uppercase):
            raise ConfigurationError(
                "Scorer multiple_choice: num_choices is out of bounds", received=self.num_choices, allowed=["2 to 26"]
            )

    def score(self, row: Row) -> Score | None:
        """Compare the chosen letter with the right one."""
        choices = self._choices(row)
        letters = string.ascii_uppercase[: len(choices) or self.num_choices]
        targets = row.target if isinstance(row.target, list | tuple) else [row.target]
        right = {_right_letter(target, letters, choices) for target in targets} - {None}
        if not right:
            return None
        value = mean_of_answers(row, lambda answer: float(_chosen(answer, letters, choices) in right))
        return Score((value,), extracted=_chosen(row.answers[0].text, letters, choices))

    def _choices(self, row: Row) -> list[str]:
        values = row.columns.get(self.choices_column) if self.choices_column else None
        return [folded(as_text(value)) for value in values or ()]


def _right_letter(target: object, letters: str, choices: Sequence[str]) -> str | None:
    if isinstance(target, int | float) and not isinstance(target, bool):
        return letters[int(target)] if 0 <= target < len(letters) else None
    text = "" if target is None else str(target).strip()
    if len(bare := text.strip("().")) == 1 and bare.upper() in letters:
        return bare.upper()
    if text.isdigit():
        return letters[int(text)] if int(text) < len(letters) else None
    return letters[choices.index(folded(text))] if folded(text) in choices else None


def _chosen(answer: str, letters: str, choices: Sequence[str]) -> str | None:
    for pattern in (_BOXED, _ANNOUNCED):
        found = [str(letter).upper() for letter in pattern.findall(answer) if letter.upper() in letters]
        if found:
            return found[-1]
    if (match := _LEADING.match(answer)) and match[1] in letters:
        return str(match[1])
    alone = {str(letter) for letter in _ALONE.findall(answer) if letter in letters}
    if len(alone) == 1:
        return alone.pop()
    mentioned = [letters[index] for index, choice in enumerate(choices) if choice and choice in folded(answer)]
    return mentioned[0] if len(mentioned) == 1 else None
