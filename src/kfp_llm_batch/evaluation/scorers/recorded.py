"""Scores that came with the rows, from a program that measured them before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.evaluation.completion_rows import RECORDED
from kfp_llm_batch.evaluation.scorers.protocol import POINTS, SHARE, Metric, Row, Score


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The numbers in the column `recorded`, an object with a field for each metric."""

    version: ClassVar[int] = 1
    needs_target: ClassVar[bool] = False

    names: Sequence[str]
    """Of the metrics, which go from 0 to 1."""
    points: Sequence[str] = ()
    """Those that go from 0 to 100."""

    def __post_init__(self) -> None:
        if not self.names and not self.points:
            raise ConfigurationError("Scorer recorded: names and points are both empty")

    @property
    def metrics(self) -> Sequence[Metric]:
        """One for each name, which is better the higher it is."""
        units = [*((name, SHARE) for name in self.names), *((name, POINTS) for name in self.points)]
        return tuple(Metric(name=name, unit=unit) for name, unit in units)

    def score(self, row: Row) -> Score | None:
        """Take what is there."""
        found = row.columns.get(RECORDED)
        if not found:
            return None
        return Score(tuple(found.get(metric.name) for metric in self.metrics))
