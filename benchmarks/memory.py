"""Peak memory and rows per second of every step at two dataset sizes, through echo://.

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
from typing import Any

from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.machine import read_machine
from kfp_llm_batch.results.audit import audit_result
from kfp_llm_batch.results.publishing import publish_result

QUESTION = "Station {0} counted {1} birds on day {2}; how many would it count in a week at this rate?"


def write_dataset(path: Path, rows: int) -> None:
    """Rows of about 120 bytes, all different."""
    with path.open("w", encoding="ascii") as file:
        for row in range(rows):
            line = {"question": QUESTION.format(row, row * 7 % 1009, row % 365), "answer": row}
            file.write(json.dumps(line) + "\n")


def load(folder: Path) -> None:
    """The step load_dataset."""
    config = DatasetConfig(uri=str(folder / "rows.jsonl"), prompt_template="{{ question }}")
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


def measure(step: str, folder: Path) -> dict[str, float]:
    """Run one step in a process of its own."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))


def run_step(step: str, folder: Path) -> None:
    """Inside that process: run the step, print seconds and peak resident memory of it and of its children."""
    started = time.monotonic()
    STEPS[step](folder)
    seconds = time.monotonic() - started
    own, children = (
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(json.dumps({"seconds": seconds, "peak_mib": own, "peak_child_mib": children}))


def benchmark(sizes: list[int]) -> dict[str, Any]:
    """Measure every step at every size."""
    results: dict[str, Any] = {"machine": read_machine().cpu_model, "sizes": {}}
    for rows in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_dataset(folder / "rows.jsonl", rows)
            results["sizes"][rows] = {step: measure(step, folder) for step in STEPS}
        for step, values in results["sizes"][rows].items():
            speed = rows / values["seconds"]
            print(f"{rows:>9,} rows  {step:<8}  {values['peak_mib']:>6.0f} MiB  {speed:>9,.0f} rows/s", flush=True)
    return results


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 1_000_000])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--step", choices=STEPS)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.step:
        run_step(arguments.step, arguments.folder)
        return
    results = benchmark(arguments.sizes)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
