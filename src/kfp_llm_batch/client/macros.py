"""Texts such as [[ScheduledTime]], which the scheduler replaces in the parameters of a recurring run."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any

from kfp_llm_batch.errors import ConfigurationError

_MACRO = re.compile(r"\[\[(\w+)(?:\.(.*?))?\]\]")
_TIMES = ("ScheduledTime", "CurrentTime")
_MACROS = (*_TIMES, "Index", "RunUUID")


def refuse_macros(parameters: Mapping[str, Any]) -> None:
    """Refuse macros where nothing replaces them: in a single run.

    Raises:
        ConfigurationError: A parameter holds one.
    """
    for name, value in parameters.items():
        for macro, _ in _found(json.dumps(value)):
            raise ConfigurationError(
                f"Parameter {name} holds a macro, which only a schedule replaces",
                received=f"[[{macro}]]",
                remedy="Write the value itself, or use `kfp-llm-batch schedule add`.",
            )


def check_macros(parameters: Mapping[str, Any]) -> None:
    """Refuse macros that the scheduler would not replace as they are meant.

    Raises:
        ConfigurationError: One stands in a list or an object, is misspelt, or has a layout that is none.
    """
    for name, value in parameters.items():
        for macro, layout in _found(json.dumps(value)):
            _check_macro(name, macro, layout)
            if not isinstance(value, str):
                raise ConfigurationError(
                    f"Parameter {name} is no text, and only in texts does the scheduler replace macros",
                    received=f"[[{macro}]]",
                    remedy="Move it into a text parameter, such as output_uri.",
                )


def _found(text: str) -> list[tuple[str, str]]:
    """Macros and what looks like one; other words in double brackets are the user's own."""
    known = [macro.lower() for macro in _MACROS]
    return [found for found in _MACRO.findall(text) if difflib.get_close_matches(found[0].lower(), known, cutoff=0.85)]


def _check_macro(name: str, macro: str, layout: str) -> None:
    if macro not in _MACROS:
        raise ConfigurationError(f"Parameter {name} holds an unknown macro", received=macro, allowed=_MACROS)
    if layout and (macro not in _TIMES or "%" in layout or not re.search(r"\d", layout)):
        raise ConfigurationError(
            f"Parameter {name} holds a macro whose layout would be taken literally",
            received=f"[[{macro}.{layout}]]",
            remedy="Times take Go's layout, the moment 2006-01-02 15:04:05 written the way it should look, such as "
            "[[ScheduledTime.2006-01-02]]; Index and RunUUID take none.",
        )
