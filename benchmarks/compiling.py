"""What compiling costs and saves: the same rows eagerly, compiled for the first time, and with the code of before.

Run: .venv/bin/python benchmarks/compiling.py --output benchmarks/results/compiling.json
"""

from __future__ import annotations

import argparse
import json
import os
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

MODEL = "demo://smollm2-135m-instruct"
MODES = {"eager": True, "compiled cold": False, "compiled warm": False}
"""Each with its `enforce_eager`; the second finds an empty cache, the third what the second has left."""


def run(folder: Path, max_tokens: int, enforce_eager: bool) -> dict[str, Any]:
    """The step generate_completions, its phases as the manifest has them."""
    config = GenerationConfig(
        model_uri=MODEL,
        sampling=SamplingConfig(max_tokens=max_tokens),
        engine_options={"enforce_eager": enforce_eager},
    )
    with tempfile.TemporaryDirectory() as result:
        manifest = generate(config, folder / "prompts", Path(result))
    seconds = manifest.timings_seconds
    tokens = manifest.num_completion_tokens
    return {"tokens": tokens, "tokens_per_second": tokens / seconds["generate"], **seconds}


def measure(folder: Path, max_tokens: int, enforce_eager: bool) -> dict[str, Any]:
    """Run one mode in a process of its own, with the cache in `folder`."""
    command = [sys.executable, __file__, "--folder", str(folder), "--max-tokens", str(max_tokens)]
    started = time.monotonic()
    environment = {**os.environ, "KFP_LLM_BATCH_CACHE": str(folder / "cache")}
    subprocess.run([*command, *(["--eager"] if enforce_eager else [])], check=True, env=environment)
    measured = json.loads((folder / "measured.json").read_text("utf-8"))
    return {**measured, "process": round(time.monotonic() - started, 1)}


def benchmark(dataset: str, rows: int, max_tokens: int) -> dict[str, Any]:
    """Measure all modes one after the other."""
    machine = read_machine()
    results: dict[str, Any] = {
        "machine": f"{machine.cpu_model}, {machine.instruction_set}, {machine.usable_cpus} threads",
        "rows": rows,
        "max_tokens": max_tokens,
        "modes": {},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        load_dataset(DatasetConfig(uri=dataset, prompt_template="{{ question }}", limit=rows), folder / "prompts")
        measure(folder, 1, enforce_eager=True)  # converts the model into the new cache
        for mode, enforce_eager in MODES.items():
            found = results["modes"][mode] = measure(folder, max_tokens, enforce_eager)
            print(
                f"{mode:<14} load {found['load']:>6.1f} s  generate {found['generate']:>6.1f} s  "
                f"{found['tokens_per_second']:>6.0f} tokens/s  process {found['process']:>6.1f} s",
                flush=True,
            )
    return results


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="../shared/data/gsm8k_test.jsonl")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--eager", action="store_true")
    arguments = parser.parse_args()
    if arguments.folder:
        measured = run(arguments.folder, arguments.max_tokens, arguments.eager)
        (arguments.folder / "measured.json").write_text(json.dumps(measured), encoding="utf-8")
        return
    results = benchmark(arguments.dataset, arguments.rows, arguments.max_tokens)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
