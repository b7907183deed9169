"""A whole job inside the image: `python smoke_test.py MODEL_FOLDER ROWS MAX_TOKENS`, with a folder to write in as cwd.

Loads a dataset, answers it with real vLLM, audits the result, and prints what happened as one line of JSON.
"""

import json
import os
import sys
import time
from pathlib import Path

from kfp_llm_batch.cli.demo_dataset import write_demo_dataset
from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.results.audit import audit_result
from kfp_llm_batch.steps import step

CONTROL_GROUP = Path("/sys/fs/cgroup")
START_TIME_FIELD = 19
"""Of /proc/self/stat, counted from behind the name of the program."""


def main(model: str, rows: int, max_tokens: int) -> None:
    """Run it; the exit code is the step's own."""
    with step(""):
        write_demo_dataset(Path("rows.jsonl"), rows=rows)
        load_dataset(DatasetConfig(uri="rows.jsonl", prompt_template="{{ question }}"), Path("prompts"))
        config = GenerationConfig(model_uri=model, sampling=SamplingConfig(max_tokens=max_tokens))
        manifest = generate(config, Path("prompts"), Path("result"))
        seconds = _seconds_since_start()
        report = audit_result("result")
    facts = {
        "rows": manifest.rows_by_status,
        "problems": report.problems,
        "engine": manifest.engine,
        "machine": manifest.machine,
        "timings_seconds": manifest.timings_seconds,
        "num_completion_tokens": manifest.num_completion_tokens,
        "seconds_since_process_start": seconds,
        "processor_periods": _processor_periods(),
    }
    print(json.dumps(facts, default=str))


def _seconds_since_start() -> float:
    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(after_name[START_TIME_FIELD]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def _processor_periods() -> dict[str, int]:
    """Periods of this container's quota so far, and those in which it was used up; from groups of either version."""
    for path in (CONTROL_GROUP / "cpu.stat", CONTROL_GROUP / "cpu/cpu.stat"):
        if path.exists():
            found = dict(line.split() for line in path.read_text().splitlines())
            return {name: int(found.get(name, 0)) for name in ("nr_periods", "nr_throttled")}
    return {}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
