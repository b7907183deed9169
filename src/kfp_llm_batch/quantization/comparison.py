"""Two models on the same held-out prompts: what they answer, how well they predict the prompts, and how fast."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kfp_llm_batch.engine.decisions import EngineSettings, JobFacts
from kfp_llm_batch.engine.group import EngineGroup
from kfp_llm_batch.engine.messages import EngineSpecification, FinishedRequest, GenerationRequest
from kfp_llm_batch.engine.settings import choose_dtype, plan_settings
from kfp_llm_batch.errors import EngineError
from kfp_llm_batch.generation.preparation import PreparedRow
from kfp_llm_batch.machine import Machine
from kfp_llm_batch.models.resolving import Model

# The logits of all prompt tokens of a step are held at once, in bfloat16 and twice in float32.
SCORED_TOKENS_PER_STEP = 512
_BYTES_PER_LOGIT = 10
_LARGEST_EXPONENT = 700.0


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one model did with the prompts."""

    answers: tuple[str, ...]
    completion_tokens: int
    seconds: float
    """For the answers, the model being loaded and warm."""
    prompt_logprob: float
    """Sum over all predicted prompt tokens."""
    prompt_tokens: int
    """How many were predicted: all but the first of each prompt."""
    weight_bytes: int

    @property
    def perplexity(self) -> float:
        """Of the prompts; lower is better, and only its change means something."""
        return math.exp(min(-self.prompt_logprob / max(1, self.prompt_tokens), _LARGEST_EXPONENT))

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens."""
        return self.completion_tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The quantized model against the original."""

    rows: int
    exact_agreement: float
    """Share of rows with the same answer."""
    common_prefix_share: float
    """How much of the longer answer both begin with, on average; in characters."""
    perplexity_original: float
    perplexity_quantized: float
    perplexity_change: float
    """As a share of the original's."""
    weight_bytes_original: int
    weight_bytes_quantized: int
    size_ratio: float
    tokens_per_second_original: float
    tokens_per_second_quantized: float
    speed_ratio: float


def compare(original: Measurement, quantized: Measurement) -> Comparison:
    """Put two measurements of the same rows side by side."""
    pairs = list(zip(original.answers, quantized.answers, strict=True))
    speed = original.tokens_per_second
    return Comparison(
        rows=len(pairs),
        exact_agreement=sum(one == other for one, other in pairs) / len(pairs),
        common_prefix_share=sum(_common_share(*pair) for pair in pairs) / len(pairs),
        perplexity_original=original.perplexity,
        perplexity_quantized=quantized.perplexity,
        perplexity_change=quantized.perplexity / original.perplexity - 1,
        weight_bytes_original=original.weight_bytes,
        weight_bytes_quantized=quantized.weight_bytes,
        size_ratio=quantized.weight_bytes / original.weight_bytes,
        tokens_per_second_original=speed,
        tokens_per_second_quantized=quantized.tokens_per_second,
        speed_ratio=quantized.tokens_per_second / speed if speed else 0.0,
    )


def measure(model: Model, rows: Sequence[PreparedRow], max_tokens: int, machine: Machine) -> Measurement:
    """Let a model score every prompt, then answer it greedily, in an engine of its own.

    The rows have no faults, and a tokenizer as the model's has prepared them.

    Raises:
        EngineError: The engine does not start, or does not answer every prompt.
    """
    scoring = [_request(row, {"max_tokens": 1, "prompt_logprobs": 0}) for row in rows]
    answering = [_request(row, {"max_tokens": min(max_tokens, row.room)}) for row in rows]
    settings = _settings(model, rows, max_tokens, machine)
    specification = EngineSpecification(model_path=str(model.folder), arguments=settings.argument_values())
    with EngineGroup(model.engine, [settings.environment_values()]) as engine:
        engine.load(specification)
        scored = _finish(engine, scoring)  # first, so that the kernels are warm when time is taken
        started = time.monotonic()
        answered = _finish(engine, answering)
        seconds = time.monotonic() - started
    outputs = [finished.output for finished in answered if finished.output]
    return Measurement(
        answers=tuple(output.text for output in outputs),
        completion_tokens=sum(output.num_tokens for output in outputs),
        seconds=seconds,
        prompt_logprob=sum(finished.prompt_logprob or 0.0 for finished in scored),
        prompt_tokens=sum(len(row.token_ids) - 1 for row in rows),
        weight_bytes=model.facts.weight_bytes,
    )


def _request(row: PreparedRow, sampling: dict[str, Any]) -> GenerationRequest:
    return GenerationRequest(request_id=row.row, token_ids=row.token_ids, sampling={"temperature": 0.0, **sampling})


def _settings(model: Model, rows: Sequence[PreparedRow], max_tokens: int, machine: Machine) -> EngineSettings:
    lengths = [len(row.token_ids) for row in rows]
    job = JobFacts(
        requests=len(rows),
        longest_prompt_tokens=max(lengths),
        mean_prompt_tokens=sum(lengths) / len(lengths),
        max_tokens=max_tokens,
    )
    scores = SCORED_TOKENS_PER_STEP * model.facts.vocab_size * _BYTES_PER_LOGIT
    left = dataclasses.replace(machine, memory_available_bytes=max(0, machine.memory_available_bytes - scores))
    # A cached prompt would be neither scored nor part of the time.
    options = {"max_num_batched_tokens": SCORED_TOKENS_PER_STEP, "enable_prefix_caching": False}
    return plan_settings(left, model.facts, job, choose_dtype("auto", model.facts), options)


def _finish(engine: EngineGroup, requests: list[GenerationRequest]) -> list[FinishedRequest]:
    outcomes = engine.answer_all(requests)
    if refusal := next((outcome.refusal for outcome in outcomes if outcome.output is None), None):
        raise EngineError(f"The engine did not answer a held-out prompt: {refusal}")
    return outcomes


def _common_share(one: str, other: str) -> float:
    longer = max(len(one), len(other))
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)) / longer if longer else 1.0
