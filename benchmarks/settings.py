"""What each planned setting is worth: the same rows with the plan, and with one setting changed at a time.

Run: .venv/bin/python benchmarks/settings.py --output benchmarks/results/settings.json
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
VARIANTS: dict[str, dict[str, Any]] = {
    "planned": {},
    "one engine": {"engines": 1},
    "one engine, compiled cold": {"engines": 1, "enforce_eager": False},
    "one engine, compiled warm": {"engines": 1, "enforce_eager": False},
    "compiled warm": {"enforce_eager": False},
    "without preloads": {"LD_PRELOAD": ""},
    "without binding": {"OMP_PROC_BIND": "false"},
    "block_size 64": {"block_size": 64},
    "block_size 128": {"block_size": 128},
    "max_num_batched_tokens 1024": {"max_num_batched_tokens": 1024},
    "max_num_batched_tokens 2048": {"max_num_batched_tokens": 2048},
    "max_num_batched_tokens 8192": {"max_num_batched_tokens": 8192},
    "max_num_seqs 32": {"max_num_seqs": 32},
}
"""The first that compiles finds an empty cache, the others what it has left."""


def run(folder: Path, max_tokens: int, options: dict[str, Any]) -> dict[str, Any]:
    """The step generate_completions, its phases as the manifest has them."""
    config = GenerationConfig(
        model_uri=MODEL,
        sampling=SamplingConfig(max_tokens=max_tokens),
        engine_options={"enforce_eager": True, **options},
    )
    with tempfile.TemporaryDirectory() as result:
        manifest = generate(config, folder / "prompts", Path(result))
    seconds = manifest.timings_seconds
    tokens = manifest.num_completion_tokens
    return {"tokens": tokens, "tokens_per_second": tokens / seconds["generate"], **seconds}


def measure(folder: Path, max_tokens: int, options: dict[str, Any]) -> dict[str, Any]:
    """Run one variant in a process of its own, with the cache in `folder`."""
    command = [sys.executable, __file__, "--folder", str(folder), "--max-tokens", str(max_tokens)]
    started = time.monotonic()
    environment = {**os.environ, "KFP_LLM_BATCH_CACHE": str(folder / "cache")}
    subprocess.run([*command, "--options", json.dumps(options)], check=True, env=environment)
    measured = json.loads((folder / "measured.json").read_text("utf-8"))
    return {**measured, "process": round(time.monotonic() - started, 1)}


def benchmark(dataset: str, rows: int, max_tokens: int, rounds: int, output: Path | None) -> None:
    """Measure all variants in turns; what was measured is kept when the rest is not."""
    machine = read_machine()
    results: dict[str, Any] = {
        "machine": f"{machine.cpu_model}, {machine.instruction_set}, {machine.usable_cpus} threads",
        "rows": rows,
        "max_tokens": max_tokens,
        "variants": {name: {"options": options, "runs": []} for name, options in VARIANTS.items()},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        load_dataset(DatasetConfig(uri=dataset, prompt_template="{{ question }}", limit=rows), folder / "prompts")
        measure(folder, 1, {})  # converts the model into the new cache
        for number in range(rounds):
            for variant, options in VARIANTS.items():
                if number and variant.endswith("cold"):
                    continue
                found = measure(folder, max_tokens, options)
                results["variants"][variant]["runs"].append(found)
                _print(variant, found)
                if output:
                    output.parent.mkdir(parents=True, exist_ok=True)
                    output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _print(variant: str, found: dict[str, Any]) -> None:
    print(
        f"{variant:<28} load {found['load']:>6.1f} s  generate {found['generate']:>6.1f} s  "
        f"{found['tokens_per_second']:>6.0f} tokens/s  process {found['process']:>6.1f} s",
        flush=True,
    )


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="../shared/data/gsm8k_test.jsonl")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--options", type=json.loads)
    arguments = parser.parse_args()
    if arguments.folder:
        measured = run(arguments.folder, arguments.max_tokens, arguments.options)
        (arguments.folder / "measured.json").write_text(json.dumps(measured), encoding="utf-8")
        return
    benchmark(arguments.dataset, arguments.rows, arguments.max_tokens, arguments.rounds, arguments.output)


if __name__ == "__main__":
    main()
