"""Engines of one pod that answer together, as if they were one."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing.connection
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from kfp_llm_batch import termination
from kfp_llm_batch.engine.messages import EngineReady, EngineSpecification, FinishedRequest, GenerationRequest
from kfp_llm_batch.engine.supervisor import EngineSupervisor

PREFIX_TOKENS = 128
"""Requests with so long a common beginning are kept together; a shorter one is soon computed again."""


class EngineGroup:
    """One engine or several, each on processors of its own; a request goes to the one that has the least to do.

    Use as a context manager; leaving it ends all of them.

    Args:
        kind: `vllm`, `echo` or `endpoint`.
        environments: Variables of each engine's process, which starts with the group.
    """

    def __init__(self, kind: str, environments: Sequence[Mapping[str, str]]) -> None:
        self._engines = [EngineSupervisor(kind, environment) for environment in environments]
        self._tokens = [0] * len(self._engines)
        """Of the requests that each engine has."""
        self._owners: dict[int, tuple[int, int]] = {}
        """Engine and tokens by request."""

    def __len__(self) -> int:
        return len(self._engines)

    @property
    def restarts(self) -> int:
        """Of all engines."""
        return sum(engine.restarts for engine in self._engines)

    @property
    def seconds_lost(self) -> float:
        """By all restarts; the other engines went on meanwhile."""
        return sum(engine.seconds_lost for engine in self._engines)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for engine in self._engines:
                stack.enter_context(engine)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    def kill(self) -> None:
        """End all engines at once, whatever they work on."""
        for engine in self._engines:
            engine.kill()

    def load(self, specification: EngineSpecification, *, is_first_alone: bool = False) -> EngineReady:
        """Load weights in all engines, and block until that is done.

        Args:
            specification: What each of them loads.
            is_first_alone: Let the first one compile, and the others load what it has compiled.

        Returns:
            What the slowest one said.

        Raises:
            EngineError: One of them could not start.
        """
        first, *others = self._engines
        first.begin_load(specification)
        ready = [first.finish_load()] if is_first_alone else []
        for engine in others:
            engine.begin_load(specification)
        ready += [engine.finish_load() for engine in (others if is_first_alone else self._engines)]
        return max(ready, key=lambda each: each.load_seconds)

    def submit(self, requests: list[GenerationRequest]) -> None:
        """Hand over requests without waiting for their answers."""
        for engine, share in enumerate(spread(requests, self._tokens)):
            self._tokens[engine] += _tokens(share)
            self._owners.update((request.request_id, (engine, _tokens([request]))) for request in share)
            if share:
                self._engines[engine].submit(share)

    def receive(self, timeout_seconds: float) -> list[FinishedRequest]:
        """Requests that have finished; none when the time is over before one has.

        Raises:
            EngineError: An engine cannot be kept running.
            InterruptedRunError: SIGTERM has come.
        """
        termination.check()
        multiprocessing.connection.wait([engine.connection for engine in self._engines], timeout_seconds)
        finished = [entry for engine in self._engines for entry in engine.receive()]
        for entry in finished:
            engine, tokens = self._owners.pop(entry.request_id)
            self._tokens[engine] -= tokens
        return finished

    def answer_all(self, requests: list[GenerationRequest]) -> list[FinishedRequest]:
        """Hand over requests and wait for all of them; their outcomes in the same order.

        Raises:
            EngineError: An engine cannot be kept running.
        """
        self.submit(requests)
        outcomes: dict[int, FinishedRequest] = {}
        while len(outcomes) < len(requests):
            outcomes.update((entry.request_id, entry) for entry in self.receive(timeout_seconds=1.0))
        return [outcomes[request.request_id] for request in requests]


def spread(requests: list[GenerationRequest], tokens: Sequence[int]) -> list[list[GenerationRequest]]:
    """The share of each engine, so that all have about as many tokens.

    Neighbours with a common beginning stay together, so that one engine alone computes it, unless they are many.

    Args:
        requests: In the order in which they should be answered.
        tokens: That each engine has already.
    """
    if len(tokens) == 1:
        return [requests]
    most = _tokens(requests) / (2 * len(tokens))
    loads, shares = list(tokens), [list[GenerationRequest]() for _ in tokens]
    for _, neighbours in itertools.groupby(requests, key=lambda request: request.token_ids[:PREFIX_TOKENS]):
        together = list(neighbours)
        for piece in [together] if _tokens(together) <= most else [[request] for request in together]:
            engine = loads.index(min(loads))
            shares[engine] += piece
            loads[engine] += _tokens(piece)
    return shares


def _tokens(requests: Iterable[GenerationRequest]) -> int:
    """Of the prompts, and of answers as long as they may be."""
    return sum(len(request.token_ids) + int(request.sampling["max_tokens"]) for request in requests)
