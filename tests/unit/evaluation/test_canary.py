"""Rows that are answered twice: which, in which order, and what is said of the difference."""

from typing import Any

import pytest

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.evaluation.canary import answer_again
from kfp_llm_batch.evaluation.completion_rows import Completions
from kfp_llm_batch.evaluation.config import EvaluationConfig
from kfp_llm_batch.evaluation.report.content import ReportInput
from kfp_llm_batch.evaluation.report.page import html_report
from kfp_llm_batch.evaluation.run_folder import EvaluatedRun
from kfp_llm_batch.evaluation.scoring import evaluate
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from tests.unit.evaluation.evaluated_runs import write_completions

ROWS: list[dict[str, Any]] = [{"id": f"q{index}", "question": str(index), "answer": str(index)} for index in range(50)]
CONFIG = GenerationConfig(model_uri="echo://")


def test_a_sample_is_answered_again(make_prompts, tmp_path):
    prompts = make_prompts([*ROWS, {"id": "empty", "question": "", "answer": "1"}], id_column="id")
    first = generate(CONFIG, prompts, tmp_path / "first")
    again = answer_again(CONFIG, prompts, 20, tmp_path / "again")
    assert again.rows_out == 20
    ids = [[row.row_id for row in Completions(tmp_path / name, None).rows()] for name in ("first", "again")]
    assert set(ids[1]) < set(ids[0])
    assert again.model == first.model
    whole = answer_again(CONFIG, prompts, 1_000, tmp_path / "whole")
    assert (whole.rows_out, whole.keys_checksum) == (51, first.keys_checksum)
    assert whole.rows_by_status["invalid"] == 1


def test_no_rows_are_an_empty_result(make_prompts, tmp_path):
    prompts = make_prompts(ROWS)
    assert answer_again(CONFIG, prompts, 0, tmp_path / "again").rows_out == 0
    generate(CONFIG, prompts, tmp_path / "first")
    config = EvaluationConfig(scorers=["numeric_match"], target_column="answer")
    manifest = evaluate(config, tmp_path / "first", tmp_path / "scores", tmp_path / "again")
    assert manifest.noise == {}
    with pytest.raises(ConfigurationError, match="evaluation_canary_rows is negative"):
        answer_again(CONFIG, prompts, -1, tmp_path / "never")


def test_the_noise_floor_is_what_changed(tmp_path):
    right = [row["answer"] for row in ROWS]
    write_completions(tmp_path / "first", ROWS, right)
    others = [*ROWS[10:29], {"id": "new", "question": "new", "answer": "1"}]
    answers = ["other", f"{ROWS[11]['answer']}.0", None, *right[13:29], "1"]
    write_completions(tmp_path / "again", others, answers)
    config = EvaluationConfig(scorers=["numeric_match", "bleu", "length"], target_column="answer")
    manifest = evaluate(config, tmp_path / "first", tmp_path / "scores", tmp_path / "again")
    assert manifest.noise["rows"] == 19
    assert manifest.noise["answers_changed"] == 3
    assert manifest.noise["values_changed"]["numeric_match"] == 2
    assert manifest.noise["values_changed"]["length_characters"] == 3
    assert "bleu" not in manifest.noise["values_changed"]
    page = html_report(ReportInput(run=EvaluatedRun(tmp_path / "scores")))
    assert "of 19 rows answered again in another order 3 came out otherwise (16%, at most 38%)" in page
