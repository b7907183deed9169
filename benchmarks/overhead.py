"""What durability costs: our generation step against a bare vLLM loop with the same engine settings and requests.

Both run in turns, so that a noisy machine disturbs both alike; the result is a ratio within one run.

Run: .venv/bin/python benchmarks/overhead.py --output benchmarks/results/overhead.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.generation.chat_tokenizer import ModelTokenizer
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.machine import read_machine
from kfp_llm_batch.models.resolving import resolve_model

MODEL = "demo://smollm2-135m-instruct"


def ours(folder: Path, max_tokens: int) -> dict[str, Any]:
    """The step generate_completions, with its checkpoint; the manifest tells the engine's settings."""
    config = GenerationConfig(
        model_uri=MODEL,
        sampling=SamplingConfig(max_tokens=max_tokens),
        checkpoint_uri=str(folder / "checkpoint"),
        engine_options={"engines": 1},  # the loop that it is compared with has one
    )
    manifest = generate(config, folder / "prompts", folder / "completions")
    settings = {
        kind: {name: setting["value"] for name, setting in manifest.engine[kind].items()}
        for kind in ("arguments", "environment")
    }
    seconds = manifest.timings_seconds["generate"]
    return {"tokens": manifest.num_completion_tokens, "seconds": seconds, "settings": settings}


def bare(folder: Path, max_tokens: int) -> dict[str, Any]:
    """`LLMEngine` alone: all requests are added, then it steps until they are done."""
    from vllm import SamplingParams
    from vllm.engine.arg_utils import EngineArgs
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.llm_engine import LLMEngine

    arguments = json.loads((folder / "settings.json").read_text("utf-8"))["arguments"]
    model = resolve_model(MODEL, None).folder
    tokenizer = ModelTokenizer(model)
    messages = [batch.column("messages").to_pylist() for _, batch in Prompts(folder / "prompts").batches()]
    prompts = [ids for conversations in messages for ids in tokenizer.encode(conversations)]
    engine = LLMEngine.from_vllm_config(
        EngineArgs(model=str(model), **arguments).create_engine_config(), disable_log_stats=True
    )
    started, tokens = time.monotonic(), 0
    for number, ids in enumerate(prompts):
        sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens, output_kind=RequestOutputKind.FINAL_ONLY)
        engine.add_request(str(number), {"prompt_token_ids": ids}, sampling)
    while engine.has_unfinished_requests():
        tokens += sum(len(output.outputs[0].token_ids) for output in engine.step() if output.finished)
    return {"tokens": tokens, "seconds": time.monotonic() - started}


WAYS = {"ours": ours, "bare": bare}


def measure(way: str, folder: Path, max_tokens: int, environment: dict[str, str]) -> dict[str, Any]:
    """Run one way in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for shared in ("prompts", "settings.json"):
            if (folder / shared).exists():
                (work / shared).symlink_to(folder / shared)
        command = [sys.executable, __file__, "--way", way, "--folder", name, "--max-tokens", str(max_tokens)]
        subprocess.run(command, check=True, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
        return dict(json.loads((work / "measured.json").read_text("utf-8")))


def benchmark(dataset: str, rows: int, max_tokens: int, rounds: int) -> dict[str, Any]:
    """Measure both ways in turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = DatasetConfig(uri=dataset, prompt_template="{{ question }}", limit=rows)
        load_dataset(config, folder / "prompts")
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        environment: dict[str, str] = {}
        for number in range(rounds):
            for way in WAYS:
                measured = measure(way, folder, max_tokens, environment if way == "bare" else {})
                if settings := measured.pop("settings", None):
                    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
                    environment = settings["environment"]
                measured["tokens_per_second"] = measured["tokens"] / measured["seconds"]
                found[way].append(measured)
                print(f"round {number + 1}  {way}: {measured['tokens_per_second']:,.1f} tokens/s", flush=True)
    medians = {way: statistics.median(entry["tokens_per_second"] for entry in found[way]) for way in WAYS}
    ratio = medians["ours"] / medians["bare"]
    print(f"ours / bare: {ratio:.3f}")
    machine = read_machine()
    return {
        "machine": f"{machine.cpu_model}, {machine.instruction_set}, {machine.usable_cpus} threads",
        "rows": rows,
        "max_tokens": max_tokens,
        "ratio_of_medians": ratio,
        "rounds": found,
    }


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="../shared/data/gsm8k_test.jsonl")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.way:
        measured = WAYS[arguments.way](arguments.folder, arguments.max_tokens)
        (arguments.folder / "measured.json").write_text(json.dumps(measured), encoding="utf-8")
        return
    results = benchmark(arguments.dataset, arguments.rows, arguments.max_tokens, arguments.rounds)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
