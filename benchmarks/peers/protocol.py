"""What each peer is given and gives back. Standard library alone: every peer runs in an environment of its own.

python -m benchmarks.peers.<peer> prepare MODEL FOLDER      once, not counted
python -m benchmarks.peers.<peer> run JOB RESULT WORK PREPARED
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

_STARTED = time.monotonic()

Message = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Job:
    """The rows of one job, rendered and tokenized once for all."""

    name: str
    model: str
    """Folder with bf16 safetensors, tokenizer and chat template."""
    messages: list[list[Message]]
    prompts: list[list[int]]
    """Token ids of each conversation."""
    max_tokens: int
    shared_prefix_tokens: int
    """Beginning that all prompts have in common on purpose; 0 if there is none."""
    context_tokens: int
    threads: int
    dataset: str
    """JSON lines with the columns `id` and `messages`."""
    prompts_folder: str
    """What our own step load_dataset makes of them."""

    def save(self, path: Path) -> None:
        """Write it for the peers."""
        path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a peer measured itself; the whole process is measured from outside."""

    versions: dict[str, str]
    settings: dict[str, Any]
    """All that differs from the peer's defaults, and its threads."""
    load_seconds: float
    """From the start of the interpreter until the first request could be taken."""
    generate_seconds: float
    first_row_seconds: float
    """Until the caller had the first finished row; the whole for peers that give all rows at once."""
    prompt_tokens: int
    tokens: list[int]
    """Of each row's answer, the one that ended it included where the peer tells."""
    texts: list[str]


Run = Callable[[Job, Path, Path], Outcome]
"""Takes the job, an empty folder for this run, and the folder that `prepare` filled."""
Prepare = Callable[[Path, Path], None]
"""Takes the model's folder and one to fill."""


def since_start() -> float:
    """Seconds since this module was imported, the first thing that a peer does."""
    return time.monotonic() - _STARTED


def versions_of(*distributions: str) -> dict[str, str]:
    """Installed versions."""
    return {name: version(name) for name in distributions}


def serve(run: Run, prepare: Prepare | None = None) -> None:
    """Entry point of every peer."""
    command, *rest = sys.argv[1:]
    if command == "prepare":
        if prepare:
            prepare(Path(rest[0]), Path(rest[1]))
        return
    job_path, result_path, work, prepared = (Path(argument) for argument in rest)
    outcome = run(Job(**json.loads(job_path.read_text(encoding="utf-8"))), work, prepared)
    result_path.write_text(json.dumps(dataclasses.asdict(outcome)), encoding="utf-8")
