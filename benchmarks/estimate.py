"""Estimates against truth: varied jobs are estimated, run, and compared.

Run: .venv/bin/python benchmarks/estimate.py --output benchmarks/results/estimate.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.estimation.estimating import EstimateConfig, estimate
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.generation.report import PHASES
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.machine import read_machine
from kfp_llm_batch.steps import configure_logging

MODEL = "demo://smollm2-135m-instruct"


@dataclass(frozen=True, kw_only=True)
class JobShape:
    """A job by what its time depends on."""

    name: str
    rows: int
    max_tokens: int
    questions_a_row: int = 1
    rules: int = 0
    """Sentences of a system message that all rows share; about 25 tokens each."""
    probe_seconds: float = 10.0

    def conversation(self, questions: list[str]) -> list[dict[str, str]]:
        """The messages of one row."""
        rules = " ".join(
            f"Rule {number}: when a question names {number * 7} things or more, state step {number} before the result."
            for number in range(self.rules)
        )
        system = [{"role": "system", "content": rules}] if rules else []
        return [*system, {"role": "user", "content": "\n\n".join(questions)}]


JOBS = (
    JobShape(name="32 rows", rows=32, max_tokens=128),
    JobShape(name="GSM8K", rows=1319, max_tokens=128, probe_seconds=40),
    JobShape(name="shared beginning", rows=64, max_tokens=64, rules=24),
    JobShape(name="short answers", rows=256, max_tokens=16),
    JobShape(name="long prompts", rows=64, max_tokens=32, questions_a_row=4),
    JobShape(name="long answers", rows=24, max_tokens=256),
    JobShape(name="prompts alone", rows=192, max_tokens=1),
    JobShape(name="96 rows", rows=96, max_tokens=64),
    JobShape(name="shared beginning, short answers", rows=128, max_tokens=8, rules=12),
    JobShape(name="8 rows", rows=8, max_tokens=128),
)


def compare(shape: JobShape, questions: list[str], folder: Path) -> dict[str, Any]:
    """Estimate a job, run it, and say how far they are apart."""
    dataset = _dataset(shape, questions, folder)
    generation = GenerationConfig(model_uri=MODEL, sampling=SamplingConfig(max_tokens=shape.max_tokens))
    made = estimate(dataset, generation, EstimateConfig(probe_seconds=shape.probe_seconds))
    load_dataset(dataset, folder / "prompts")
    manifest = generate(generation, folder / "prompts", folder / "completions")
    truth = sum(manifest.timings_seconds.get(phase, 0.0) for phase in PHASES)
    return {
        "job": dataclasses.asdict(shape),
        "ratio": truth / made.seconds.expected,
        "is_inside": made.seconds.low <= truth <= made.seconds.high,
        "seconds": truth,
        "timings_seconds": manifest.timings_seconds,
        "completion_tokens": manifest.num_completion_tokens,
        "prompt_tokens": manifest.num_prompt_tokens,
        "estimate": made.as_dict(),
    }


def _dataset(shape: JobShape, questions: list[str], folder: Path) -> DatasetConfig:
    path, count = folder / "rows.jsonl", shape.questions_a_row
    chosen = [
        [questions[(row * count + offset) % len(questions)] for offset in range(count)] for row in range(shape.rows)
    ]
    lines = (json.dumps({"messages": shape.conversation(each)}) for each in chosen)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return DatasetConfig(uri=str(path), prompt_messages_column="messages")


def main() -> None:
    """Parse the command line; the results are written after each job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", type=Path, default=Path("../shared/data/gsm8k_test.jsonl"))
    parser.add_argument("--jobs", nargs="*", default=[shape.name for shape in JOBS])
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    configure_logging()
    questions = [json.loads(line)["question"] for line in arguments.dataset.read_text("utf-8").splitlines()]
    machine, found = read_machine(), []
    name = f"{machine.cpu_model}, {machine.instruction_set}, {machine.usable_cpus} threads"
    for shape in (shape for shape in JOBS if shape.name in arguments.jobs):
        with tempfile.TemporaryDirectory() as folder:
            found.append(compare(shape, questions, Path(folder)))
        made = found[-1]["estimate"]["seconds"]
        print(
            f"{shape.name}: {made['expected']:.1f} s ({made['low']:.1f} to {made['high']:.1f}), "
            f"truth {found[-1]['seconds']:.1f} s, ratio {found[-1]['ratio']:.2f}",
            flush=True,
        )
        results = {"machine": name, "model": MODEL, "inside": sum(job["is_inside"] for job in found), "jobs": found}
        arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
