"""Setting aside what a model thinks aloud before its answer."""

from __future__ import annotations

import re

_TAGS = "think|thinking|thought|reasoning"
_BLOCK = re.compile(rf"<({_TAGS})>.*?</\1>", re.DOTALL | re.IGNORECASE)
_END = re.compile(rf"</(?:{_TAGS})>", re.IGNORECASE)
_START = re.compile(rf"<(?:{_TAGS})>", re.IGNORECASE)


def without_reasoning(text: str) -> str:
    """The answer alone, without surrounding white space.

    Chat templates that open the block themselves leave only its end in the text. A block that was cut leaves no answer.
    """
    rest = _BLOCK.sub("", text)
    if ends := list(_END.finditer(rest)):
        rest = rest[ends[-1].end() :]
    if start := _START.search(rest):
        rest = rest[: start.start()]
    return rest.strip()
