"""What a hundred million rows would take by the rates in benchmarks/results: tables of docs/scale.md.

Run: .venv/bin/python benchmarks/scale_arithmetic.py
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from kfp_llm_batch.engine.compiling import eager_seconds
from kfp_llm_batch.generation.parts import ROWS_PER_PART
from kfp_llm_batch.sharding.uploading import FILE_BYTES

RESULTS = Path(__file__).parent / "results"
MANIFEST_BYTES_PER_FILE = 260
"""An entry of the result's manifest, indented."""
KEYS_PER_LISTING = 1_000
ROW_ID_BYTES = 8
"""What finding duplicates keeps of each row, in split_dataset with dataset_id_column and in verify."""
BUCKET_BYTES = 2**20
MODELS = {"0.1B": 0.135e9, "1B": 1e9, "8B": 8e9, "70B": 70e9}
PROMPT_TOKENS, ANSWER_TOKENS = 200, 128
POD_CPUS = 16
INSTRUCTION_SET = "AVX512-BF16"
HOURS = 10


Sizes = dict[str, dict[str, Any]]
"""What was measured, by the number of rows."""


def hours(rows: int, sizes: Sizes, step: str) -> float:
    """Processor hours of a step by its rate at the largest size."""
    measured_rows = max(sizes, key=int)
    return float(rows / int(measured_rows) * sizes[measured_rows][step]["cpu_seconds"] / 3600)


def data_table(rows: int, shards: int, whole: Sizes, sharded: Sizes) -> list[str]:
    """What the path of the data takes, whatever the model; `whole` was measured without shards."""
    measured_rows = max(sharded, key=int)
    output_bytes = rows / int(measured_rows) * sharded[measured_rows]["output_bytes"]
    parts = shards * math.ceil(output_bytes / shards / FILE_BYTES)
    lines = {
        "`split_dataset`: rendering, on all processors": f"{hours(rows, whole, 'load'):.1f} processor hours",
        "`split_dataset`: dealing out, one process": f"{hours(rows, sharded, 'split'):.1f} h",
        "pods: reading, checking and writing rows, in all": f"{hours(rows, sharded, 'answer'):.1f} processor hours",
        "`verify`, one process": f"{hours(rows, whole, 'verify'):.1f} h",
        "result": f"{output_bytes / 2**30:.0f} GiB in {parts:,} parts",
        "objects beside it while the run goes on": f"{2 * shards + 1:,}, and checkpoint parts",
        "checkpoint parts, written and removed": f"{rows // ROWS_PER_PART:,} at least",
        "requests of the merge": f"{shards:,} reads, {2 * math.ceil(parts / KEYS_PER_LISTING)} listings, 1 write",
        "the result's manifest": f"{parts * MANIFEST_BYTES_PER_FILE / 2**20:.1f} MiB",
        "the same of one pod": f"{rows // ROWS_PER_PART * MANIFEST_BYTES_PER_FILE / 2**20:.1f} MiB",
        "memory of `split_dataset` that grows with the rows": f"{rows * ROW_ID_BYTES / 2**20:,.0f} MiB",
        "memory for dealing rows out": f"{BUCKET_BYTES / 2**20:.0f} MiB",
        "memory of `verify` that grows with the rows": f"{rows * ROW_ID_BYTES / 2**20:,.0f} MiB",
    }
    return [f"| what, for {rows:,} rows in {shards:,} shards | |", "|---|---|"] + [
        f"| {name} | {value} |" for name, value in lines.items()
    ]


def model_table(rows: int) -> list[str]:
    """Pods and hours by the model's size."""
    tokens = rows * (PROMPT_TOKENS + ANSWER_TOKENS)
    lines = ["| parameters | tokens/s of a pod | processor hours | pods for 10 hours |", "|---|---|---|---|"]
    for name, parameters in MODELS.items():
        seconds = eager_seconds(tokens * 2 * parameters, INSTRUCTION_SET, POD_CPUS)
        lines.append(
            f"| {name} | {tokens / seconds:,.0f} | {seconds * POD_CPUS / 3600:,.0f} | "
            f"{math.ceil(seconds / 3600 / HOURS):,} |"
        )
    return lines


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--shards", type=int, default=1_000)
    arguments = parser.parse_args()
    whole, sharded = (
        json.loads((RESULTS / name).read_text("utf-8"))["sizes"] for name in ("memory.json", "sharding.json")
    )
    print("\n".join([*data_table(arguments.rows, arguments.shards, whole, sharded), ""]))
    print("\n".join(model_table(arguments.rows)))


if __name__ == "__main__":
    main()
