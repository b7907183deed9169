"""The compiled pipeline `evaluation` as a user runs it: console script, kfp.local, the echo engine."""

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from kfp_llm_batch.storage.object_store import open_store

COMMAND = str(Path(sys.executable).with_name("kfp-llm-batch"))
ROWS = [
    {
        "id": f"q{index}",
        "question": f"It is {index if index % 4 else index + 1}",
        "answer": str(index),
        "kind": "ab"[index % 2],
    }
    for index in range(240)
]

Finished = subprocess.CompletedProcess[str]


def command_line(*arguments: str) -> Finished:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=300)


def run(folder: Path, **changes: Any) -> Finished:
    """One run of the job; every one below the same output, against the same baseline."""
    dataset = folder / "questions.jsonl"
    dataset.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    parameters = {
        "dataset_uri": dataset,
        "dataset_id_column": "id",
        "prompt_template": "{{ question }}",
        "model_uri": "echo://",
        "evaluation_target_column": "answer",
        "evaluation_scorers": json.dumps(["numeric_match", "truncation"]),
        "evaluation_slice_columns": json.dumps(["kind"]),
        "baseline_uri": folder / "baseline.json",
        "baseline_promote": "true",
        "output_uri": folder / "runs",
        **changes,
    }
    given = [part for name, value in parameters.items() for part in ("-p", f"{name}={value}")]
    return command_line("run", "evaluation", *given)


def summaries(folder: Path) -> list[dict[str, Any]]:
    """Of all runs, the oldest first."""
    found = [json.loads(path.read_text()) for path in (folder / "runs").glob("*/summary.json")]
    return sorted(found, key=lambda summary: str(summary["ended_at"]))


def pointed(folder: Path) -> str:
    return str(json.loads((folder / "baseline.json").read_text())["evaluation_uri"])


def test_a_baseline_then_a_worse_run(tmp_path):
    first = run(tmp_path)
    assert first.returncode == 0, first.stderr
    assert "outcome: no_baseline" in first.stdout
    assert "numeric_match: 75.0% (69.2% to 80.1%; 240 of 240 rows)" in first.stdout
    (summary,) = summaries(tmp_path)
    assert (summary["state"], summary["outcome"]) == ("SUCCEEDED", "no_baseline")
    baseline = pointed(tmp_path)
    assert baseline == f"{summary['run_uri']}/evaluation"

    worse = run(tmp_path, generation_max_tokens=2, evaluation_canary_rows=0)
    assert worse.returncode == 7, worse.stderr
    assert "GateError: The gate's outcome is fail" in worse.stderr
    assert "Traceback" not in worse.stderr
    assert pointed(tmp_path) == baseline
    last = summaries(tmp_path)[-1]
    assert last["outcome"] == "fail"
    assert last["state"] == "FAILED"
    page = Path(last["report_uri"]).read_text()
    assert "The gate failed" in page
    assert "History of numeric_match" in page
    assert len({summary["run_uri"] for summary in summaries(tmp_path)}) == 2

    promoted = command_line(
        "baseline", "promote", last["run_uri"], str(tmp_path / "baseline.json"), "--reason", "on purpose"
    )
    assert promoted.returncode == 0, promoted.stderr
    shown = command_line("baseline", "show", str(tmp_path / "baseline.json"))
    assert json.loads(shown.stdout)["reason"] == "on purpose"
    assert json.loads(shown.stdout)["previous_uri"] == baseline
    assert pointed(tmp_path) == f"{last['run_uri']}/evaluation"


@pytest.mark.store
def test_a_run_in_a_store(tmp_path, s3_uri):
    uris = {"output_uri": f"{s3_uri}/runs", "baseline_uri": f"{s3_uri}/baselines/sums.json"}
    finished = run(tmp_path, **uris)
    assert finished.returncode == 0, finished.stderr
    store = open_store(s3_uri)
    keys = [entry.key for entry in store.list()]
    assert sum(key.endswith("/evaluation/report.html") for key in keys) == 1
    assert json.loads(store.read("baselines/sums.json"))["evaluation_uri"].startswith(f"{s3_uri}/runs/")


def test_the_outside_names_are_kept():
    compiled = files("kfp_llm_batch.pipelines").joinpath("evaluation/pipeline.yaml").read_text()
    definition = next(yaml.safe_load_all(compiled))
    names = {
        *("dataset_uri", "dataset_limit", "dataset_id_column", "prompt_template", "prompt_system", "model_uri"),
        *("generation_max_tokens", "generation_temperature", "generation_n", "engine_options", "output_uri"),
        *("evaluation_target_column", "evaluation_scorers", "evaluation_slice_columns", "evaluation_cluster_column"),
        *("evaluation_missing", "evaluation_canary_rows", "baseline_uri", "baseline_promote", "gate_margin"),
        *("gate_action", "storage_secret_name", "storage_endpoint", "resources_cpu", "resources_memory"),
        "runtime_image",
    }
    assert names <= definition["root"]["inputDefinitions"]["parameters"].keys()


def test_a_wrong_scorer_is_one_message_before_anything_is_generated(tmp_path):
    finished = run(tmp_path, evaluation_scorers='["numeric"]')
    assert finished.returncode == 2
    assert "ConfigurationError: Unknown scorer. Received: 'numeric'" in finished.stderr
    (summary,) = summaries(tmp_path)
    assert summary["state"] == "FAILED"
    assert not list((tmp_path / "runs").glob("*/manifest.json"))


def test_baselines_that_are_none(tmp_path):
    missing = command_line("baseline", "show", str(tmp_path / "baseline.json"))
    assert missing.returncode == 3
    assert "There is no baseline yet" in missing.stderr
    nothing = command_line("baseline", "promote", str(tmp_path / "run"), str(tmp_path / "baseline.json"))
    assert nothing.returncode == 3
    assert "There is no evaluation at" in nothing.stderr
