"""The time after which a run ends with what it has."""

from __future__ import annotations

import time

from kfp_llm_batch.errors import ConfigurationError


class Deadline:
    """Counts from its making.

    Args:
        seconds: None sets no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._end = float("inf") if seconds is None else time.monotonic() + seconds

    @property
    def is_set(self) -> bool:
        """Whether there is a limit."""
        return self._seconds is not None

    def is_within(self, seconds: float) -> bool:
        """Whether less than `seconds` are left."""
        return time.monotonic() + seconds >= self._end

    def check_before_first_answer(self) -> None:
        """Raise if the time is over before anything could be answered.

        Raises:
            ConfigurationError: It is.
        """
        if self.is_within(0):
            raise ConfigurationError(
                "The time was over before the first row was answered",
                received=f"max_duration_seconds={self._seconds:g}",
                remedy="It counts from the start of the step, loading the model included: raise it.",
            )
