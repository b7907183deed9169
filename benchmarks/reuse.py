r"""A table that grows by a tenth, answered twice: tokens generated, what is read, and peak memory.

Run: .venv/bin/python benchmarks/reuse.py --rows 100 --model demo://smollm2-135m-instruct \
    --output benchmarks/results/reuse.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.machine import read_machine
from kfp_llm_batch.results.audit import audit_result
from kfp_llm_batch.results.publishing import publish_result

QUESTION = "Station {0} counted {1} birds on day {2}; how many would it count in a week at this rate?"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One of the two runs."""

    folder: str
    name: str
    model: str
    rows: int
    max_tokens: int


def write_dataset(path: Path, rows: int) -> None:
    """Rows of about 120 bytes, all different; more rows begin with the same ones."""
    with path.open("w", encoding="ascii") as file:
        for row in range(rows):
            file.write(json.dumps({"question": QUESTION.format(row, row * 7 % 1009, row % 365)}) + "\n")


def answer(run: Run) -> dict[str, Any]:
    """Load, generate and audit; only the second is measured."""
    folder = Path(run.folder)
    target, output = folder / run.name, folder / f"{run.name}-output"
    target.mkdir()
    write_dataset(target / "rows.jsonl", run.rows)
    load_dataset(DatasetConfig(uri=str(target / "rows.jsonl"), prompt_template="{{ question }}"), target / "prompts")
    config = GenerationConfig(
        model_uri=run.model,
        sampling=SamplingConfig(max_tokens=run.max_tokens),
        output_uri=str(output),
        reuse_uri=str(folder / "shared"),
    )
    started = time.monotonic()
    manifest = generate(config, target / "prompts", target / "completions")
    seconds, peak = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    publish_result(target / "completions", str(output))
    if problems := audit_result(str(output)).problems:
        raise SystemExit(f"The result is damaged: {problems}")
    parts = list((folder / "shared").rglob("part-*.parquet"))
    return {
        "rows": run.rows,
        "rows_reused": manifest.reused["rows"],
        "tokens_generated": manifest.num_completion_tokens - manifest.reused["completion_tokens"],
        "seconds": round(seconds, 1),
        "peak_mib": round(peak, 1),
        "shared_parts": len(parts),
        "shared_bytes": sum(part.stat().st_size for part in parts),
    }


def in_process(run: Run) -> dict[str, Any]:
    """One run in a process of its own, for its memory."""
    command = [sys.executable, __file__, "--run", json.dumps(dataclasses.asdict(run))]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))


def benchmark(model: str, rows: int, max_tokens: int) -> dict[str, Any]:
    """Both runs."""
    with tempfile.TemporaryDirectory() as folder:
        first, second = (
            in_process(Run(folder=folder, name=name, model=model, rows=count, max_tokens=max_tokens))
            for name, count in (("first", rows), ("second", rows + rows // 10))
        )
    share = second["tokens_generated"] / first["tokens_generated"]
    print(f"{second['tokens_generated']:,} tokens after {first['tokens_generated']:,}: {share:.1%}")
    return {"model": model, "max_tokens": max_tokens, "first": first, "second": second, "share": round(share, 4)}


def main() -> None:
    """Parse the command line; results of other models and sizes stay in the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="echo://")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--run")
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(answer(Run(**json.loads(arguments.run)))))
        return
    result = benchmark(arguments.model, arguments.rows, arguments.max_tokens)
    if arguments.output:
        found = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
        found["machine"] = read_machine().cpu_model
        found[f"{arguments.model} {arguments.rows}"] = result
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
