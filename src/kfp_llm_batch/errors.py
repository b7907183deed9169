"""Every error that a user can meet, drawn by what its reader must do.

    BatchError
    |-- ConfigurationError  exit 2  fix a parameter or a setting, then run again
    |-- DataError           exit 3  fix the dataset
    |   `-- ResultError     exit 3  the stored result is not what its manifest says
    |-- StorageError        exit 4  the store did not answer or refused: retry, or mend access
    |-- EngineError         exit 5  look at the engine's own log
    |-- InterruptedRunError exit 6  run again: what is finished is kept
    |   `-- IncompleteRunError exit 6  shards are missing: run again, only these are answered
    |-- GateError           exit 7  look at the report: the run is worse than its baseline
    |-- ServerError         exit 8  Kubeflow Pipelines did not answer or refused: retry, or mend access
    `-- RunError            exit 9  a run on Kubeflow ended without success: look at the step that is named

Any other exception is a defect of this package and keeps its traceback (exit 1).
"""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import ClassVar

TERMINATION_LOG_VARIABLE = "KFP_LLM_BATCH_TERMINATION_LOG"
"""Names another file than Kubernetes' own for the message of a failed step, to be shown by whoever set it."""

_TERMINATION_LOG = "/dev/termination-log"

_ABSENT = object()


class BatchError(Exception):
    """Root of the tree; says what failed, the value received, what is allowed, and what to do.

    Args:
        what: What failed, one sentence without its full stop.
        received: The offending value; never pass a secret.
        allowed: The values that would have been accepted; the nearest is suggested.
        remedy: What the reader should do, whole sentences.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self, what: str, *, received: object = _ABSENT, allowed: Collection[str] = (), remedy: str = ""
    ) -> None:
        parts = [what if what.endswith((".", "?", "!")) else what + "."]
        if received is not _ABSENT:
            parts.append(f"Received: {received!r}.")
        if allowed:
            parts.append(f"Allowed: {', '.join(allowed)}.")
            near = difflib.get_close_matches(str(received), allowed, n=1)
            parts.extend(f"Did you mean {name!r}?" for name in near)
        if remedy:
            parts.append(remedy)
        super().__init__(" ".join(parts))


class ConfigurationError(BatchError, ValueError):
    """A parameter or a setting is wrong: correct it and run again."""

    exit_code = 2


class DataError(BatchError, ValueError):
    """The dataset cannot be used as it is; the message names the rows."""

    exit_code = 3


class ResultError(DataError):
    """A stored result is not what its manifest says."""


class StorageError(BatchError, OSError):
    """A store did not answer, or refused: retry, or mend the access."""

    exit_code = 4


class EngineError(BatchError, RuntimeError):
    """The engine ended or failed: its own log says why."""

    exit_code = 5


class InterruptedRunError(BatchError):
    """The run was asked to end; started again it goes on where it was."""

    exit_code = 6


class IncompleteRunError(InterruptedRunError):
    """Some shards have no answers yet; started again the run answers these alone."""


class GateError(BatchError):
    """The evaluation is done, and its outcome is not one that may go on: look at the report."""

    exit_code = 7


class ServerError(BatchError):
    """Kubeflow Pipelines did not answer, or refused: retry, or mend the access."""

    exit_code = 8


class RunError(BatchError):
    """A run on Kubeflow failed, was cancelled or was skipped."""

    exit_code = 9


def first_line(error: BaseException) -> str:
    """The start of a library's message, fit for one line of ours."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300].rstrip(". ")


@contextlib.contextmanager
def exit_with_message() -> Iterator[None]:
    """End the process with one clear message and the branch's exit code instead of a traceback.

    Raises:
        SystemExit: In place of a BatchError, with its exit code.
    """
    try:
        yield
    except BatchError as error:
        message = as_message(error)
        if TERMINATION_LOG_VARIABLE not in os.environ:
            print(message, file=sys.stderr, flush=True)
        _leave_message(message)
        raise SystemExit(error.exit_code) from None


def _leave_message(message: str) -> None:
    """Write the message where Kubernetes picks up the reason why a container ended, if there is such a place."""
    path = Path(os.environ.get(TERMINATION_LOG_VARIABLE, _TERMINATION_LOG))
    with contextlib.suppress(OSError):
        if path.exists():
            path.write_text(message[:4096], encoding="utf-8", errors="replace")


def as_message(error: BatchError) -> str:
    """One line, from which `parse_message` makes the error again: of the nearest class that this module has."""
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == __name__)
    return f"{kind.__name__}: {error}"


def parse_message(message: str) -> BatchError | None:
    """The error that ended a step, from the message that `as_message` made; None if it left none."""
    kind, separator, text = message.partition(": ")
    found = globals().get(kind)
    if separator and isinstance(found, type) and issubclass(found, BatchError):
        return found(text)
    return None
