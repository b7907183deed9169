"""Some of a job's requests, answered and timed in rounds that tell the parts of the engine's speed apart.

Few short answers show what a step costs, prompts alone what their tokens cost, and many whole answers the rest, and how
long answers are.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from kfp_llm_batch.engine.group import EngineGroup
from kfp_llm_batch.engine.messages import GenerationRequest
from kfp_llm_batch.engine.settings import MAX_BATCHED_TOKENS
from kfp_llm_batch.errors import EngineError
from kfp_llm_batch.estimation.sample import PrefixBlocks
from kfp_llm_batch.estimation.speed import Round, Speed, fit
from kfp_llm_batch.generation.answers import PendingAnswer

_LOG = logging.getLogger("kfp_llm_batch")

PROMPTS, FEW, MANY = "prompts", "few", "many"
"""Kinds of rounds."""
_ROUNDS = 2
"""Of each kind, whose difference is the probe's own variance."""
_FEW = 4
"""Requests of each engine in a round of few."""
_FEW_TOKENS = 32
_LEAST_MANY = 8
"""Requests of each engine in a round of many; answers are cut rather than fewer taken."""
_LEAST_TOKENS = 16
_PROMPTS_SHARE, _MANY_SHARE = 0.1, 0.4
"""Of the probe's seconds, for each round of that kind."""
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the probe has measured."""

    rounds: Sequence[Round]
    answer_tokens: Sequence[int]
    """Of each whole answer; of one that the probe has cut, as many as it may have."""
    is_cut: bool
    """Whether answers were cut since whole ones would have taken too long."""
    warm_up_seconds: float
    """That the engine's first requests take beyond what later ones like them do."""
    seconds: float


@dataclass(kw_only=True)
class Probe:
    """Times an engine that is loaded.

    Args:
        engine: Loaded, and with nothing to do.
        answers: Requests to choose from.
        requests: Of the whole job; no round has more.
        slots: Requests that an engine runs at a time.
        seconds: About how long to measure.
    """

    engine: EngineGroup
    answers: Sequence[PendingAnswer]
    requests: int
    slots: int
    seconds: float
    _blocks: PrefixBlocks = field(default_factory=PrefixBlocks)
    _answer_tokens: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        order = np.random.default_rng(_SEED).permutation(len(self.answers)).tolist()
        self._next: Iterator[tuple[int, PendingAnswer]] = enumerate(
            itertools.cycle([self.answers[index] for index in order])
        )

    def run(self) -> Findings:
        """Measure.

        Raises:
            EngineError: The engine cannot be kept running, or refuses every request.
        """
        started = time.monotonic()
        warm_up = self._answer(PROMPTS, self._count(1), 2)
        first = self._answer(PROMPTS, self._count(2), 1)
        prompts = self._count(2 * max(1, _PROMPTS_SHARE * self.seconds / max(first.seconds, 1e-9)))
        rounds = [self._answer(PROMPTS, prompts, 1) for _ in range(_ROUNDS)]
        rounds += [self._answer(FEW, self._count(_FEW), _FEW_TOKENS) for _ in range(_ROUNDS)]
        count, limit = self._many(fit(rounds))
        self._answer_tokens.clear()
        rounds += [self._answer(MANY, count, limit) for _ in range(_ROUNDS)]
        seconds = time.monotonic() - started
        _LOG.info("Probed the engine for %.1f s with %d whole answers.", seconds, len(self._answer_tokens))
        return Findings(
            rounds=rounds,
            answer_tokens=self._answer_tokens,
            is_cut=limit < self._longest,
            warm_up_seconds=max(0.0, warm_up.seconds - fit(rounds).seconds_of(warm_up)),
            seconds=seconds,
        )

    @cached_property
    def _longest(self) -> int:
        return max(_limit(answer) for answer in self.answers)

    def _count(self, by_engine: float) -> int:
        return max(1, min(round(by_engine * len(self.engine)), self.requests, self.slots * len(self.engine)))

    def _many(self, speed: Speed) -> tuple[int, int]:
        """How many requests a round of many has, and how long their answers may be, to last as long as wanted."""
        prompt = float(np.mean([len(answer.rows[0].token_ids) for answer in self.answers]))
        limit, wanted = self._longest, _MANY_SHARE * self.seconds
        while True:
            each = speed.seconds(0, prompt, limit) or 1e-9
            count = self._count((wanted - speed.step * limit) / each)
            if limit <= _LEAST_TOKENS or count >= self._count(_LEAST_MANY):
                return max(count, self._count(_LEAST_MANY)), limit
            limit = max(_LEAST_TOKENS, limit // 2)

    def _answer(self, kind: str, count: int, limit: int) -> Round:
        drawn = dict(itertools.islice(self._next, count))
        requests = [_request(number, answer, limit) for number, answer in drawn.items()]
        fresh = sum(self._blocks.fresh_tokens(request.token_ids) for request in requests)
        started = time.monotonic()
        outputs = self.engine.answer_all(requests)
        seconds, engines = time.monotonic() - started, len(self.engine)
        tokens = {entry.request_id: entry.output.num_tokens for entry in outputs if entry.output}
        if not tokens:
            raise EngineError(f"The engine refuses every request of the probe: {outputs[0].refusal}")
        self._answer_tokens += [
            _limit(drawn[number]) if length >= limit else length for number, length in tokens.items()
        ]
        return Round(
            kind=kind,
            steps=max(tokens.values()) + fresh / engines // MAX_BATCHED_TOKENS,
            prompt_tokens=fresh / engines,
            new_tokens=sum(length - 1 for length in tokens.values()) / engines,
            seconds=seconds,
        )


def _limit(answer: PendingAnswer) -> int:
    return int(answer.sampling(0)["max_tokens"])


def _request(number: int, answer: PendingAnswer, limit: int) -> GenerationRequest:
    sampling = answer.sampling(0)
    shortened = min(limit, sampling["max_tokens"])
    least = {"min_tokens": min(sampling["min_tokens"], shortened)} if "min_tokens" in sampling else {}
    return GenerationRequest(
        request_id=number,
        token_ids=answer.rows[0].token_ids,
        sampling={**sampling, "max_tokens": shortened, **least},
    )
