"""The error budget and the deadline of a generation."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.engine.faults import VARIABLE as FAULTS
from kfp_llm_batch.errors import ConfigurationError, DataError, EngineError
from kfp_llm_batch.generation.checkpoint import Checkpoint
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.generation.survey import hashed_order
from kfp_llm_batch.manifests import ResultManifest
from kfp_llm_batch.results.audit import audit_result
from kfp_llm_batch.results.publishing import publish_result


def run(prompts: Path, folder: Path, **changes: Any) -> ResultManifest:
    return generate(GenerationConfig(model_uri="echo://", **changes), prompts, folder)


def questions(good: int, empty: int) -> list[dict[str, str]]:
    return [{"question": f"question {index}"} for index in range(good)] + [{"question": " "}] * empty


@pytest.mark.parametrize(
    ("good", "empty", "rate", "is_kept"),
    [(90, 10, 0.1, True), (90, 10, 0.09, False), (5, 1, 0.1, False), (5, 0, 0.0, True), (5, 1, 0.0, False)],
    ids=["just-kept", "just-exceeded", "few-rows", "zero-kept", "zero-exceeded"],
)
def test_more_invalid_rows_than_allowed_end_the_run_before_the_model_loads(
    make_prompts, tmp_path, caplog, good, empty, rate, is_kept
):
    prompts = make_prompts(questions(good, empty))
    if is_kept:
        assert run(prompts, tmp_path / "result", max_error_rate=rate).rows_by_status["invalid"] == empty
        return
    with pytest.raises(DataError, match=rf"{empty} of {good + empty} rows have no answer .*{empty} empty_prompt"):
        run(prompts, tmp_path / "result", max_error_rate=rate)
    assert "Loading the model" not in caplog.text
    assert not (tmp_path / "result" / "manifest.json").exists()


def killing_rows(monkeypatch, texts: list[str]) -> None:
    monkeypatch.setenv(FAULTS, json.dumps({"SIGKILL": [list(text.encode()) for text in texts]}))


def test_rows_that_the_engine_does_not_answer_count_too_and_the_answered_ones_are_kept(
    make_prompts, tmp_path, monkeypatch
):
    prompts = make_prompts([*questions(6, 0), {"question": "killer"}])
    killing_rows(monkeypatch, ["killer"])
    with pytest.raises(EngineError, match=r"1 of 7 rows have no answer .*1 engine_killed, the first row '6'"):
        run(prompts, tmp_path / "result", max_error_rate=0.1, checkpoint_uri=str(tmp_path / "kept"))
    assert not (tmp_path / "result" / "manifest.json").exists()
    assert sum(table.num_rows for table in Checkpoint(str(tmp_path / "kept")).tables()) == 7
    assert run(prompts, tmp_path / "result", max_error_rate=0.2).rows_by_status["failed"] == 1


def test_a_run_whose_rows_all_failed_never_succeeds(make_prompts, tmp_path, monkeypatch):
    killing_rows(monkeypatch, ["question"])
    with pytest.raises(EngineError, match="2 of 2 rows have no answer"):
        run(make_prompts(questions(2, 0)), tmp_path / "result", max_error_rate=1.0)


def test_the_deadline_leaves_a_partial_result_that_the_next_run_goes_on_with(make_prompts, tmp_path, monkeypatch):
    prompts, output = make_prompts(questions(6_000, 0)), str(tmp_path / "output")
    monkeypatch.setenv(FAULTS, json.dumps({"delay": [[ord("q")]]}))
    partial = run(prompts, tmp_path / "one", output_uri=output, max_duration_seconds=4)
    assert partial.is_partial
    assert 0 < partial.rows_out < partial.rows_in == 6_000
    assert audit_result(str(tmp_path / "one")).problems == ()
    publish_result(tmp_path / "one", output)
    report = audit_result(output)
    assert report.problems == ()
    assert f"{partial.rows_out:,} of 6,000" in report.to_text()

    monkeypatch.delenv(FAULTS)
    whole = run(prompts, tmp_path / "two", output_uri=output)
    assert not whole.is_partial
    publish_result(tmp_path / "two", output)
    assert (audit_result(output).problems, audit_result(output).rows) == ((), 6_000)


def test_what_the_deadline_lets_through_is_the_beginning_of_a_fixed_order(make_prompts, tmp_path, monkeypatch):
    prompts = make_prompts(questions(6_000, 0))
    monkeypatch.setenv(FAULTS, json.dumps({"delay": [[ord("q")]]}))
    partial = run(prompts, tmp_path / "result", max_duration_seconds=4)
    answered = {int(row_id) for row_id in pq.read_table(tmp_path / "result/parts")["row_id"].to_pylist()}
    order = hashed_order(Prompts(prompts)).tolist()
    beginning = set(order[: partial.rows_out + 2 * 256])
    assert answered <= beginning
    assert answered >= set(order[: partial.rows_out - 2 * 256])
    assert abs(sum(answered) / len(answered) / 3_000 - 1) < 0.15


def test_a_partial_result_of_other_work_is_not_replaced(make_prompts, tmp_path, monkeypatch):
    prompts, output = make_prompts(questions(6_000, 0)), str(tmp_path / "output")
    monkeypatch.setenv(FAULTS, json.dumps({"delay": [[ord("q")]]}))
    run(prompts, tmp_path / "one", output_uri=output, max_duration_seconds=4)
    publish_result(tmp_path / "one", output)
    other = make_prompts(questions(5, 0), "other")
    with pytest.raises(ConfigurationError, match="Another result stands at the output"):
        run(other, tmp_path / "two", output_uri=output)


def test_a_deadline_that_leaves_time_changes_nothing(make_prompts, tmp_path):
    manifest = run(make_prompts(questions(300, 3)), tmp_path / "result", max_duration_seconds=600)
    assert (manifest.is_partial, manifest.rows_out) == (False, 303)
    assert audit_result(str(tmp_path / "result")).problems == ()


def test_a_deadline_before_the_first_answer_is_an_error(make_prompts, tmp_path, monkeypatch):
    monkeypatch.setenv(FAULTS, json.dumps({"hang": [[ord("q")]]}))
    with pytest.raises(ConfigurationError, match=r"before the first row was answered.*max_duration_seconds=2"):
        run(make_prompts(questions(3, 0)), tmp_path / "result", max_duration_seconds=2)


@pytest.mark.parametrize(
    "changes",
    [{"max_error_rate": 1.1}, {"max_error_rate": -0.1}, {"max_duration_seconds": -1}, {"retry_error_codes": ("a",)}],
    ids=["rate-above-1", "rate-below-0", "negative-duration", "codes-without-result"],
)
def test_limits_that_make_no_sense(changes):
    with pytest.raises(ConfigurationError):
        GenerationConfig(model_uri="echo://", **changes)
