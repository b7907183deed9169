"""Answers and targets that are JSON."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from kfp_llm_batch.evaluation.scorers.protocol import Answer

_FENCE = re.compile(r"\A```[\w+-]*[ \t]*\n(?P<inside>.*?)\n?```\s*\Z", re.DOTALL)
INVALID: Final = object()
"""Stands for what is no JSON; None is the JSON value null."""


def parsed_answer(answer: Answer, code_block: bool) -> Any:
    """The value of an answer, or INVALID."""
    if answer.is_truncated:
        return INVALID
    return parsed(_without_fence(answer.text) if code_block else answer.text)


def parsed(text: str) -> Any:
    """The value of a text, or INVALID; NaN and Infinity are no JSON."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return INVALID


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _without_fence(text: str) -> str:
    """The inside of a Markdown code block, if the text is nothing else."""
    match = _FENCE.match(text.strip())
    return match["inside"] if match else text
