"""Real vLLM: four shards through kfp.local against one."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from kfp_llm_batch.cli.demo_dataset import write_demo_dataset

pytestmark = [pytest.mark.endurance, pytest.mark.timeout(3600)]

COMMAND = str(Path(sys.executable).with_name("kfp-llm-batch"))


def answers(folder: Path) -> dict[str, tuple[str, str | None]]:
    """Key and answer of each row."""
    parts = json.loads((folder / "manifest.json").read_text())["parts"]
    rows = [row for part in parts for row in pq.read_table(folder / part["path"]).to_pylist()]
    return {row["row_id"]: (row["request_key"], row["completion"]) for row in rows}


def test_four_shards_answer_as_one_does(tmp_path):
    dataset = tmp_path / "questions.jsonl"
    write_demo_dataset(dataset)
    found = []
    for shards in (1, 4):
        output = tmp_path / f"output-{shards}"
        parameters = {
            "dataset_uri": dataset,
            "prompt_template": "{{ question }}",
            "generation_max_tokens": 32,
            "output_uri": output,
            "num_shards": shards,
        }
        options = [part for name, value in parameters.items() for part in ("-p", f"{name}={value}")]
        subprocess.run([COMMAND, "run", "sharded_batch_inference", *options], check=True)
        subprocess.run([COMMAND, "verify", str(output), "--dataset", str(dataset)], check=True)
        found.append(answers(output))
    one, four = found
    assert {row: key for row, (key, _) in one.items()} == {row: key for row, (key, _) in four.items()}
    same = sum(one[row] == four[row] for row in one)
    print(f"{same} of {len(one)} answers are the same.")
    assert same >= 0.95 * len(one)
