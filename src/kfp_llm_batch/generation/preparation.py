"""Rows to requests: rendered, checked and keyed, or found invalid, before any weight is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from kfp_llm_batch.engine.settings import JobFacts
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.generation.chat_tokenizer import ChatTokenizer, Message
from kfp_llm_batch.generation.identity import request_key, settings_digest
from kfp_llm_batch.generation.prompts import Prompts
from kfp_llm_batch.generation.sampling import SamplingConfig, parse_row_params
from kfp_llm_batch.manifests import Checksum


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
    fault: tuple[str, str] | None = None
    """Code and message of why the row cannot be answered."""


@dataclass(kw_only=True)
class Preparation:
    """Facts gathered over all rows in the first pass."""

    rows: int = 0
    requests: int = 0
    faults: int = 0
    longest_prompt_tokens: int = 0
    num_prompt_tokens: int = 0
    max_tokens: int = 0
    keys: Checksum = field(default_factory=Checksum)

    def add(self, row: PreparedRow) -> None:
        """Count one row."""
        self.rows += 1
        self.keys.add(row.row_id, row.request_key)
        if row.fault:
            self.faults += 1
            return
        samples = row.sampling["n"]
        self.requests += samples
        self.num_prompt_tokens += len(row.token_ids) * samples
        self.longest_prompt_tokens = max(self.longest_prompt_tokens, len(row.token_ids))
        self.max_tokens = max(self.max_tokens, min(row.sampling["max_tokens"], row.room))

    def job(self) -> JobFacts:
        """What the engine's settings depend on."""
        return JobFacts(
            requests=self.requests,
            longest_prompt_tokens=self.longest_prompt_tokens,
            mean_prompt_tokens=self.num_prompt_tokens / max(1, self.requests),
            max_tokens=self.max_tokens,
        )


class RowPreparer:
    """Turns prompts into requests; the same rows give the same requests every time.

    Args:
        tokenizer: The model's.
        sampling: The run's parameters.
        model_digest: Identity of weights and tokenizer.
        answer_settings: Engine settings that change answers.
        max_model_len: Most tokens of prompt and answer together.
    """

    def __init__(
        self,
        *,
        tokenizer: ChatTokenizer,
        sampling: SamplingConfig,
        model_digest: str,
        answer_settings: dict[str, Any],
        max_model_len: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._sampling = sampling
        self._model_digest = model_digest
        self._answer_settings = answer_settings
        self._max_model_len = max_model_len
        self._effective_cache: dict[str | None, tuple[dict[str, Any], bytes]] = {}

    def prepare(self, prompts: Prompts) -> Iterator[list[PreparedRow]]:
        """All rows, batch by batch in the order of the prompts."""
        for start, batch in prompts.batches():
            yield self._prepare_batch(start, batch)

    def _prepare_batch(self, start: int, batch: pa.RecordBatch) -> list[PreparedRow]:
        columns = batch.select(["row_id", "messages", "params", "fault"]).to_pydict()
        conversations: list[list[Message]] = columns["messages"]
        encoded = self._encode([messages for messages in conversations if messages])
        rows = zip(columns["row_id"], conversations, columns["params"], columns["fault"], strict=True)
        return [
            self._prepare_row(start + offset, row_id, next(encoded) if messages else [], params, fault)
            for offset, (row_id, messages, params, fault) in enumerate(rows)
        ]

    def _encode(self, conversations: list[list[Message]]) -> Iterator[list[int] | str]:
        """Token ids of each conversation, or what its chat template objects to."""
        try:
            yield from self._tokenizer.encode(conversations) if conversations else ()
        except Exception:  # templates raise what they like; the culprits are found one by one below
            for conversation in conversations:
                yield self._encode_one(conversation)

    def _encode_one(self, conversation: list[Message]) -> list[int] | str:
        try:
            return self._tokenizer.encode([conversation])[0]
        except Exception as error:
            return f"The chat template refused the messages: {error}"

    def _prepare_row(
        self, row: int, row_id: str, encoded: list[int] | str, params: str | None, fault: str | None
    ) -> PreparedRow:
        token_ids = encoded if isinstance(encoded, list) else []
        found = self._find_fault(encoded, params, fault)
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
        )

    def _find_fault(self, encoded: list[int] | str, params: str | None, fault: str | None) -> tuple[str, str] | None:
        if fault:
            code, _, message = fault.partition(": ")
            return code, message
        if isinstance(encoded, str):
            return "bad_messages", encoded
        if len(encoded) >= self._max_model_len:
            return (
                "prompt_too_long",
                f"The prompt has {len(encoded)} tokens; the model takes {self._max_model_len} with the answer.",
            )
        try:
            self._effective(params)
        except ConfigurationError as error:
            return "bad_params", str(error)
        return None

    def _effective(self, params: str | None) -> tuple[dict[str, Any], bytes]:
        """Effective sampling and its digest; rows mostly share them, so the few distinct ones are kept."""
        if params not in self._effective_cache:
            if len(self._effective_cache) > 1000:
                self._effective_cache.clear()
            sampling = self._sampling.effective(parse_row_params(params))
            self._effective_cache[params] = (sampling, self._digest(sampling))
        return self._effective_cache[params]

    def _digest(self, sampling: dict[str, Any]) -> bytes:
        return settings_digest(sampling, self._model_digest, self._answer_settings)
