"""Parameters of the step `evaluate_completions`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import pyarrow as pa

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.evaluation.scorers.registry import NamedScorer, make_scorers
from kfp_llm_batch.steps import from_parameters

MISSING_POLICIES = ("wrong", "exclude")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured, and how the rows are looked at; checks itself."""

    scorers: Sequence[str | Mapping[str, Any]]
    """Names, or objects with a name and options."""
    target_column: str | None = None
    """Source column with the right answer; a list in it is several accepted ones."""
    slice_columns: Sequence[str] = ()
    """Source columns by whose values the metrics are shown apart."""
    cluster_column: str | None = None
    """Source column that tells which rows hang together, and are drawn together by the bootstrap."""
    missing: str = "wrong"
    """What a row without an answer is: one of MISSING_POLICIES."""

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Self:
        """What a step's parameters ask for."""
        return from_parameters(cls, parameters, "evaluation_")

    def __post_init__(self) -> None:
        if self.missing not in MISSING_POLICIES:
            raise ConfigurationError("Unknown evaluation_missing", received=self.missing, allowed=MISSING_POLICIES)
        if len(set(self.slice_columns)) < len(self.slice_columns):
            raise ConfigurationError("evaluation_slice_columns names a column twice", received=list(self.slice_columns))
        for named in self.made_scorers:
            if named.scorer.needs_target and self.target_column is None:
                raise ConfigurationError(
                    f"Scorer {named.name} compares with a target, and there is no evaluation_target_column",
                    remedy="Name the column of the dataset that holds the right answers.",
                )

    @cached_property
    def made_scorers(self) -> tuple[NamedScorer, ...]:
        """The scorers, ready but for those that have to see all rows first."""
        return make_scorers(self.scorers)

    def check_columns(self, columns: Mapping[str, pa.DataType]) -> None:
        """Hold the named columns against those that there are.

        Raises:
            ConfigurationError: One is not among the carried source columns, or the targets are of no use.
        """
        single = {"evaluation_target_column": self.target_column, "evaluation_cluster_column": self.cluster_column}
        wanted = [(name, column) for name, column in single.items() if column is not None]
        wanted += [("evaluation_slice_columns", column) for column in self.slice_columns]
        for named in self.made_scorers:
            wanted += [
                (f"Scorer {named.name}: {option}", str(column))
                for option, column in named.specification().items()
                if option.endswith("_column") and column is not None
            ]
        for name, column in wanted:
            if column not in columns:
                raise ConfigurationError(
                    f"{name} names a column that the dataset does not have", received=column, allowed=sorted(columns)
                )
        if self.target_column is not None:
            self._check_targets(columns[self.target_column])

    def _check_targets(self, kind: pa.DataType) -> None:
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        for named in self.made_scorers:
            if is_list and not getattr(named.scorer, "takes_lists", True):
                raise ConfigurationError(
                    f"Scorer {named.name} compares with one class, and evaluation_target_column holds lists",
                    received=f"{self.target_column}: {kind}",
                )
        inner = kind.value_type if is_list else kind
        if not (pa.types.is_nested(inner) or pa.types.is_binary(inner) or pa.types.is_large_binary(inner)):
            return
        for named in self.made_scorers:
            if named.scorer.needs_target and not getattr(named.scorer, "takes_objects", False):
                raise ConfigurationError(
                    f"Scorer {named.name} cannot compare with what evaluation_target_column holds",
                    received=f"{self.target_column}: {kind}",
                    allowed=["text", "numbers", "true or false", "lists of them"],
                    remedy="Name a column with the answer itself, or use json_fields.",
                )
