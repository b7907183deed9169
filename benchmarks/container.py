"""What the image costs: the same job in a container of `vllm-cpu` and in this environment, in turns.

A job of one answer of one token gives the time from the process's start to its first token, with warm file caches; one
of many rows gives tokens a second. A third way limits the container to 1.5 processors, and says how often that held it
up. The result is a ratio within one run.

Run: .venv/bin/python -m benchmarks.container --output benchmarks/results/container.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from kfp_llm_batch.machine import read_machine
from kfp_llm_batch.models.resolving import resolve_model
from tests.images.docker_images import IMAGES, LOCKED_DOWN, ROOT

SMOKE_TEST = ROOT / "images/vllm-cpu/smoke_test.py"
QUOTA = "1.5"
Job = tuple[int, int]
"""Rows, and tokens of each answer at most."""
_FIRST_TOKEN: Job = (2, 1)
"""One of the demo's first two rows has no question, and no answer."""
Run = Callable[[Path, Job], dict[str, Any]]


def bare(model: Path, job: Job) -> dict[str, Any]:
    """In this environment."""
    with tempfile.TemporaryDirectory() as folder:
        return _facts([sys.executable, str(SMOKE_TEST), str(model), *map(str, job)], folder)


def container(model: Path, job: Job, *limits: str) -> dict[str, Any]:
    """In the image, under the restrictions of a strict cluster."""
    found = subprocess.run([ROOT / "images/docker"], capture_output=True, text=True, check=True)
    mounts = (f"--volume={model}:/model:ro", f"--volume={SMOKE_TEST}:/smoke_test.py:ro")
    command = [found.stdout.strip(), "run", "--rm", *LOCKED_DOWN, *limits, *mounts, IMAGES["vllm-cpu"]]
    return _facts([*command, "python3", "/smoke_test.py", "/model", *map(str, job)], None)


def with_quota(model: Path, job: Job) -> dict[str, Any]:
    """In the image, with 1.5 processors and 3 GiB."""
    return container(model, job, f"--cpus={QUOTA}", "--memory=3g", "--memory-swap=3g")


WAYS: dict[str, Run] = {"bare": bare, "container": container, "container with a quota": with_quota}


def benchmark(model: Path, rows: int, max_tokens: int, rounds: int) -> dict[str, Any]:
    """Measure all ways in turns, after one round that warms the caches of files and is not counted."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        for way, run in WAYS.items():
            measured = {
                "first_token_seconds": run(model, _FIRST_TOKEN)["seconds_since_process_start"],
                **_throughput(run(model, (rows, max_tokens))),
            }
            print(f"round {number}  {way}: {measured}", flush=True)
            if number:
                found[way].append(measured)
    return {
        "machine": _machine(),
        "rows": rows,
        "max_tokens": max_tokens,
        "container_to_bare": {
            name: _median(found["container"], name) / _median(found["bare"], name)
            for name in ("first_token_seconds", "tokens_per_second")
        },
        "throttled_share_of_periods": _median(found["container with a quota"], "throttled_share"),
        "rounds": found,
    }


def _throughput(facts: dict[str, Any]) -> dict[str, Any]:
    periods = facts["processor_periods"].get("nr_periods", 0)
    share = facts["processor_periods"]["nr_throttled"] / periods if periods else None
    return {
        "tokens_per_second": facts["num_completion_tokens"] / facts["timings_seconds"]["generate"],
        "load_seconds": facts["timings_seconds"]["load"],
        "throttled_share": share,
    }


def _facts(command: list[str], folder: str | None) -> dict[str, Any]:
    finished = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    facts: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return facts


def _readable_by_all(model: Path, copy: Path) -> Path:
    """The container's user is nobody here."""
    shutil.copytree(model, copy)
    for path in copy.iterdir():
        path.chmod(0o644)
    return copy


def _median(rounds: list[dict[str, Any]], name: str) -> float:
    return float(median(entry[name] for entry in rounds))


def _machine() -> str:
    machine = read_machine()
    return f"{machine.cpu_model}, {machine.instruction_set}, {machine.usable_cpus} threads"


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        model = _readable_by_all(resolve_model("demo://smollm2-135m-instruct").folder, Path(folder) / "model")
        results = benchmark(model, arguments.rows, arguments.max_tokens, arguments.rounds)
    print(json.dumps({name: results[name] for name in ("container_to_bare", "throttled_share_of_periods")}))
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
