"""From a sample and a probe to seconds, each with an interval: the whole calculation drawn again and again."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kfp_llm_batch.estimation.probe import Findings
from kfp_llm_batch.estimation.sample import PrefixBlocks, Sample
from kfp_llm_batch.estimation.speed import Round, fit

DRAWS = 400
LEVEL = 0.9
"""Of the intervals."""
RUN_SPREAD = 0.15
"""Standard deviation, relative, by which a run differs from what its probe lets expect: docs/estimate.md."""
_SCHEDULED_REQUESTS = 4000
"""Whose steps are counted one by one; more repeat what these do."""
_SEED = 0

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value, and between which bounds it lies with LEVEL."""

    expected: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Work:
    """A whole job as its engines see it."""

    requests: int
    engines: int
    slots: int
    """Requests that an engine runs at a time."""
    saved_share: float = 0.0
    """Of the generation, by compiled code that the probe had not."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a generation will be."""

    seconds: Interval
    computed_prompt_tokens: float
    completion_tokens: Interval
    draws: Numbers
    """Of the seconds."""


def forecast(work: Work, sample: Sample, findings: Findings) -> Forecast:
    """Draw probe, prompts and answers again and again, each time with another set of what was measured."""
    rng = np.random.default_rng(_SEED)
    fresh = _fresh_tokens(sample)
    drawn = np.array([_draw(work, fresh, findings, rng, is_whole=sample.is_whole) for _ in range(DRAWS)])
    computed = drawn[:, 0] * (1 - work.saved_share) + findings.warm_up_seconds
    seconds = computed * np.exp(rng.normal(0, RUN_SPREAD, DRAWS))
    return Forecast(
        seconds=interval(seconds),
        computed_prompt_tokens=round(float(fresh.mean()) * work.requests),
        completion_tokens=interval(drawn[:, 1]),
        draws=seconds,
    )


def interval(draws: Numbers) -> Interval:
    """The median, and the quantiles around it."""
    low, expected, high = np.quantile(draws, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2]).tolist()
    return Interval(expected=expected, low=low, high=high)


def _fresh_tokens(sample: Sample) -> Numbers:
    """Prompt tokens that each request of a sample makes an engine compute."""
    blocks = PrefixBlocks()
    requests = (answer for answer in sample.answers for _ in range(answer.samples))
    return np.array([blocks.fresh_tokens(answer.rows[0].token_ids) for answer in requests], dtype=float)


def steps(lengths: Sequence[float], slots: int) -> float:
    """Steps of an engine that starts the next request whenever one has ended."""
    ends = list(lengths[:slots])
    heapq.heapify(ends)
    for length in lengths[slots:]:
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)


def _draw(
    work: Work, fresh: Numbers, findings: Findings, rng: np.random.Generator, *, is_whole: bool
) -> tuple[float, float]:
    """Seconds of the generation and tokens of its answers, once."""
    speed = fit(_resampled(findings.rounds, rng))
    prompts = fresh if is_whole else rng.choice(fresh, len(fresh))
    seen = rng.choice(findings.answer_tokens, len(findings.answer_tokens))
    by_engine = -(-work.requests // work.engines)
    lengths = rng.choice(seen, min(by_engine, _SCHEDULED_REQUESTS))
    beyond = max(0, by_engine - len(lengths)) * float(lengths.mean())
    tokens = float(lengths.sum()) + beyond
    seconds = speed.seconds(
        steps(lengths.tolist(), work.slots) + beyond / work.slots,
        by_engine * float(prompts.mean()),
        tokens - by_engine,
    )
    return seconds, tokens / by_engine * work.requests


def _resampled(rounds: Sequence[Round], rng: np.random.Generator) -> list[Round]:
    """As many rounds of each kind as there were."""
    kinds = {entry.kind: [other for other in rounds if other.kind == entry.kind] for entry in rounds}
    return [same[index] for same in kinds.values() for index in rng.integers(len(same), size=len(same))]
