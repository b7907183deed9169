"""SIGTERM as a wish that is granted at the next safe point."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Self

from kfp_llm_batch.errors import InterruptedRunError


class Termination:
    """While this context is open, SIGTERM is noted instead of ending the process.

    Outside the main thread, where Python sets no handlers, it notes nothing.
    """

    def __init__(self) -> None:
        self._requested = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._requested = True

    def check(self) -> None:
        """Raise if the end was asked for.

        Raises:
            InterruptedRunError: SIGTERM has come.
        """
        if self._requested:
            raise InterruptedRunError(
                "The run was interrupted", remedy="What is finished is kept; the same run again answers the rest."
            )
