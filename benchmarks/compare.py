"""The same batch work by us and by others, each in an environment of its own: ratios, a chart, raw results.

Run: .venv/bin/python -m benchmarks.compare --jobs gsm8k-256 --peers ours_step vllm_default --rounds 2
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.answers import compare_answers
from benchmarks.contestants import CONTESTANTS, REFERENCE, Contestant
from benchmarks.environments import BENCH_FOLDER, REPOSITORY, InstallationError, environment_python
from benchmarks.jobs import JOBS, JobKind, JobMaker
from benchmarks.measuring import measure
from benchmarks.peers.protocol import Job
from benchmarks.report import report
from kfp_llm_batch.machine import read_machine
from kfp_llm_batch.models.resolving import resolve_model

_PREPARE_SECONDS = 3600.0
_OWN_STEP = "ours_step"
_CHARTS = REPOSITORY / "benchmarks/charts.py"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs contestants on jobs and keeps everything that was measured."""

    model: Path
    output: Path
    timeout_seconds: float
    pythons: dict[str, Path] = field(default_factory=dict)
    """Interpreters of the contestants that are ready."""
    results: dict[str, Any] = field(default_factory=dict)
    texts: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """Answers of the last good run, by job and contestant."""

    def prepare(self, contestant: Contestant) -> None:
        """Make the environment, and convert or build what the contestant needs; a failure is a result too."""
        try:
            python = environment_python(contestant.environment)
        except InstallationError as error:
            self._exclude(contestant, f"not installed: {error}")
            return
        folder = _prepared(contestant)
        folder.mkdir(parents=True, exist_ok=True)
        command = [str(python), "-m", f"benchmarks.peers.{contestant.name}", "prepare", str(self.model), str(folder)]
        done = measure(command, _environment(contestant), _log(contestant, "prepare"), _PREPARE_SECONDS)
        if done.error:
            self._exclude(contestant, f"not prepared: {done.error}")
            return
        self.pythons[contestant.name] = python

    def _exclude(self, contestant: Contestant, reason: str) -> None:
        print(f"{contestant.name}: {reason}", flush=True)
        self.results["not_run"][contestant.name] = reason

    def run_job(self, kind: JobKind, job: Job, rounds: int, *, is_cold: bool) -> None:
        """All rounds of all contestants, in turns, so that a noisy machine disturbs all alike; round 0 is cold.

        Who has nothing in its cache yet has a cold round in any case. Who fails a job is not asked again to do it.
        """
        self.results["jobs"][kind.name] = _job_facts(job)
        ready = [CONTESTANTS[name] for name in self.pythons]
        cold = [each for each in ready if each.has_cache and (is_cold or not _cache(each).exists())]
        failed = {each.name for each in cold if not self._run(each, job, 0)}
        for number in range(1, rounds + 1):
            failed |= {each.name for each in ready if each.name not in failed and not self._run(each, job, number)}
        self.results["answers"][kind.name] = compare_answers(self.texts, kind.name, REFERENCE)
        self.save()

    def run_prefill(self, kind: JobKind, job: Job) -> None:
        """Our own step with one token of answer per row, once: the measured side of the roofline's prefill."""
        if _OWN_STEP in self.pythons:
            prefill = dataclasses.replace(job, name=kind.prefill_only().name, max_tokens=1)
            self._run(CONTESTANTS[_OWN_STEP], prefill, 1)
            self.save()

    def _run(self, contestant: Contestant, job: Job, number: int) -> bool:
        """One run, and whether it did the job; in round 0 its cache is emptied before."""
        if not number:
            shutil.rmtree(_cache(contestant), ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="kfp-llm-batch-bench-") as name:
            work = Path(name)
            job.save(work / "job.json")
            (work / "work").mkdir()
            paths = (work / "job.json", work / "result.json", work / "work", _prepared(contestant))
            command = [str(self.pythons[contestant.name]), "-m", f"benchmarks.peers.{contestant.name}", "run"]
            log = _log(contestant, f"{job.name}-{number}")
            seen = measure([*command, *map(str, paths)], _environment(contestant), log, self.timeout_seconds)
            outcome = {} if seen.error else json.loads((work / "result.json").read_text(encoding="utf-8"))
        texts = outcome.pop("texts", [])
        if not seen.error and (len(texts) != len(job.prompts) or not sum(outcome["tokens"])):
            seen = dataclasses.replace(seen, error=f"{len(texts)} of {len(job.prompts)} rows came back")
        if not seen.error:
            self.texts[job.name, contestant.name] = texts
        place = {"job": job.name, "contestant": contestant.name, "round": number, "load_average": os.getloadavg()[0]}
        self.results["runs"].append({**place, **dataclasses.asdict(seen), **outcome})
        self.save()
        told = seen.error or f"{seen.seconds:.1f} s, {sum(outcome['tokens']):,} tokens"
        print(f"{job.name}  round {number}  {contestant.name}: {told}", flush=True)
        return seen.error is None

    def save(self) -> None:
        """Write what there is, so that a run that is stopped keeps it; where it was run says nothing to others."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.output.write_text(_without_folders(json.dumps(self.results, indent=1)) + "\n", encoding="utf-8")


def _without_folders(text: str) -> str:
    return text.replace(str(REPOSITORY), ".").replace(str(Path.home()), "~")


def _prepared(contestant: Contestant) -> Path:
    return BENCH_FOLDER / "prepared" / contestant.name


def _cache(contestant: Contestant) -> Path:
    return BENCH_FOLDER / "caches" / contestant.name


def _log(contestant: Contestant, what: str) -> Path:
    folder = BENCH_FOLDER / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{contestant.name}-{what}.log"


def _environment(contestant: Contestant) -> dict[str, str]:
    """This process's, without settings of threads, and with a cache of the contestant's own; nobody calls home."""
    cache = _cache(contestant)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_", "KMP_", "VLLM_"))}
    return {
        **kept,
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONUNBUFFERED": "1",
        "XDG_CACHE_HOME": str(cache),
        "KFP_LLM_BATCH_CACHE": str(cache / "kfp-llm-batch"),
        "VLLM_CACHE_ROOT": str(cache / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "torchinductor"),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _job_facts(job: Job) -> dict[str, Any]:
    return {
        "rows": len(job.prompts),
        "max_tokens": job.max_tokens,
        "prompt_lengths": [len(ids) for ids in job.prompts],
        "shared_prefix_tokens": job.shared_prefix_tokens,
    }


def _machine_facts() -> dict[str, Any]:
    facts = read_machine().as_dict()
    return {**facts, "kernel": platform.release(), "python": platform.python_version()}


def _add_roofline(comparison: Comparison) -> None:
    command = [sys.executable, "-m", "benchmarks.roofline", "--results", str(comparison.output)]
    finished = subprocess.run(command, check=False, cwd=REPOSITORY)
    if finished.returncode == 0:
        comparison.results["roofline"] = json.loads(comparison.output.read_text(encoding="utf-8"))["roofline"]


def _draw(output: Path) -> None:
    try:
        subprocess.run([str(environment_python("charts")), str(_CHARTS), str(output)], check=True)
    except (InstallationError, subprocess.CalledProcessError) as error:
        print(f"No chart: {error}")


def _new_results(model: str) -> dict[str, Any]:
    return {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine_facts(),
        "model": model,
        "reference": REFERENCE,
        "notes": {contestant.name: contestant.note for contestant in CONTESTANTS.values()},
        "jobs": {},
        "not_run": {},
        "runs": [],
        "answers": {},
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--peers", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--rounds", type=int, default=2, help="with warm caches; the cold round comes on top")
    parser.add_argument("--rows", type=int, help="at most so many rows in each job, to try the harness")
    parser.add_argument("--dataset", type=Path, default=REPOSITORY.parent / "shared/data/gsm8k_test.jsonl")
    parser.add_argument("--model", default="demo://smollm2-135m-instruct")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for one run")
    parser.add_argument("--output", type=Path, help="JSON; table and charts stand beside it")
    parser.add_argument("--no-cold", action="store_true", help="no rounds with emptied caches")
    parser.add_argument("--no-roofline", action="store_true")
    return parser.parse_args()


def _selected(arguments: argparse.Namespace) -> Iterator[tuple[JobKind, Job]]:
    threads = read_machine().usable_cpus
    model = resolve_model(arguments.model).folder
    with tempfile.TemporaryDirectory(prefix="kfp-llm-batch-bench-") as folder:
        maker = JobMaker(dataset=arguments.dataset, model=model, threads=threads, folder=Path(folder))
        for name in arguments.jobs:
            yield JOBS[name], maker.make(JOBS[name], arguments.rows)


def main() -> None:
    """Run everything that the command line asks for."""
    arguments = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the peer that runs is ended too
    default = REPOSITORY / "benchmarks/results" / f"compare-{datetime.now(UTC):%Y-%m-%d}.json"
    output = (arguments.output or default).absolute()
    model = resolve_model(arguments.model).folder
    comparison = Comparison(
        model=model, output=output, timeout_seconds=arguments.timeout, results=_new_results(arguments.model)
    )
    for name in arguments.peers:
        comparison.prepare(CONTESTANTS[name])
    for kind, job in _selected(arguments):
        comparison.run_job(kind, job, arguments.rounds, is_cold=kind.is_cold and not arguments.no_cold)
        if not arguments.no_roofline:
            comparison.run_prefill(kind, job)
    if not arguments.no_roofline:
        _add_roofline(comparison)
    text = _without_folders(report(comparison.results))
    print(text)
    output.with_suffix(".md").write_text(text, encoding="utf-8")
    _draw(output)


if __name__ == "__main__":
    main()
