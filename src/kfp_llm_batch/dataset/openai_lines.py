"""OpenAI batch lines: {"custom_id": ..., "method": "POST", "url": "/v1/chat/completions", "body": {...}}."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kfp_llm_batch.dataset.messages import Prompt, RowFaultError, checked_messages

_ENDPOINT = "/v1/chat/completions"

_SAME_NAME = ("frequency_penalty", "max_tokens", "n", "presence_penalty", "seed", "temperature", "top_p")
_TRANSLATED = ("logprobs", "max_completion_tokens", "response_format", "stop", "top_logprobs")
_WITHOUT_EFFECT_IF_EMPTY = ("logit_bias", "tools")
_WITHOUT_EFFECT = ("messages", "metadata", "model", "service_tier", "store", "stream", "user")


def openai_prompt(row: Mapping[str, Any]) -> Prompt:
    """The messages and the parameters of one line.

    Raises:
        RowFaultError: The line asks for something else than a chat completion that can be given here.
    """
    if row["url"] not in (None, _ENDPOINT):
        raise RowFaultError("bad_params", f"endpoint {row['url']!r} is not supported; allowed: {_ENDPOINT}")
    body = json.loads(row["body"])
    if not isinstance(body, dict):
        raise RowFaultError("bad_messages", f"body must be an object, not {type(body).__name__}")
    return Prompt(messages=checked_messages(body.get("messages")), params=_params(body) or None)


def _params(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body's parameters under this product's names; types and bounds are checked with the run's own parameters."""
    given = {name: value for name, value in body.items() if not _is_without_effect(name, value)}
    if unknown := sorted(given.keys() - {*_SAME_NAME, *_TRANSLATED}):
        allowed = ", ".join(sorted((*_SAME_NAME, *_TRANSLATED)))
        raise RowFaultError("bad_params", f"body.{unknown[0]} is not supported; allowed: {allowed}")
    params = {name: given[name] for name in _SAME_NAME if name in given}
    if "max_completion_tokens" in given:
        params["max_tokens"] = given["max_completion_tokens"]
    if "stop" in given:
        params["stop"] = [given["stop"]] if isinstance(given["stop"], str) else given["stop"]
    return params | _logprobs(given) | _json_schema(given.get("response_format"))


def _is_without_effect(name: str, value: Any) -> bool:
    is_empty = name in _WITHOUT_EFFECT_IF_EMPTY and value in ([], {})
    return value is None or is_empty or name in _WITHOUT_EFFECT


def _logprobs(given: Mapping[str, Any]) -> dict[str, Any]:
    wanted = given.get("logprobs", False)
    if not isinstance(wanted, bool) or ("top_logprobs" in given and not wanted):
        raise RowFaultError("bad_params", "body.logprobs must be true or false, and true where top_logprobs is given")
    return {"logprobs": given.get("top_logprobs", 0)} if wanted else {}


def _json_schema(response_format: Any) -> dict[str, Any]:
    if response_format is None or response_format == {"type": "text"}:
        return {}
    match response_format:
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return {"json_schema": schema}
    shown = json.dumps(response_format)
    raise RowFaultError("bad_params", f"body.response_format {shown:.80} is not supported; allowed: text, json_schema")
