"""What a scorer is: it sees one row with its answers and gives numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

SHARE, POINTS, COUNT = "share", "points", "count"
"""Units of a metric: 0 to 1, 0 to 100, or anything from 0."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number that a scorer gives for every row, or for all rows together."""

    name: str
    unit: str = SHARE
    higher_is_better: bool | None = True
    """None for a number that is neither good nor bad, which no gate looks at."""
    missing: float | None = 0.0
    """What a row without an answer gets; None leaves it out."""
    corpus: Callable[[FloatArray], float] | None = None
    """From the sums of the rows' statistics; without it the metric is the mean of the rows' values."""

    @property
    def largest(self) -> float | None:
        """The end of its scale, or None."""
        return {SHARE: 1.0, POINTS: 100.0}.get(self.unit)

    @property
    def best(self) -> float | None:
        """What a row that is right has; None if no value is better than others, or there is no best."""
        return {True: self.largest, False: 0.0, None: None}[self.higher_is_better]

    @property
    def sign(self) -> int:
        """By which values are multiplied, so that the higher one is the better one."""
        return -1 if self.higher_is_better is False else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One sample of a row."""

    text: str
    """Without reasoning blocks and surrounding white space."""
    is_truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of completions as scorers see it."""

    row_id: str
    answers: tuple[Answer, ...]
    """All samples of the prompt; none if the row has no answer."""
    target: Any = None
    """The value of the target column, or None."""
    num_completion_tokens: int | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The carried source columns."""


class Score(NamedTuple):
    """What a scorer says of one row."""

    values: tuple[float | None, ...]
    """One per metric; None for a metric of all rows together, and where there is nothing to score."""
    extracted: str | None = None
    """What was read out of the first answer, for people."""
    statistics: tuple[float, ...] = ()
    """Additive numbers, for the metrics of all rows together."""


class Scorer(Protocol):
    """A frozen dataclass whose fields are its options; made by `registry.make_scorers`.

    One with `takes_objects = True` also takes targets that are objects.
    """

    @property
    def version(self) -> int:
        """Another one whenever the same answer can get another score."""

    @property
    def needs_target(self) -> bool:
        """Whether rows without a target are left out."""

    @property
    def metrics(self) -> Sequence[Metric]:
        """What it measures, at least one; the first is its main one."""

    def score(self, row: Row) -> Score | None:
        """Score one row that has an answer, samples averaged within the row; None if there is nothing to score."""


@runtime_checkable
class NeedsAllRows(Protocol):
    """A scorer that has to see the rows before it can score the first."""

    def prepare(self, rows: Callable[[], Iterator[Row]], folder: Path) -> Scorer:
        """The scorer that is ready to score.

        Args:
            rows: Gives all rows from the start, each time it is called.
            folder: For temporary files.
        """


@dataclass(frozen=True, kw_only=True)
class PreparedScorer:
    """A scorer that was prepared, and looks up what it found out then."""

    origin: Scorer
    """The scorer itself, whose options tell what was measured."""
    score_row: Callable[[Row], Score | None]

    @property
    def version(self) -> int:
        """Of the scorer itself."""
        return self.origin.version

    @property
    def needs_target(self) -> bool:
        """As the scorer itself."""
        return self.origin.needs_target

    @property
    def metrics(self) -> Sequence[Metric]:
        """Of the scorer itself."""
        return self.origin.metrics

    def score(self, row: Row) -> Score | None:
        """Score one row."""
        return self.score_row(row)


def mean_of_answers(row: Row, score: Callable[[str], float | None]) -> float | None:
    """The mean over the samples, those left out that have no score."""
    values = [value for answer in row.answers if (value := score(answer.text)) is not None]
    return fmean(values) if values else None


def best_of_targets(row: Row, score: Callable[[str, str], float]) -> float | None:
    """The mean over the samples of each one's best score against any of the row's targets; None without a target."""
    targets = target_texts(row)
    if not targets:
        return None
    return mean_of_answers(row, lambda answer: max(score(answer, target) for target in targets))


def target_texts(row: Row) -> list[str]:
    """The accepted answers: a list in the target column is several of them."""
    values = row.target if isinstance(row.target, list | tuple) else [row.target]
    return [as_text(value) for value in values if value is not None]


def as_text(value: object) -> str:
    """A target as text; whole floats without their point, since JSON and CSV readers make floats of 3."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
