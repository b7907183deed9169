"""How long 50,000 rows take to be scored, compared with a baseline and reported, and how much memory that needs.

Run: .venv/bin/python -m benchmarks.evaluation_speed --output benchmarks/results/evaluation_speed.json
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import random
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kfp_llm_batch.evaluation.comparing import ComparisonConfig, compare_evaluations
from kfp_llm_batch.evaluation.config import EvaluationConfig
from kfp_llm_batch.evaluation.scoring import evaluate
from kfp_llm_batch.machine import read_machine
from kfp_llm_batch.manifests import Checksum, ResultManifest, StoredFile
from kfp_llm_batch.schemas import completions_schema

SCORERS = ("numeric_match", "token_f1", "bleu", "truncation", "repetition", "refusal", "length")
ROWS_PER_PART = 1_000
_WORDS = ("so", "the", "price", "of", "each", "box", "is", "twice", "that", "then", "she", "pays", "in", "total", "we")


def make_completions(folder: Path, rows: int, seed: int) -> None:
    """Answers of about 80 words with a number at the end, 40 of 100 of them right."""
    draw = random.Random(seed)
    fields = [pa.field(name, pa.string()) for name in ("question", "answer", "topic")]
    schema = completions_schema(fields)
    (folder / "parts").mkdir(parents=True)
    parts, keys = [], Checksum()
    for start in range(0, rows, ROWS_PER_PART):
        made = [_row(index, draw) for index in range(start, min(rows, start + ROWS_PER_PART))]
        for row in made:
            keys.add(row["row_id"], row["request_key"])
        path = folder / f"parts/part-{start // ROWS_PER_PART:05d}.parquet"
        pq.write_table(pa.Table.from_pylist(made, schema=schema), path, compression="zstd")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        parts.append(StoredFile(path=f"parts/{path.name}", rows=len(made), bytes=path.stat().st_size, sha256=digest))
    _manifest(rows, tuple(parts), keys.hexdigest()).save(folder)


def _row(index: int, draw: random.Random) -> dict[str, Any]:
    target = index % 97
    given = target if draw.random() < 0.4 else draw.randrange(97)
    text = " ".join(draw.choices(_WORDS, k=draw.randint(40, 120))) + f". #### {given}"
    row_id = f"row-{index}"
    return {
        "row_id": row_id,
        "request_key": hashlib.sha256(row_id.encode()).hexdigest(),
        "status": "ok",
        "completion": text,
        "outputs": [{"text": text, "finish_reason": "stop", "num_tokens": 100}],
        "finish_reason": "stop",
        "num_prompt_tokens": 60,
        "num_completion_tokens": len(text) // 5,
        "question": f"What is the price of {index} boxes, if {' '.join(_WORDS)}?",
        "answer": " ".join(_WORDS) + f" #### {target}",
        "topic": f"topic {index % 8}",
    }


def _manifest(rows: int, parts: tuple[StoredFile, ...], checksum: str) -> ResultManifest:
    return ResultManifest(
        created_at="2025-01-01T00:00:00+00:00",
        output_format="parquet",
        rows_in=rows,
        rows_out=rows,
        rows_by_status={"ok": rows},
        num_prompt_tokens=0,
        num_completion_tokens=0,
        keys_checksum=checksum,
        parts=parts,
        errors=(),
        dataset={"fingerprint": "f", "rows": rows, "uri": "made"},
        model={"uri": "made", "revision": None, "digest": "d"},
        sampling={},
        engine={},
        versions={},
        machine={},
    )


def measure(rows: int) -> dict[str, Any]:
    """Seconds of each step, and the most memory that this process ever had."""
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for seed, name in enumerate(("baseline", "candidate")):
            make_completions(folder / name, rows, seed)
        before_mib = _peak_mib()
        config = EvaluationConfig(scorers=SCORERS, target_column="answer", slice_columns=("topic",))
        for name in ("baseline", "candidate"):
            started = time.monotonic()
            evaluate(config, folder / name, folder / f"{name}-scores")
            seconds[f"score {name}"] = time.monotonic() - started
        pointer = str(folder / "baseline.json")
        first = ComparisonConfig(run_uri=str(folder / "runs/one"), baseline_uri=pointer, promote=True)
        compare_evaluations(first, folder / "baseline-scores")
        started = time.monotonic()
        second = dataclasses.replace(first, run_uri=str(folder / "runs/two"), history_uri=str(folder / "runs"))
        report = compare_evaluations(second, folder / "candidate-scores")
        seconds["compare and report"] = time.monotonic() - started
        html_mib = len(report.html.encode()) / 2**20
    machine = read_machine()
    return {
        "machine": f"{machine.cpu_model}, {machine.instruction_set}, {machine.usable_cpus} threads",
        "rows": rows,
        "scorers": SCORERS,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "seconds_score_and_report": round(seconds["score candidate"] + seconds["compare and report"], 2),
        "peak_mib_before": round(before_mib),
        "peak_mib": round(_peak_mib()),
        "report_mib": round(html_mib, 2),
        "outcome": report.outcome,
    }


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure, print, and write the raw result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    result = measure(options.rows)
    print(json.dumps(result, indent=2))
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
