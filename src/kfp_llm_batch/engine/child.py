"""The engine's process: `python -m kfp_llm_batch.engine.child FILE_DESCRIPTOR KIND`, started by `EngineProcess`."""

from __future__ import annotations

import ctypes
import gc
import queue
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from kfp_llm_batch.engine.faults import with_injected_faults
from kfp_llm_batch.engine.messages import (
    Engine,
    EngineFailed,
    EngineReady,
    EngineSpecification,
    FinishedRequest,
    GenerationRequest,
)
from kfp_llm_batch.errors import ConfigurationError

Inbox = queue.SimpleQueue[GenerationRequest | None]
"""Requests in their order; None when the parent has closed its side."""

SIGN_OF_LIFE_SECONDS = 1.0
_UNUSED_PACKAGES = ("scipy", "sklearn")
"""Transformers imports them where they are, for what no engine does; 0.15 of the time for all imports."""
_PR_SET_PDEATHSIG = 1


def serve(connection: Connection, kind: str) -> None:
    """Load what the first message asks for, then answer requests until the parent hangs up.

    The engine's packages, which take some seconds, are imported while the parent still looks at the rows. What imports
    and weights leave in memory stays: looking through it for garbage would take a third of the time for imports, and as
    long as the weights themselves when vLLM asks for that as it loads them.
    """
    gc.disable()
    make = _importer(kind)
    gc.freeze()
    specification: EngineSpecification = connection.recv()
    started = time.monotonic()
    engine = with_injected_faults(make(specification))
    gc.freeze()
    gc.enable()
    connection.send(EngineReady(load_seconds=time.monotonic() - started, versions=engine.versions))
    inbox: Inbox = queue.SimpleQueue()
    # A thread of its own empties the socket, so that the parent never blocks in send while this side blocks in send.
    threading.Thread(target=_receive, args=(connection, inbox), daemon=True).start()
    last_sent = time.monotonic()
    while _take_requests(engine, inbox, connection):
        finished = engine.step()
        # Without news an empty list goes out once a second: silence then means a hang.
        if finished or time.monotonic() - last_sent >= SIGN_OF_LIFE_SECONDS:
            connection.send(finished)
            last_sent = time.monotonic()


def _importer(kind: str) -> Callable[[EngineSpecification], Engine]:
    if kind == "echo":
        from kfp_llm_batch.engine.echo import EchoEngine

        return lambda specification: EchoEngine()
    if kind == "endpoint":
        from kfp_llm_batch.engine.endpoint import EndpointEngine

        return EndpointEngine
    for name in _UNUSED_PACKAGES:
        sys.modules[name] = None  # type: ignore[assignment]  # as if it were not installed
    from kfp_llm_batch.engine.vllm_engine import VllmEngine

    return VllmEngine


def _receive(connection: Connection, inbox: Inbox) -> None:
    try:
        while True:
            for request in connection.recv():
                inbox.put(request)
    except (EOFError, OSError):
        inbox.put(None)


def _take_requests(engine: Engine, inbox: Inbox, connection: Connection) -> bool:
    """Add all waiting requests; wait for one when the engine is idle. False when the parent has gone."""
    while not (engine.has_unfinished() and inbox.empty()):
        request = inbox.get()
        if request is None:
            return False
        try:
            engine.add(request)
        except ValueError as error:
            connection.send([FinishedRequest(request_id=request.request_id, refusal=str(error))])
    return True


def _die_with_parent(connection: Connection) -> None:
    """Let the kernel kill this process at once when its parent is killed, whatever it does then: load, step, hang."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLRDHUP)
        if poll.poll(0):  # it was gone before the kernel was asked
            sys.exit()


def main() -> None:
    """Serve the connection of the first argument with an engine of the kind that the second one names."""
    connection = Connection(int(sys.argv[1]))
    _die_with_parent(connection)
    try:
        serve(connection, sys.argv[2])
    except ConfigurationError as error:
        connection.send(EngineFailed(message=str(error), is_configuration=True))
    except Exception as error:
        # The parent shows this one line; the traceback goes to the engine's log.
        connection.send(EngineFailed(message=f"{type(error).__name__}: {error}"))
        raise


if __name__ == "__main__":
    main()
