"""What this machine can do at most, and how far from it each job of a comparison is, phase by phase.

Run: .venv/bin/python -m benchmarks.roofline --results benchmarks/results/compare.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import medians
from kfp_llm_batch.machine import read_machine
from kfp_llm_batch.models.resolving import resolve_model

_READ_BYTES = 2 * 2**30
"""Far larger than any last-level cache."""
_REPEATS = 5
_CONCURRENT_ROWS = 256
"""Rows that share one reading of the weights: vLLM's own default. More would need fewer readings, and more cache."""
_STEP = "ours_step"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The numbers of a model that decide about its work; weights and cache in two bytes."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int

    @classmethod
    def read(cls, folder: Path) -> Shape:
        """From the model's config.json."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        heads = config["num_attention_heads"]
        return cls(
            hidden=config["hidden_size"],
            intermediate=config["intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config["num_key_value_heads"],
            head_size=config.get("head_dim") or config["hidden_size"] // heads,
            vocabulary=config["vocab_size"],
        )

    @property
    def layer_parameters(self) -> int:
        """Of all layers, without embedding and output."""
        attention = self.hidden * self.head_size * 2 * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def output_parameters(self) -> int:
        """Of the layer that yields the logits."""
        return self.hidden * self.vocabulary

    @property
    def kv_bytes(self) -> int:
        """Cache of one token."""
        return 2 * self.layers * self.kv_heads * self.head_size * 2

    @property
    def attention_flops(self) -> int:
        """For one token that looks at one other: scores and weighted sum, in all layers."""
        return 4 * self.layers * self.heads * self.head_size


def prefill_work(shape: Shape, prompts: Sequence[int], shared_prefix: int) -> tuple[float, float]:
    """Operations and bytes of reading all prompts; the common prefix is computed once, and read by all."""
    own = [length - shared_prefix for length in prompts]
    tokens = sum(own) + shared_prefix
    pairs = sum((length**2 - shared_prefix**2) / 2 for length in prompts) + shared_prefix**2 / 2
    flops = 2 * shape.layer_parameters * tokens + 2 * shape.output_parameters * len(prompts)
    weights = 2 * (shape.layer_parameters + shape.output_parameters)
    return flops + shape.attention_flops * pairs, weights + shape.kv_bytes * tokens


def decode_work(shape: Shape, prompts: Sequence[int], answers: Sequence[int]) -> tuple[float, float]:
    """Operations and bytes of all tokens after each row's first, which the prefill yields."""
    later = [max(0, tokens - 1) for tokens in answers]
    contexts = sum(count * prompt + count * (count + 1) / 2 for prompt, count in zip(prompts, later, strict=True))
    tokens = sum(later)
    steps = max(max(later, default=0), tokens / _CONCURRENT_ROWS)
    parameters = shape.layer_parameters + shape.output_parameters
    return (
        2 * parameters * tokens + shape.attention_flops * contexts,
        2 * parameters * steps + shape.kv_bytes * contexts,
    )


def measure_machine(shape: Shape) -> dict[str, Any]:
    """Read bandwidth with all threads, and the speed of bf16 products: a large one, and the model's own."""
    import torch

    torch.set_num_threads(read_machine().usable_cpus)
    with torch.inference_mode():
        data = torch.ones(_READ_BYTES // 8, dtype=torch.int64)
        gigabytes = _READ_BYTES / 1e9 / _best_seconds(data.sum)
        del data
        shapes = {
            "4096 x 4096 x 4096": (4096, 4096, 4096),
            "up, 256 rows": (256, shape.hidden, 2 * shape.intermediate),
            "down, 256 rows": (256, shape.intermediate, shape.hidden),
            "logits, 256 rows": (256, shape.hidden, shape.vocabulary),
        }
        speeds = {name: _matmul_tflops(*sizes) for name, sizes in shapes.items()}
    return {"read_gb_per_second": gigabytes, "bf16_tflops": speeds, "threads": torch.get_num_threads()}


def _matmul_tflops(rows: int, inner: int, columns: int) -> float:
    import torch

    left = torch.randn(rows, inner).to(torch.bfloat16)
    weight = torch.randn(columns, inner).to(torch.bfloat16)  # laid out as in the model
    return 2 * rows * inner * columns / 1e12 / _best_seconds(lambda: torch.nn.functional.linear(left, weight))


def _best_seconds(work: Callable[[], object]) -> float:
    work()
    return min(_seconds(work) for _ in range(_REPEATS))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def phases(results: dict[str, Any], shape: Shape, machine: dict[str, Any]) -> list[dict[str, Any]]:
    """Both phases of each job that our step ran, measured and at the limit.

    The prefill was measured by the same job with one token of answer; decoding is what the whole takes on top of it.
    """
    found = []
    for job, facts in results["jobs"].items():
        whole, prefill = medians(results, job).get(_STEP), medians(results, f"{job}-prefill").get(_STEP)
        if whole is None or prefill is None:
            continue
        prompts, answers = facts["prompt_lengths"], _answer_lengths(results, job)
        read = prefill["generate_seconds"]
        work = {
            "prefill": (prefill_work(shape, prompts, facts["shared_prefix_tokens"]), read),
            "decode": (decode_work(shape, prompts, answers), max(0.0, whole["generate_seconds"] - read)),
        }
        found += [_phase(job, name, *values, machine) for name, values in work.items()]
    return found


def _answer_lengths(results: dict[str, Any], job: str) -> list[int]:
    lengths: list[int] = next(
        run["tokens"] for run in results["runs"] if (run["job"], run["contestant"], run["error"]) == (job, _STEP, None)
    )
    return lengths


def _phase(job: str, name: str, work: tuple[float, float], measured: float, machine: dict[str, Any]) -> dict[str, Any]:
    flops, size = work
    computing = flops / 1e12 / max(machine["bf16_tflops"].values())
    reading = size / 1e9 / machine["read_gb_per_second"]
    return {
        "job": job,
        "phase": name,
        "flops": flops,
        "bytes": size,
        "bound": "arithmetic" if computing > reading else "memory",
        "limit_seconds": max(computing, reading),
        "measured_seconds": measured,
    }


def main() -> None:
    """Measure, and add the roofline to the results of a comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo://smollm2-135m-instruct")
    parser.add_argument("--results", type=Path, help="of benchmarks.compare; without it the machine alone is measured")
    arguments = parser.parse_args()
    shape = Shape.read(resolve_model(arguments.model).folder)
    machine = measure_machine(shape)
    print(json.dumps(machine, indent=1))
    if arguments.results:
        results = json.loads(arguments.results.read_text(encoding="utf-8"))
        results["roofline"] = {"machine": machine, "phases": phases(results, shape, machine)}
        arguments.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
