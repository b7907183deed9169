"""Time, peak memory and bytes of every step from a Parquet dataset to the audit, through echo://, as rows get more.

Run: .venv/bin/python benchmarks/memory.py --output benchmarks/results/memory.json
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

import pyarrow as pa
import pyarrow.parquet as pq

from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.machine import read_machine
from kfp_llm_batch.results.audit import audit_result
from kfp_llm_batch.results.publishing import publish_result

QUESTION = "Station {0} counted {1} birds on day {2}; how many would it count in a week at this rate?"


SCHEMA = pa.schema([("question", pa.string()), ("answer", pa.int64())])
ROWS_PER_GROUP = 100_000


def write_dataset(path: Path, rows: int) -> None:
    """Rows of about 100 bytes, all different."""
    with pq.ParquetWriter(path, SCHEMA) as file:
        for start in range(0, rows, ROWS_PER_GROUP):
            numbers = range(start, min(start + ROWS_PER_GROUP, rows))
            questions = [QUESTION.format(row, row * 7 % 1009, row % 365) for row in numbers]
            file.write_table(pa.table([questions, pa.array(numbers)], schema=SCHEMA))


def load(folder: Path) -> None:
    """The step load_dataset."""
    config = DatasetConfig(uri=str(folder / "rows.parquet"), prompt_template="{{ question }}")
    load_dataset(config, folder / "prompts")


def answer(folder: Path) -> None:
    """The step generate_completions, with a checkpoint."""
    config = GenerationConfig(model_uri="echo://", output_uri=str(folder / "output"))
    generate(config, folder / "prompts", folder / "completions")


def publish(folder: Path) -> None:
    """The step write_results."""
    publish_result(folder / "completions", str(folder / "output"))


def audit(folder: Path) -> None:
    """The command verify."""
    if problems := audit_result(str(folder / "output")).problems:
        raise SystemExit(f"The result is damaged: {problems}")


STEPS: dict[str, Callable[[Path], None]] = {"load": load, "generate": answer, "write": publish, "verify": audit}
WRITTEN = {"load": "prompts", "generate": "completions", "write": "output"}
"""The folder that a step fills."""


def measure(step: str, folder: Path) -> dict[str, float]:
    """Run one step in a process of its own."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))


def run_step(step: str, folder: Path) -> None:
    """Inside that process: run the step; its seconds, those of all processors, and peak resident memory."""
    started = time.monotonic()
    STEPS[step](folder)
    seconds = time.monotonic() - started
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own, largest_child = (usage.ru_maxrss / 1024 for usage in usages)
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_mib": own, "peak_child_mib": largest_child}))


def benchmark(rows: int, work: Path | None) -> dict[str, dict[str, float]]:
    """Measure every step with so many rows."""
    steps: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name)
        # In a process of its own: what this one has in memory would count as the least that each step has.
        writing = [sys.executable, __file__, "--step", "dataset", "--folder", name, "--sizes", str(rows)]
        subprocess.run(writing, check=True)
        for step in STEPS:
            measured = steps[step] = measure(step, folder)
            files = folder.joinpath(WRITTEN.get(step, "nothing")).rglob("*")
            measured["bytes_written"] = sum(path.stat().st_size for path in files if path.is_file())
            print(
                f"{rows:>10,} rows  {step:<8}  {measured['seconds']:>7.1f} s  "
                f"{rows / measured['seconds']:>9,.0f} rows/s  {rows / measured['cpu_seconds']:>9,.0f} per second of a "
                f"processor  {measured['peak_mib']:>5.0f} + {measured['peak_child_mib']:.0f} MiB  "
                f"{measured['bytes_written'] / 2**20:>6,.0f} MiB written",
                flush=True,
            )
    return steps


def summary(sizes: dict[str, dict[str, dict[str, float]]]) -> dict[str, float]:
    """What must hold: of the largest size, and of its growth from the smallest."""
    few, many = (sizes[size] for size in (min(sizes, key=int), max(sizes, key=int)))
    factor = max(map(int, sizes)) / min(map(int, sizes))
    seconds = [sum(step["seconds"] for step in steps.values()) for steps in (few, many)]
    processors = [sum(step["cpu_seconds"] for step in steps.values()) for steps in (few, many)]
    return {
        "seconds": seconds[1],
        "rows_per_second": max(map(int, sizes)) / seconds[1],
        "peak_mib": max(step["peak_mib"] + step["peak_child_mib"] for step in many.values()),
        "growth_of_seconds_to_linear": seconds[1] / seconds[0] / factor,
        "growth_of_cpu_seconds_to_linear": processors[1] / processors[0] / factor,
        "share_of_verify": many["verify"]["seconds"] / seconds[1],
    }


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--work", type=Path, help="where 10 GB are free for ten million rows; the system's choice")
    parser.add_argument("--step", choices=["dataset", *STEPS])
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.step == "dataset":
        write_dataset(arguments.folder / "rows.parquet", *arguments.sizes)
        return
    if arguments.step:
        run_step(arguments.step, arguments.folder)
        return
    sizes = {str(rows): benchmark(rows, arguments.work) for rows in arguments.sizes}
    results = {"machine": read_machine().cpu_model, "sizes": sizes, "summary": summary(sizes)}
    print(json.dumps(results["summary"], indent=2))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
