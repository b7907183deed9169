"""Rows to requests: rendered, checked and keyed, or found invalid, before any weight is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from kfp_llm_batch.dataset.config import is_clean_text
from kfp_llm_batch.dataset.prompts import NumberedBatch
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.generation.chat_tokenizer import ChatTokenizer
from kfp_llm_batch.generation.context_policy import ContextPolicy
from kfp_llm_batch.generation.identity import request_key, settings_digest
from kfp_llm_batch.generation.sampling import SamplingConfig, parse_row_params
from kfp_llm_batch.generation.special_tokens import Message, SpecialTokenError
from kfp_llm_batch.schemas import PROMPT_TRUNCATED

Fault = tuple[str, str]
"""Code and message of why a row cannot be answered."""


@dataclass(frozen=True, kw_only=True)
class PreparedRow:
    """One row, ready for the engine, or with the fault that keeps it from it."""

    row: int
    """Number in the prompts, for finding its source columns again; not its identity."""
    row_id: str
    request_key: str
    token_ids: list[int]
    sampling: dict[str, Any]
    """Effective parameters, `n` and the run's `seed` among them."""
    room: int = 0
    """Most tokens that the context leaves for the answer."""
    fault: Fault | None = None
    warnings: tuple[str, ...] = ()
    """Codes of what was done to the prompt."""


class RowPreparer:
    """Turns prompts into requests; the same rows give the same requests every time.

    Args:
        tokenizer: The model's.
        sampling: The run's parameters.
        model_digest: Identity of weights and tokenizer.
        answer_settings: Engine settings that change answers.
        max_model_len: Most tokens of prompt and answer together.
        context_policy: One of CONTEXT_POLICIES.
    """

    def __init__(
        self,
        *,
        tokenizer: ChatTokenizer,
        sampling: SamplingConfig,
        model_digest: str,
        answer_settings: dict[str, Any],
        max_model_len: int,
        context_policy: str = "error",
    ) -> None:
        self._tokenizer = tokenizer
        self._sampling = sampling
        self._model_digest = model_digest
        self._answer_settings = answer_settings
        self._max_model_len = max_model_len
        self._policy: ContextPolicy | None = None
        if context_policy != "error":
            self._policy = ContextPolicy(name=context_policy, tokenizer=tokenizer, max_model_len=max_model_len)
        self._effective_cache: dict[str | None, tuple[dict[str, Any], bytes]] = {}

    def prepare(self, batches: Iterable[NumberedBatch]) -> Iterator[list[PreparedRow]]:
        """All rows of some batches of prompts, in their order."""
        for numbers, batch in batches:
            yield self._prepare_batch(numbers, batch)

    def _prepare_batch(self, numbers: Sequence[int], batch: pa.RecordBatch) -> list[PreparedRow]:
        columns = batch.select(["row_id", "messages", "params", "fault"]).to_pydict()
        conversations = [_Conversation(messages, self._policy) for messages in columns["messages"]]
        encoded = self._encode([conversation.messages for conversation in conversations if conversation.messages])
        for conversation in conversations:
            conversation.encoded = next(encoded) if conversation.messages else []
        rows = zip(numbers, columns["row_id"], conversations, columns["params"], columns["fault"], strict=True)
        return [self._prepare_row(*row) for row in rows]

    def _encode(self, conversations: list[list[Message]]) -> Iterator[list[int] | Fault]:
        """Token ids of each conversation, or what is wrong with it."""
        try:
            yield from self._tokenizer.encode(conversations) if conversations else ()
        except Exception:  # templates raise what they like; the culprits are found one by one below
            for conversation in conversations:
                yield self._encode_one(conversation)

    def _encode_one(self, conversation: list[Message]) -> list[int] | Fault:
        try:
            return self._tokenizer.encode([conversation])[0]
        except SpecialTokenError as error:
            return "special_token", str(error)
        except Exception as error:
            return "bad_messages", f"The chat template refused the messages: {error}"

    def _prepare_row(
        self, row: int, row_id: str, conversation: _Conversation, params: str | None, fault: str | None
    ) -> PreparedRow:
        found = _recorded(fault) or self._find_fault(conversation, params)
        token_ids = conversation.encoded if isinstance(conversation.encoded, list) else []
        sampling, digest = self._effective(None if found else params)
        room = self._max_model_len - len(token_ids)
        if not found and room < sampling["max_tokens"]:
            digest = self._digest({**sampling, "max_tokens": room})  # the context shortens this answer
        return PreparedRow(
            row=row,
            row_id=row_id,
            request_key=request_key(digest, token_ids),
            token_ids=token_ids,
            sampling=sampling,
            room=room,
            fault=found,
            warnings=(PROMPT_TRUNCATED,) if conversation.is_cut and not found else (),
        )

    def _find_fault(self, conversation: _Conversation, params: str | None) -> Fault | None:
        """The row's fault; on the way a prompt that is too long is cut, if that is the policy."""
        if isinstance(conversation.encoded, tuple):
            return conversation.encoded
        parameters_fault = None
        try:
            sampling, _ = self._effective(params)
        except ConfigurationError as error:
            parameters_fault = "bad_params", str(error)
        else:
            self._cut(conversation, sampling["max_tokens"])
        length = len(conversation.encoded)
        if length < self._max_model_len:
            return parameters_fault
        message = f"The prompt has {length} tokens; the model takes {self._max_model_len} with the answer."
        if self._policy and not parameters_fault:
            message = f"{message} Cutting its longest message is not enough: the other messages alone fill the context."
        return "prompt_too_long", message

    def _cut(self, conversation: _Conversation, max_tokens: int) -> None:
        assert isinstance(conversation.encoded, list)
        if self._policy is None:
            return
        cut = self._policy.cut(conversation.messages, conversation.encoded, max_tokens, self._encode_or_none)
        if cut is not None:
            conversation.encoded, conversation.is_cut = cut, True

    def _encode_or_none(self, conversation: list[Message]) -> list[int] | None:
        encoded = self._encode_one(conversation)
        return encoded if isinstance(encoded, list) else None

    def _effective(self, params: str | None) -> tuple[dict[str, Any], bytes]:
        """Effective sampling and its digest; rows mostly share them, so the few distinct ones are kept."""
        if params not in self._effective_cache:
            if len(self._effective_cache) > 1000:
                self._effective_cache.clear()
            sampling = self._sampling.effective(_clean(parse_row_params(params)))
            self._effective_cache[params] = (sampling, self._digest(sampling))
        return self._effective_cache[params]

    def _digest(self, sampling: dict[str, Any]) -> bytes:
        return settings_digest(sampling, self._model_digest, self._answer_settings)


class _Conversation:
    """Messages on their way to token ids."""

    def __init__(self, messages: list[Message], policy: ContextPolicy | None) -> None:
        self.messages = policy.shortened(messages) if policy else messages
        self.encoded: list[int] | Fault = []
        self.is_cut = self.messages is not messages


def _recorded(fault: str | None) -> Fault | None:
    """The fault that the first step has found."""
    if not fault:
        return None
    code, _, message = fault.partition(": ")
    return code, message


def _clean(params: dict[str, Any] | None) -> dict[str, Any] | None:
    if not all(map(is_clean_text, _texts(params))):
        raise ConfigurationError("The row's params hold a NUL or half of a surrogate pair")
    return params


def _texts(value: Any) -> Iterator[str]:
    """All names and texts in a JSON value."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value
