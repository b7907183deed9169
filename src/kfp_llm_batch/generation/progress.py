"""Progress for people: a bar on a terminal, a line every ten seconds in a log."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from kfp_llm_batch.row_log import SECONDS as LINE_SECONDS

_LOG = logging.getLogger("kfp_llm_batch")


class ProgressReport:
    """Counts rows and tokens, and shows them.

    Args:
        total_rows: Rows to be done.
    """

    def __init__(self, total_rows: int) -> None:
        self._total = total_rows
        self._rows = 0
        self._tokens = 0
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        self._started = self._last_line = time.monotonic()
        terminal = os.environ.get("KFP_LLM_BATCH_TERMINAL", "/dev/stderr" if sys.stderr.isatty() else None)
        if terminal:
            self._start_bar(terminal)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar:
            self._bar.stop()
            self._bar.console.file.close()
        elif kind is None:
            _LOG.info("%s", self.line())

    def add(self, rows: int, tokens: int) -> None:
        """Count finished rows and generated tokens; with none, only keep the display going."""
        self._rows += rows
        self._tokens += tokens
        if self._bar:
            self._bar.update(self._task, completed=self._rows, speed=f"{self._speed():,.0f} tokens/s")
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            _LOG.info("%s", self.line())

    def line(self) -> str:
        """Rows done, tokens per second and time left."""
        share = self._rows / max(1, self._total)
        left = (time.monotonic() - self._started) * (1 - share) / share if share else None
        time_left = "unknown" if left is None else f"{left // 60:.0f}m{left % 60:02.0f}s"
        rows = f"{self._rows:,} of {self._total:,} rows ({share:.0%})"
        return f"{rows}, {self._speed():,.0f} tokens/s, time left {time_left}"

    def _speed(self) -> float:
        return self._tokens / max(1e-9, time.monotonic() - self._started)

    def _start_bar(self, terminal: str) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TextColumn("{task.fields[speed]}"))
        console = Console(file=Path(terminal).open("w", encoding="utf-8"), force_terminal=True)  # noqa: SIM115
        self._bar = Progress(*columns, TimeRemainingColumn(), console=console)
        self._task: TaskID = self._bar.add_task("rows", total=self._total, speed="")
        self._bar.start()
