"""Rows per second and peak memory of a job in shards, through echo://: splitting, answering, merging, verifying.

Run: .venv/bin/python benchmarks/sharding.py --output benchmarks/results/sharding.json
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.machine import read_machine
from kfp_llm_batch.results.audit import audit_result
from kfp_llm_batch.sharding.answering import answer_in_turn
from kfp_llm_batch.sharding.job import JobAddress
from kfp_llm_batch.sharding.merging import merge_shards
from kfp_llm_batch.sharding.preparing import JobConfig, prepare_job
from kfp_llm_batch.sharding.sizing import ShardingConfig
from kfp_llm_batch.sharding.splitting import count_buckets, write_shards

QUESTION = "Station {0} counted {1} birds on day {2}; how many would it count in a week at this rate?"


def write_dataset(path: Path, rows: int) -> None:
    """Rows of about 120 bytes, all different."""
    with path.open("w", encoding="ascii") as file:
        for row in range(rows):
            line = {"question": QUESTION.format(row, row * 7 % 1009, row % 365), "answer": row}
            file.write(json.dumps(line) + "\n")


def load(folder: Path, shards: int) -> None:
    """What split_dataset does first."""
    load_dataset(_dataset(folder), folder / "prompts")


def split(folder: Path, shards: int) -> None:
    """What it does then: both passes over the prompts."""
    prompts = Prompts(folder / "prompts")
    write_shards(prompts, count_buckets(prompts), shards, folder / "shards")


def prepare(folder: Path, shards: int) -> None:
    """The whole of split_dataset."""
    generation = GenerationConfig(model_uri="echo://", output_uri=str(folder / "output"))
    sharding = ShardingConfig(num_shards=str(shards))
    address, _ = prepare_job(JobConfig(dataset=_dataset(folder), generation=generation, sharding=sharding))
    (folder / "job").write_text(address.uri, encoding="utf-8")


def answer(folder: Path, shards: int) -> None:
    """All pods' work, one after another."""
    answer_in_turn(JobAddress.parse(_address(folder).with_shards(range(shards))), None)


def merge(folder: Path, shards: int) -> None:
    """The step merge_shards."""
    merge_shards(_address(folder))


def verify(folder: Path, shards: int) -> None:
    """The command verify."""
    if problems := audit_result(str(folder / "output")).problems:
        raise SystemExit(f"The result is damaged: {problems}")


STEPS: dict[str, Callable[[Path, int], None]] = {
    "load": load,
    "split": split,
    "prepare": prepare,
    "answer": answer,
    "merge": merge,
    "verify": verify,
}


def _dataset(folder: Path) -> DatasetConfig:
    return DatasetConfig(uri=str(folder / "rows.jsonl"), prompt_template="{{ question }}")


def _address(folder: Path) -> JobAddress:
    return JobAddress.parse((folder / "job").read_text(encoding="utf-8"))


def measure(step: str, folder: Path, shards: int) -> dict[str, float]:
    """Run one step in a process of its own."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder), "--shards", str(shards)]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))


def run_step(step: str, folder: Path, shards: int) -> None:
    """Inside that process: run the step, print its seconds, those of its processors, and its peak memory."""
    started = time.monotonic()
    STEPS[step](folder, shards)
    seconds = time.monotonic() - started
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_mib": usages[0].ru_maxrss / 1024}))


def benchmark(sizes: list[int], shards: int) -> dict[str, Any]:
    """Measure every step at every size."""
    results: dict[str, Any] = {"machine": read_machine().cpu_model, "shards": shards, "sizes": {}}
    for rows in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_dataset(folder / "rows.jsonl", rows)
            results["sizes"][rows] = {step: measure(step, folder, shards) for step in STEPS}
            bytes_of = sum(path.stat().st_size for path in (folder / "output/parts").iterdir())
            results["sizes"][rows]["output_bytes"] = bytes_of
        for step in STEPS:
            values = results["sizes"][rows][step]
            print(
                f"{rows:>9,} rows  {step:<8}  {values['peak_mib']:>6.0f} MiB  {rows / values['seconds']:>10,.0f} rows/s"
                f"  {rows / values['cpu_seconds']:>10,.0f} rows per second of a processor",
                flush=True,
            )
    return results


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 500_000])
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--step", choices=STEPS)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.step:
        run_step(arguments.step, arguments.folder, arguments.shards)
        return
    results = benchmark(arguments.sizes, arguments.shards)
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
