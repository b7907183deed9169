"""The parent's handle on the engine's process."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

from kfp_llm_batch import termination
from kfp_llm_batch.engine.messages import (
    EngineFailed,
    EngineReady,
    EngineSpecification,
    FinishedRequest,
    GenerationRequest,
)
from kfp_llm_batch.errors import ConfigurationError, EngineError

_LOG_TAIL_LINES = 12
_SHUTDOWN_SECONDS = 10


class EngineDiedError(EngineError):
    """The engine's process ended while it should have worked.

    Args:
        code: `engine_killed`, `engine_exited`, `engine_failed` or `engine_hung`.
        how: What happened, as in "was killed by SIGKILL".
        remedy: What the reader should do or look at.
    """

    def __init__(self, code: str, how: str, remedy: str = "") -> None:
        super().__init__(f"The engine's process {how}", remedy=remedy)
        self.code = code
        self.how = how


class EngineProcess:
    """Starts the engine in a process of its own, so that its crash or kill is an event and not our end.

    Use as a context manager; leaving it ends the process.

    Args:
        kind: `vllm`, `echo` or `endpoint`; its packages are imported at once.
        environment: Variables that must be there before the interpreter starts, such as OMP_NUM_THREADS.
    """

    def __init__(self, kind: str, environment: Mapping[str, str]) -> None:
        self._kind = kind
        self._environment = environment

    def __enter__(self) -> Self:
        self._log = tempfile.NamedTemporaryFile(prefix="engine-", suffix=".log")
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kfp_llm_batch.engine.child", str(theirs.fileno()), self._kind],
                pass_fds=[theirs.fileno()],
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.connection = Connection(ours.detach())
        """For waiting on several engines at once; only `receive` reads it."""
        self._is_loaded = False
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.connection.close()
        if kind is not None or not self._is_loaded:
            self.kill()
        self._end_soon()
        self._log.close()

    def begin_load(self, specification: EngineSpecification) -> None:
        """Say what to load, and do not wait for it."""
        with contextlib.suppress(OSError):  # an engine that has ended is found out by `finish_load`
            self.connection.send(specification)

    def finish_load(self) -> EngineReady:
        """Block until the weights are loaded.

        Raises:
            EngineError: The engine could not start; the message holds the end of its log.
            InterruptedRunError: SIGTERM has come.
        """
        while not self.connection.poll(1.0):
            termination.check()
        message = self._receive()
        if not isinstance(message, EngineReady):
            raise EngineError("The engine sent an answer before it was ready")
        self._is_loaded = True
        return message

    def kill(self) -> None:
        """End the process at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def submit(self, requests: list[GenerationRequest]) -> None:
        """Hand over requests without waiting for their answers."""
        try:
            self.connection.send(requests)
        except OSError:
            raise self._ended() from None

    def receive(self) -> list[FinishedRequest] | None:
        """Requests that have finished, an empty list as a sign of life, or None when there is neither yet.

        Raises:
            EngineDiedError: The engine's process failed or ended.
        """
        if not self.connection.poll():
            return None
        message = self._receive()
        if not isinstance(message, list):
            raise EngineError("The engine said twice that it is ready")
        return message

    def _receive(self) -> EngineReady | list[FinishedRequest]:
        try:
            message: EngineReady | EngineFailed | list[FinishedRequest] = self.connection.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if isinstance(message, EngineFailed) and message.is_configuration:
            raise ConfigurationError(message.message)
        if isinstance(message, EngineFailed):
            self._end_soon()  # its traceback is then whole in the log
            raise EngineDiedError("engine_failed", f"failed: {message.message}", self._see_log())
        return message

    def _ended(self) -> EngineDiedError:
        code = self._end_soon()
        if code >= 0:
            return EngineDiedError("engine_exited", f"exited with code {code}", self._see_log())
        hint = "Most often the pod's memory limit was reached: raise resources_memory. " if code == -9 else ""
        return EngineDiedError(
            "engine_killed", f"was killed by {signal.Signals(-code).name}", f"{hint}{self._see_log()}"
        )

    def _end_soon(self) -> int:
        try:
            return self._process.wait(_SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait()

    def _see_log(self) -> str:
        lines = Path(self._log.name).read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(["The end of its log:", *lines[-_LOG_TAIL_LINES:]])
