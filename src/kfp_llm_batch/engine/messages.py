"""What travels between the parent and the engine's process, and the one seam that engines fill."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One answer wanted; a row with n samples is n requests, each with its own seed."""

    request_id: int
    token_ids: list[int]
    sampling: dict[str, Any]
    """Effective sampling parameters by their vLLM names; `json_schema` asks for structured output."""


@dataclass(frozen=True, kw_only=True)
class GenerationOutput:
    """One finished answer."""

    text: str
    finish_reason: str
    """`stop`, `length` or `abort`, as vLLM says it."""
    num_tokens: int
    stop_reason: str | None = None
    cumulative_logprob: float | None = None
    logprobs: list[list[dict[str, Any]]] | None = None
    is_repaired: bool = False
    """Whether a character that the answer ended in was removed, or what is no Unicode text was replaced."""


@dataclass(frozen=True, kw_only=True)
class FinishedRequest:
    """The outcome of a request: an output, or why the engine refused it."""

    request_id: int
    output: GenerationOutput | None = None
    refusal: str | None = None
    refusal_code: str = "engine_refused"
    """One of FAILURE_CODES in schemas.py."""
    prompt_logprob: float | None = None
    """Of the prompt after its first token, if the sampling asks for `prompt_logprobs`: what a perplexity needs."""


@dataclass(frozen=True, kw_only=True)
class EngineSpecification:
    """What the engine loads; must stay picklable."""

    model_path: str
    arguments: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the engine."""
    is_compiled: bool = False
    """Whether compiled code for them is in the cache."""


@dataclass(frozen=True, kw_only=True)
class EngineReady:
    """Sent once, when the weights are loaded."""

    load_seconds: float
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class EngineFailed:
    """Sent when the engine cannot start or cannot go on."""

    message: str
    is_configuration: bool = False
    """Whether other settings would mend it."""


class Engine(Protocol):
    """What runs inside the engine's process."""

    versions: dict[str, str]

    def add(self, request: GenerationRequest) -> None:
        """Take a request into the running batch.

        Raises:
            ValueError: The engine refuses this request; the others are not affected.
        """

    def step(self) -> list[FinishedRequest]:
        """Advance every running request by at least one token and return those that finished."""

    def has_unfinished(self) -> bool:
        """Whether `step` has work to do."""
