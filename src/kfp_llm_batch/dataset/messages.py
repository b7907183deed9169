"""Chat messages of a row: their shape, their text, and what is put before them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kfp_llm_batch.dataset.config import is_clean_text

ROLES = ("system", "user", "assistant", "tool")

Message = dict[str, str]


class RowFaultError(Exception):
    """A row that cannot become a prompt; it is kept, with this reason."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {' '.join(message.split())[:300]}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """What one row asks."""

    messages: list[Message]
    params: dict[str, Any] | None = None


def checked_messages(value: Any) -> list[Message]:
    """Messages as {"role", "content"} with text contents.

    Args:
        value: A list of messages, or its JSON text; contents may be lists of text parts.

    Raises:
        RowFaultError: The value is no list of messages.
    """
    messages = _parsed(value) if isinstance(value, str) else value
    if not isinstance(messages, list):
        raise RowFaultError("bad_messages", f"messages must be a list, not {_kind(messages)}")
    return [_message(number, message) for number, message in enumerate(messages, start=1)]


def check_text(messages: Sequence[Message]) -> None:
    """Refuse messages that say nothing, or whose text cannot be stored or tokenized.

    Raises:
        RowFaultError: `empty_prompt` or `bad_text`.
    """
    if not any(message["content"].strip() for message in messages):
        raise RowFaultError("empty_prompt", "the prompt is empty" if messages else "there are no messages")
    for number, message in enumerate(messages, start=1):
        if not is_clean_text(message["content"]):
            raise RowFaultError("bad_text", f"message {number} holds a NUL or half of a surrogate pair")


def with_preamble(messages: list[Message], system: str | None, examples: Sequence[Mapping[str, str]]) -> list[Message]:
    """System message, examples, then the row's messages; a system message that the row brings wins."""
    head = [{"role": "system", "content": system}] if system else []
    if messages and messages[0]["role"] == "system":
        head, messages = messages[:1], messages[1:]
    pairs = [{"role": role, "content": pair[role]} for pair in examples for role in ("user", "assistant")]
    return [*head, *pairs, *messages]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowFaultError("bad_messages", f"the text is not the JSON of a list of messages: {error}") from error


def _message(number: int, message: Any) -> Message:
    if not isinstance(message, dict):
        raise RowFaultError("bad_messages", f"message {number} must be an object, not {_kind(message)}")
    role = message.get("role")
    if role not in ROLES:
        raise RowFaultError("bad_messages", f"message {number} has the role {role!r}; allowed: {', '.join(ROLES)}")
    if message.get("tool_calls") or message.get("function_call"):
        raise RowFaultError("bad_messages", f"message {number} holds tool calls, which are not supported")
    return {"role": role, "content": _content(number, message.get("content"))}


def _content(number: int, content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RowFaultError("bad_messages", f"message {number}: the content must be a text, not {_kind(content)}")
    # vLLM's own server joins text parts with a line break.
    return "\n".join(_text_part(number, part) for part in content)


def _text_part(number: int, part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else _kind(part)
    if kind != "text" or not isinstance(part.get("text"), str):
        raise RowFaultError("bad_messages", f"message {number} has a content part of type {kind!r}; allowed: text")
    return str(part["text"])


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
