"""Answers and targets that are JSON."""

from __future__ import annotations

import json
from typing import Any, Final

from kfp_llm_batch.evaluation.scorers.protocol import Answer
from kfp_llm_batch.evaluation.scorers.texts import without_fence

INVALID: Final = object()
"""Stands for what is no JSON; None is the JSON value null."""


def parsed_answer(answer: Answer, code_block: bool) -> Any:
    """The value of an answer, or INVALID."""
    if answer.is_truncated:
        return INVALID
    return parsed(without_fence(answer.text) if code_block else answer.text)


def parsed(text: str) -> Any:
    """The value of a text, or INVALID; NaN and Infinity are no JSON."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return INVALID


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
