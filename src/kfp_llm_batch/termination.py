"""SIGTERM as a wish that is granted at the next safe point, and soon."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Self

from kfp_llm_batch.errors import InterruptedRunError, StorageError

STORE_SECONDS = 5.0
"""What the stores have from the signal on, all calls together; the step then ends within the 30 s that a pod gets."""
LATE_CALL_SECONDS = 2.0
"""Each call has them even when those are over: the open part may be written only then."""
POLL_SECONDS = 0.25

_REMEDY = "What is in the checkpoint stays; the same run again answers the rest."


@dataclass
class _Signals:
    """What the process was told. Signals are the whole process's, and so is this.

    Plain values, since a handler that sets a threading.Event can meet the lock of the wait that it interrupts.
    """

    is_termination_requested: bool = False
    is_store_called: bool = False
    """Whether the main thread may be cut short where it is."""


_SIGNALS = _Signals()


class CallCutError(BaseException):
    """A call to a store was cut short; no Exception, so that no client takes it for a failure that it could mend."""


class Termination:
    """While this context is open, SIGTERM is noted instead of ending the process.

    A store that fails afterwards is part of the interruption: the context turns its error into InterruptedRunError.
    Outside the main thread, where Python sets no handlers, it notes nothing.
    """

    def __enter__(self) -> Self:
        if _is_main_thread():
            self._handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}
            signal.signal(signal.SIGTERM, _note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if not _is_main_thread():
            return
        was_requested, _SIGNALS.is_termination_requested = _SIGNALS.is_termination_requested, False
        if was_requested:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if was_requested and isinstance(error, StorageError):
            raise InterruptedRunError(
                f"The run was interrupted, and meanwhile a store failed: {error}", remedy=_REMEDY
            ) from error


def check() -> None:
    """Raise if the end was asked for while a `Termination` is open.

    Raises:
        InterruptedRunError: SIGTERM has come.
    """
    if _SIGNALS.is_termination_requested:
        raise InterruptedRunError("The run was interrupted", remedy=_REMEDY)


def is_requested() -> bool:
    """Whether SIGTERM has come while a `Termination` is open."""
    return _SIGNALS.is_termination_requested


def sleep(seconds: float) -> None:
    """Wait; SIGTERM ends the wait, and one that begins after it is short."""
    if _SIGNALS.is_termination_requested:
        time.sleep(min(seconds, POLL_SECONDS))
        return
    end = time.monotonic() + seconds
    while not _SIGNALS.is_termination_requested and (left := end - time.monotonic()) > 0:
        time.sleep(min(POLL_SECONDS, left))


@contextlib.contextmanager
def limited_call() -> Iterator[None]:
    """A call to a store, which SIGTERM ends within STORE_SECONDS, even while it waits for an answer.

    Raises:
        CallCutError: The time was over.
    """
    if not _is_main_thread():
        yield
        return
    _SIGNALS.is_store_called = True
    try:
        if _SIGNALS.is_termination_requested:
            left, _ = signal.getitimer(signal.ITIMER_REAL)
            signal.setitimer(signal.ITIMER_REAL, max(left, LATE_CALL_SECONDS))
        yield
    finally:
        _SIGNALS.is_store_called = False


def _note(number: int, frame: FrameType | None) -> None:
    if not _SIGNALS.is_termination_requested:
        _SIGNALS.is_termination_requested = True
        # Only now: others, such as a test's time limit, may use the alarm until then.
        signal.signal(signal.SIGALRM, _cut)
        signal.setitimer(signal.ITIMER_REAL, STORE_SECONDS)


def _cut(number: int, frame: FrameType | None) -> None:
    if _SIGNALS.is_store_called:
        raise CallCutError


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
