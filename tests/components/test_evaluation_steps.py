"""The steps of an evaluation, called as Kubeflow calls them, with real artifacts and the echo engine."""

import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from kfp import dsl
from kfp_llm_batch.components import (
    compare_evaluations,
    enforce_gate,
    evaluate_completions,
    generate_completions,
    load_dataset,
    prepare_evaluation,
    summarize_evaluation,
    write_results,
)

from kfp_llm_batch import errors
from kfp_llm_batch.evaluation.baselines import BaselinePointer

ROWS = [
    {"question": str(index), "answer": str(index if index % 4 else index + 1), "kind": "ab"[index % 2]}
    for index in range(240)
]
CLASSES = [{"question": "yes" if index % 3 else "no", "answer": "yes", "kind": "a"} for index in range(40)]


@pytest.fixture(autouse=True)
def _kept_environment(monkeypatch):
    """A step sets the store's endpoint for its whole process."""
    monkeypatch.setenv("KFP_LLM_BATCH_S3_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv(errors.TERMINATION_LOG_VARIABLE, raising=False)


def answered(tmp_path: Path, name: str = "a", rows: list[dict[str, Any]] = ROWS, **parameters: Any) -> dsl.Dataset:
    """Completions of the echo engine: the question itself."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts, completions = (dsl.Dataset(uri=str(folder / kind)) for kind in ("prompts", "completions"))
    load_dataset.python_func(prompts=prompts, dataset_uri=str(folder / "rows.jsonl"), prompt_template="{{ question }}")
    generate_completions.python_func(
        prompts=prompts,
        completions=completions,
        metrics=dsl.Metrics(),
        report=dsl.Markdown(uri=str(folder / "report.md")),
        model_uri="echo://",
        **parameters,
    )
    return completions


def scored(tmp_path: Path, name: str = "a", **parameters: Any) -> dict[str, Any]:
    """The outputs of the scoring step."""
    outputs = {
        "scores": dsl.Dataset(uri=str(tmp_path / f"{name}-scores")),
        "metrics": dsl.Metrics(),
        "classification": dsl.ClassificationMetrics(),
        "report": dsl.HTML(uri=str(tmp_path / f"{name}-report.html")),
    }
    defaults = {"evaluation_scorers": ["numeric_match", "truncation"], "evaluation_target_column": "answer"}
    evaluate_completions.python_func(**outputs, **{**defaults, **parameters})
    return outputs


def compared(tmp_path: Path, scores: dsl.Dataset, name: str = "a", **parameters: Any) -> tuple[str, dict[str, Any]]:
    """The outcome and the outputs of the comparing step."""
    outputs = {
        "report": dsl.HTML(uri=str(tmp_path / f"{name}-comparison.html")),
        "summary": dsl.Markdown(uri=str(tmp_path / f"{name}-summary.md")),
        "metrics": dsl.Metrics(),
    }
    return compare_evaluations.python_func(scores=scores, **outputs, **parameters), outputs


def pointed(pointer: str) -> str:
    """The run that a baseline points to."""
    baseline = BaselinePointer(pointer).read()
    assert baseline
    return baseline.evaluation_uri


def test_scoring_shows_metrics_and_a_report(tmp_path):
    outputs = scored(tmp_path, completions=answered(tmp_path), evaluation_slice_columns=["kind"])
    metrics = outputs["metrics"].metadata
    assert (metrics["rows"], metrics["numeric_match"], metrics["numeric_match_rows_scored"]) == (240, 0.75, 240)
    assert metrics["numeric_match_low"] < 0.75 < metrics["numeric_match_high"]
    page = Path(outputs["report"].path).read_text()
    assert "numeric_match by kind" in page
    assert outputs["classification"].metadata == {}


def test_scoring_classes_shows_their_confusion(tmp_path):
    completions = answered(tmp_path, rows=CLASSES)
    outputs = scored(
        tmp_path, completions=completions, evaluation_scorers=[{"name": "classification", "classes": ["yes", "no"]}]
    )
    matrix = outputs["classification"].metadata["confusionMatrix"]
    assert [entry["displayName"] for entry in matrix["annotationSpecs"]] == ["no", "yes", "(none)"]
    assert matrix["rows"][1]["row"] == [14, 26, 0]


def test_a_stored_result_is_scored_without_generating(tmp_path):
    completions = answered(tmp_path)
    write_results.python_func(completions=completions, output_uri=str(tmp_path / "stored"))
    outputs = scored(tmp_path, result_uri=str(tmp_path / "stored"), evaluation_scorers=["exact_match"])
    assert outputs["metrics"].metadata["exact_match"] == 0.75


def test_what_is_scored_must_be_said_once(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        scored(tmp_path)
    assert ended.value.code == 2
    assert "Either completions or result_uri" in capsys.readouterr().err


def test_numbers_that_kubeflow_made_floats_are_whole_again(tmp_path):
    scorers = [{"name": "pass_at_k", "of": "numeric_match", "k": [1.0]}, {"name": "repetition", "words": 3.0}]
    outputs = scored(tmp_path, completions=answered(tmp_path), evaluation_scorers=scorers)
    assert outputs["metrics"].metadata["pass_at_1"] == 0.75


def test_a_run_becomes_the_baseline_and_the_same_again_passes(tmp_path, store_uri):
    pointer, runs = f"{store_uri}/baselines/sums.json", f"{store_uri}/runs"
    scores = scored(tmp_path, completions=answered(tmp_path))["scores"]
    shared: dict[str, Any] = {"baseline_uri": pointer, "baseline_promote": True, "history_uri": runs}
    outcome, _ = compared(tmp_path, scores, run_uri=f"{runs}/one", **shared)
    assert outcome == "no_baseline"
    assert pointed(pointer) == f"{runs}/one/evaluation"
    again = scored(tmp_path, "b", completions=answered(tmp_path, "b"))["scores"]
    outcome, outputs = compared(tmp_path, again, "b", run_uri=f"{runs}/two", **shared)
    assert outcome == "pass"
    assert pointed(pointer) == f"{runs}/two/evaluation"
    assert outputs["metrics"].metadata == {
        "numeric_match_change": 0.0,
        "truncation_change": 0.0,
        "rows_compared": 240.0,
    }
    assert "The gate passed" in Path(outputs["summary"].path).read_text()
    assert "History of numeric_match" in Path(outputs["report"].path).read_text()


def test_a_worse_run_fails_the_gate_keeps_its_report_and_is_not_promoted(tmp_path):
    pointer = str(tmp_path / "baseline.json")
    shared: dict[str, Any] = {"baseline_uri": pointer, "baseline_promote": True}
    first = scored(tmp_path, completions=answered(tmp_path))["scores"]
    compared(tmp_path, first, run_uri=str(tmp_path / "runs/one"), **shared)
    scores = scored(tmp_path, "b", completions=answered(tmp_path, "b", generation_max_tokens=1))["scores"]
    outcome, outputs = compared(tmp_path, scores, "b", run_uri=str(tmp_path / "runs/two"), **shared)
    assert outcome == "fail"
    assert pointed(pointer) == str(tmp_path / "runs/one/evaluation")
    comparison = json.loads((tmp_path / "runs/two/evaluation/comparison.json").read_text())
    assert comparison["outcome"] == "fail"
    assert "max_tokens: 256 before, 1 now" in " ".join(comparison["likeness"]["differences"])
    assert (tmp_path / "runs/two/evaluation/report.html").read_text() == Path(outputs["report"].path).read_text()
    with pytest.raises(SystemExit) as ended:
        enforce_gate.python_func(outcome=outcome, run_uri="runs/two")
    assert ended.value.code == 7


@pytest.mark.parametrize(
    ("outcome", "action", "goes_on"),
    [
        ("fail", "mark", True),
        ("inconclusive", "fail", True),
        ("inconclusive", "strict", False),
        ("pass", "strict", True),
        ("no_baseline", "strict", True),
    ],
)
def test_the_gate_ends_the_pipeline_as_it_is_told(outcome, action, goes_on):
    if goes_on:
        assert enforce_gate.python_func(outcome=outcome, gate_action=action) == outcome
        return
    with pytest.raises(SystemExit) as ended:
        enforce_gate.python_func(outcome=outcome, gate_action=action)
    assert ended.value.code == 7


def test_another_evaluation_at_the_same_place_is_not_replaced(tmp_path, capsys):
    run = str(tmp_path / "run")
    compared(tmp_path, scored(tmp_path, completions=answered(tmp_path))["scores"], run_uri=run)
    other = scored(tmp_path, "b", completions=answered(tmp_path, "b"), evaluation_scorers=["exact_match"])["scores"]
    with pytest.raises(SystemExit) as ended:
        compared(tmp_path, other, "b", run_uri=run)
    assert ended.value.code == 3
    assert "Another evaluation stands at the output" in capsys.readouterr().err


def prepared(tmp_path: Path, **parameters: Any) -> str:
    return str(prepare_evaluation.python_func(output_uri=str(tmp_path / "runs"), run_id="r1", **parameters))


def test_preparing_names_the_folder_and_leaves_nothing(tmp_path):
    assert prepared(tmp_path) == str(tmp_path / "runs/r1")
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"evaluation_target_column": "answr"}, "evaluation_target_column names a column .*Did you mean 'answer'"),
        ({"evaluation_slice_columns": ["kind", "level"]}, "evaluation_slice_columns names a column"),
        ({"evaluation_cluster_column": "doc"}, "evaluation_cluster_column names a column"),
        (
            {"evaluation_scorers": [{"name": "multiple_choice", "choices_column": "options"}]},
            "Scorer multiple_choice: choices_column names a column",
        ),
    ],
)
def test_columns_are_looked_for_before_the_generation(tmp_path, capsys, parameters, message):
    answered(tmp_path)
    given = {"evaluation_scorers": ["exact_match"], "evaluation_target_column": "answer", **parameters}
    prompts = dsl.Dataset(uri=str(tmp_path / "a/prompts"))
    with pytest.raises(SystemExit) as ended:
        prepared(tmp_path, prompts=prompts, **given)
    assert ended.value.code == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("parameters", "code", "message"),
    [
        ({"evaluation_scorers": ["exact"]}, 2, "Unknown scorer"),
        ({"evaluation_scorers": ["exact_match"]}, 2, "there is no evaluation_target_column"),
        ({"gate_margin": 2.0}, 2, "gate_margin is no share"),
        ({"gate_action": "never"}, 2, "Unknown gate_action"),
        ({"baseline_promote": True}, 2, "Set baseline_uri as well"),
        ({"baseline_uri": "s3://bucket"}, 2, "baseline_uri names no object"),
    ],
)
def test_what_would_fail_after_the_generation_fails_before_it(tmp_path, capsys, parameters, code, message):
    with pytest.raises(SystemExit) as ended:
        prepared(tmp_path, **parameters)
    assert ended.value.code == code
    assert message in capsys.readouterr().err


def test_a_baseline_whose_run_is_gone_fails_before_the_generation(tmp_path, capsys):
    scores = scored(tmp_path, completions=answered(tmp_path))["scores"]
    pointer = str(tmp_path / "baseline.json")
    compared(tmp_path, scores, run_uri=str(tmp_path / "runs/one"), baseline_uri=pointer, baseline_promote=True)
    assert prepared(tmp_path, baseline_uri=pointer)
    (tmp_path / "runs/one/evaluation/manifest.json").unlink()
    with pytest.raises(SystemExit) as ended:
        prepared(tmp_path, baseline_uri=pointer)
    assert ended.value.code == 3
    assert "There is no evaluation at" in capsys.readouterr().err


class _Receiver(http.server.BaseHTTPRequestHandler):
    received: ClassVar[list[dict[str, Any]]] = []
    code = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append(json.loads(body))
        self.send_response(self.code)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Receiver]]:
    """A server that takes summaries, named by the environment."""
    _Receiver.received, _Receiver.code = [], 200
    server = http.server.HTTPServer(("127.0.0.1", 0), _Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("KFP_LLM_BATCH_WEBHOOK_URL", f"http://127.0.0.1:{server.server_port}/secret-path")
    yield _Receiver
    server.shutdown()
    thread.join()
    server.server_close()


def ended(state: str, message: str = "") -> dsl.PipelineTaskFinalStatus:
    return dsl.PipelineTaskFinalStatus(
        state=state, pipeline_job_resource_name="job", pipeline_task_name="exit", error_code=None, error_message=message
    )


def summarized(tmp_path: Path, status: dsl.PipelineTaskFinalStatus) -> dict[str, Any]:
    runs = tmp_path / "runs"
    summarize_evaluation.python_func(output_uri=str(runs), run_id="r1", status=status)
    summary: dict[str, Any] = json.loads((runs / "r1/summary.json").read_text())
    return summary


def test_the_summary_of_a_run_that_ended_early(tmp_path):
    summary = summarized(tmp_path, ended("FAILED", "no such bucket"))
    assert (summary["state"], summary["error"], summary["outcome"], summary["metrics"]) == (
        "FAILED",
        "no such bucket",
        None,
        [],
    )


def test_the_summary_goes_to_the_webhook(tmp_path, webhook):
    scores = scored(tmp_path, completions=answered(tmp_path))["scores"]
    compared(tmp_path, scores, run_uri=str(tmp_path / "runs/r1"))
    summary = summarized(tmp_path, ended("SUCCEEDED"))
    assert summary["outcome"] == "no_baseline"
    assert summary["metrics"][0]["metric"] == "numeric_match"
    assert summary["report_uri"] == str(tmp_path / "runs/r1/evaluation/report.html")
    (received,) = webhook.received
    assert received["text"] == "Evaluation r1: no_baseline."
    assert received["metrics"] == summary["metrics"]


def test_a_webhook_that_refuses_is_an_error_without_its_address(tmp_path, webhook, capsys):
    webhook.code = 500
    with pytest.raises(SystemExit) as stopped:
        summarized(tmp_path, ended("SUCCEEDED"))
    assert stopped.value.code == 4
    assert "secret-path" not in capsys.readouterr().err
    assert (tmp_path / "runs/r1/summary.json").exists()
