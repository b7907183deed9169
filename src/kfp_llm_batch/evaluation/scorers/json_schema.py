"""The answer is JSON that follows a schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, ClassVar

import jsonschema

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.evaluation.scorers.json_answers import INVALID, parsed_answer
from kfp_llm_batch.evaluation.scorers.protocol import Answer, Metric, Row, Score


@dataclass(frozen=True, kw_only=True)
class JsonSchema:
    """1 if the answer is JSON that follows `schema`, of draft 2020-12."""

    version: ClassVar[int] = 1
    needs_target: ClassVar[bool] = False
    metrics: ClassVar[Sequence[Metric]] = (Metric(name="json_schema"),)

    schema: Mapping[str, Any]
    code_block: bool = True
    """Whether the value may stand in a Markdown code block."""

    def __post_init__(self) -> None:
        try:
            jsonschema.Draft202012Validator.check_schema(self.schema)
        except jsonschema.SchemaError as error:
            raise ConfigurationError(f"Scorer json_schema: the schema is none: {error.message}") from error

    def score(self, row: Row) -> Score:
        """Validate every answer."""
        return Score((fmean(map(self._follows, row.answers)),))

    def _follows(self, answer: Answer) -> bool:
        value = parsed_answer(answer, self.code_block)
        return value is not INVALID and bool(self._validator.is_valid(value))

    @cached_property
    def _validator(self) -> Any:
        return jsonschema.Draft202012Validator(self.schema)
