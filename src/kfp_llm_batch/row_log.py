"""A log line every ten seconds while rows go by."""

from __future__ import annotations

import logging
import time

SECONDS = 10.0
_LOG = logging.getLogger("kfp_llm_batch")


class RowLog:
    """Says how many rows have been done, and how fast.

    Args:
        verb: What is done to the rows, as in "Loaded".
    """

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._started = self._logged = time.monotonic()

    def log(self, rows: int) -> None:
        """Log the number of rows, unless that was done a moment ago."""
        now = time.monotonic()
        if now - self._logged >= SECONDS:
            self._logged = now
            _LOG.info("%s %s rows (%.0f a second)", self._verb, f"{rows:,}", rows / (now - self._started))
