"""Faults on purpose, for tests of what happens around an engine that dies.

The variable KFP_LLM_BATCH_FAULTS holds JSON such as {"SIGKILL": [[5, 6]], "hang": [[7]]}: an engine that works on a
prompt with these token ids in a row is killed by that signal, or hangs; `delay` makes every step take a tenth of a
second longer.
"""

from __future__ import annotations

import json
import os
import signal
import time

from kfp_llm_batch.engine.messages import Engine, FinishedRequest, GenerationRequest

VARIABLE = "KFP_LLM_BATCH_FAULTS"


def with_injected_faults(engine: Engine) -> Engine:
    """The engine itself, unless faults are asked for."""
    faults = os.environ.get(VARIABLE)
    return FaultyEngine(engine, json.loads(faults)) if faults else engine


class FaultyEngine:
    """An engine that ends on certain prompts.

    Args:
        engine: Does the work.
        faults: Token sequences by what they cause: the name of a signal, or `hang`.
    """

    def __init__(self, engine: Engine, faults: dict[str, list[list[int]]]) -> None:
        self.versions = engine.versions
        self._engine = engine
        self._faults = faults
        self._pending: str | None = None

    def add(self, request: GenerationRequest) -> None:
        """Take a request, and remember whether it is one to end on."""
        for fault, sequences in self._faults.items():
            if any(_contains(request.token_ids, sequence) for sequence in sequences):
                self._pending = fault
        self._engine.add(request)

    def step(self) -> list[FinishedRequest]:
        """One step, or the end."""
        if self._pending == "hang":
            time.sleep(10**6)
        elif self._pending == "delay":
            time.sleep(0.1)
        elif self._pending:
            os.kill(os.getpid(), signal.Signals[self._pending])
        return self._engine.step()

    def has_unfinished(self) -> bool:
        """Whether `step` has work to do."""
        return self._engine.has_unfinished()


def _contains(token_ids: list[int], sequence: list[int]) -> bool:
    return any(token_ids[start : start + len(sequence)] == sequence for start in range(len(token_ids)))
