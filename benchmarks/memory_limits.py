"""Containers at random memory limits: each job ends well, or is refused before weights load; none is killed.

Run, with the images built: .venv/bin/python -m benchmarks.memory_limits --output benchmarks/results/memory_limits.json
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from kfp_llm_batch.cli.demo_dataset import write_demo_dataset
from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.images import VLLM_CPU_IMAGE
from kfp_llm_batch.machine import read_machine
from kfp_llm_batch.models.resolving import resolve_model
from kfp_llm_batch.steps import step

MIB = 2**20
SMALLEST, LARGEST = 1024, 8192
REFUSED = 2
"""Exit code of a configuration that cannot work."""
SAMPLED: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9}
"""What takes the most memory for a step's logits."""


def answer(rows: int, *, is_sampled: bool) -> None:
    """Inside the container: one job."""
    with step(""):
        write_demo_dataset(Path("rows.jsonl"), rows=rows)
        load_dataset(DatasetConfig(uri="rows.jsonl", prompt_template="{{ question }}"), Path("prompts"))
        sampling = SamplingConfig(max_tokens=16, **(SAMPLED if is_sampled else {}))
        manifest = generate(GenerationConfig(model_uri="/model", sampling=sampling), Path("prompts"), Path("result"))
    settings = manifest.engine["arguments"]
    facts = {"restarts": "engine_restarts" in manifest.timings_seconds, "rows": manifest.rows_by_status}
    print(json.dumps({**facts, "kv_cache_bytes": settings["kv_cache_memory_bytes"]["value"]}))


def run(docker: list[str], model: Path, limit_mib: int, rows: int, *, is_sampled: bool) -> dict[str, Any]:
    """One container, and how it ended."""
    with tempfile.NamedTemporaryFile(prefix="container-") as id_file:
        Path(id_file.name).unlink()
        limits = [f"--memory={limit_mib}m", f"--memory-swap={limit_mib}m", "--network=none", "--tmpfs=/tmp:mode=1777"]
        mounts = [f"--volume={model}:/model:ro", f"--volume={Path(__file__).resolve()}:/memory_limits.py:ro"]
        inside = ["python3", "/memory_limits.py", "--inside", str(rows), *(["--sampled"] if is_sampled else [])]
        command = [*docker, "run", f"--cidfile={id_file.name}", *limits, *mounts, VLLM_CPU_IMAGE, *inside]
        finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
        container = Path(id_file.name).read_text(encoding="ascii")
        Path(id_file.name).touch()  # whoever made it removes it
    state = json.loads(subprocess.check_output([*docker, "inspect", "--format={{json .State}}", container]))
    subprocess.run([*docker, "rm", container], check=True, stdout=subprocess.DEVNULL)
    found = {"limit_mib": limit_mib, "rows": rows, "is_sampled": is_sampled, "exit_code": finished.returncode}
    return {**found, "was_killed_for_memory": state["OOMKilled"], **_told(finished)}


def _told(finished: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    if finished.returncode == 0:
        return {"end": "done", **json.loads(finished.stdout.splitlines()[-1])}
    is_refusal = finished.returncode == REFUSED and "Not enough memory" in finished.stderr
    before = "Loading the model" not in finished.stderr
    return {"end": "refused" if is_refusal and before else "failed", "message": finished.stderr.strip()[-500:]}


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--docker", nargs="+", default=["docker"], help="the client, with its options")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--inside", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--sampled", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        answer(arguments.inside, is_sampled=arguments.sampled)
        return
    chosen = random.Random(arguments.seed)
    model = resolve_model("demo://smollm2-135m-instruct").folder
    results: dict[str, Any] = {"machine": read_machine().cpu_model, "seed": arguments.seed, "runs": []}
    for number in range(arguments.runs):
        limit, rows = chosen.randint(SMALLEST, LARGEST), chosen.choice((2, 32, 256))
        found = run(arguments.docker, model, limit, rows, is_sampled=chosen.random() < 0.5)
        results["runs"].append(found)
        print(f"{number + 1:>3}  {limit:>5} MiB  {rows:>3} rows  {found['end']}", flush=True)
        if arguments.output:
            arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    ends = Counter(found["end"] for found in results["runs"])
    killed = sum(found["was_killed_for_memory"] for found in results["runs"])
    print(f"{dict(ends)}, {killed} killed for memory")
    sys.exit(bool(ends["failed"] or killed))


if __name__ == "__main__":
    main()
