"""Keeps an engine running: notices its death or silence, starts it again, and finds the request that is to blame."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Self

from kfp_llm_batch.engine.messages import EngineReady, EngineSpecification, FinishedRequest, GenerationRequest
from kfp_llm_batch.engine.process import EngineDiedError, EngineProcess
from kfp_llm_batch.errors import EngineError

_LOG = logging.getLogger("kfp_llm_batch")

HANG_SECONDS_VARIABLE = "KFP_LLM_BATCH_HANG_SECONDS"
DEFAULT_HANG_SECONDS = 900.0
"""One scheduler step of a large model with long prompts on few cores takes minutes."""
MAX_RESTARTS = 40
"""One culprit among 512 requests takes ten at most; more than this is no matter of single rows."""


class EngineSupervisor:
    """An engine that outlives its own death; used like `EngineProcess`, several of them by an `EngineGroup`.

    After a death the requests in flight are tried again in halves, one half at a time, until one request dies alone.
    That one is answered with a refusal. Every other request is answered as if nothing had happened.

    Args:
        kind: `vllm`, `echo` or `endpoint`.
        environment: Variables of the engine's process.
    """

    def __init__(self, kind: str, environment: Mapping[str, str]) -> None:
        self._kind = kind
        self._environment = environment
        self._hang_seconds = float(os.environ.get(HANG_SECONDS_VARIABLE, DEFAULT_HANG_SECONDS))
        self._running: dict[int, GenerationRequest] = {}
        self._groups: list[list[GenerationRequest]] = []
        """Requests to be tried after those that run; the last group is the next. None in normal operation."""
        self._is_isolating = False
        self.restarts = 0
        self.seconds_lost = 0.0
        """From each death to the moment when the engine was ready again."""

    def __enter__(self) -> Self:
        self._engine = EngineProcess(self._kind, self._environment).__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._engine.__exit__(kind)

    def kill(self) -> None:
        """End the engine at once, whatever it works on."""
        self._engine.kill()

    def begin_load(self, specification: EngineSpecification) -> None:
        """Say what to load, and do not wait for it."""
        self._specification = specification
        self._engine.begin_load(specification)

    def finish_load(self) -> EngineReady:
        """Block until the weights are loaded.

        Raises:
            EngineError: The engine could not start.
        """
        ready = self._engine.finish_load()
        self._heard_at = time.monotonic()
        return ready

    @property
    def connection(self) -> Connection:
        """Readable when `receive` has something to return; another one after each restart."""
        return self._engine.connection

    def submit(self, requests: list[GenerationRequest]) -> None:
        """Hand over requests; while a culprit is sought they wait, so that they are not suspected."""
        if self._is_isolating:
            self._groups.insert(0, requests)
        else:
            self._start(requests)

    def receive(self) -> list[FinishedRequest]:
        """Requests that have finished since the last call; does not wait for any.

        Raises:
            EngineError: The engine cannot be kept running.
        """
        try:
            finished = self._engine.receive()
            self._check_silence(finished)
        except EngineDiedError as death:
            finished = self._recover(death)
        for entry in finished or ():
            self._running.pop(entry.request_id, None)
        self._start_next_group()
        return finished or []

    def _start(self, requests: list[GenerationRequest]) -> None:
        if not self._running:
            self._heard_at = time.monotonic()  # it had nothing to tell of
        self._running.update((request.request_id, request) for request in requests)
        try:
            self._engine.submit(requests)
        except EngineDiedError:
            _LOG.debug("The engine died before it took the requests; receive() finds its death again.")

    def _start_next_group(self) -> None:
        if self._running or not self._is_isolating:
            return
        if self._groups:
            self._start(self._groups.pop())
        else:
            self._is_isolating = False

    def _check_silence(self, finished: list[FinishedRequest] | None) -> None:
        """Judged by what there is to read: the caller may have been busy storing a part, and the engine was not."""
        if finished is not None or not self._running:
            self._heard_at = time.monotonic()
        elif time.monotonic() - self._heard_at >= self._hang_seconds:
            self._engine.kill()
            raise EngineDiedError("engine_hung", f"gave no sign of life for {self._hang_seconds:g} s")

    def _recover(self, death: EngineDiedError) -> list[FinishedRequest]:
        """Restart; a request that died alone is refused, others are tried again in halves."""
        suspects = list(self._running.values())
        self._running.clear()
        self._restart(death, len(suspects))
        if len(suspects) == 1:
            message = f"The engine {death.how} while it worked on this request alone."
            return [FinishedRequest(request_id=suspects[0].request_id, refusal=message, refusal_code=death.code)]
        middle = len(suspects) // 2
        self._groups += [half for half in (suspects[middle:], suspects[:middle]) if half]
        self._is_isolating = True
        return []

    def _restart(self, death: EngineDiedError, suspects: int) -> None:
        self.restarts += 1
        if self.restarts > MAX_RESTARTS:
            raise EngineError(f"The engine died {self.restarts} times; the last time it {death.how}") from death
        _LOG.warning("The engine %s with %d requests in flight; it is started again.", death.how, suspects)
        started = time.monotonic()
        self._engine.__exit__(EngineDiedError)
        self.__enter__()
        self.begin_load(self._specification)
        self.finish_load()
        self.seconds_lost += time.monotonic() - started
