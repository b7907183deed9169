"""Completions become a table of scores with estimates: the echo engine answers, everything else is real."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from kfp_llm_batch.errors import ConfigurationError, DataError
from kfp_llm_batch.evaluation.config import EvaluationConfig
from kfp_llm_batch.evaluation.manifest import EvaluationManifest
from kfp_llm_batch.evaluation.score_table import ScoreTable
from kfp_llm_batch.evaluation.scoring import evaluate
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.generation.sampling import SamplingConfig

ROWS: list[dict[str, Any]] = [
    {"question": "18", "answer": "#### 18", "kind": "sum"},
    {"question": "so it is 7", "answer": "#### 8", "kind": "sum"},
    {"question": "<think>3 * 3</think>9", "answer": "#### 9", "kind": "product"},
    {"question": "none", "answer": None, "kind": None},
    {"question": "", "answer": "#### 4", "kind": "product"},
]


def completions(
    make_prompts: Any, tmp_path: Path, rows: list[dict[str, Any]] = ROWS, name: str = "a", **sampling: Any
) -> Path:
    """What the echo engine answers: the question itself."""
    folder = tmp_path / f"completions-{name}"
    config = GenerationConfig(model_uri="echo://", sampling=SamplingConfig(**sampling))
    generate(config, make_prompts(rows, name=f"prompts-{name}"), folder)
    return folder


def scored(folder: Path, scorers, **changes) -> tuple[EvaluationManifest, list[dict[str, Any]], Path]:
    scores = folder.with_name(f"{folder.name}-scores")
    config = EvaluationConfig(scorers=scorers, **{"target_column": "answer", **changes})
    manifest = evaluate(config, folder, scores)
    return manifest, pq.read_table(scores / "scores.parquet").sort_by("row_id").to_pylist(), scores


def estimate(manifest: EvaluationManifest, name: str) -> dict[str, Any]:
    (found,) = [entry for entry in manifest.metrics if entry["metric"] == name]
    return found


def test_the_table_of_scores(make_prompts, tmp_path):
    manifest, rows, folder = scored(completions(make_prompts, tmp_path), ["numeric_match", "empty"])
    assert [row["scores"]["numeric_match"] for row in rows] == [1.0, 0.0, 1.0, None, 0.0]
    assert [row["scores"]["empty"] for row in rows] == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert [row["answer"] for row in rows] == ["18", "so it is 7", "9", "none", None]
    assert [row["extracted"]["numeric_match"] for row in rows] == ["18", "7", "9", None, None]
    assert [row["target"] for row in rows] == ["#### 18", "#### 8", "#### 9", None, "#### 4"]
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "ok", "invalid"]
    assert [row["source"] for row in rows] == ROWS
    assert len({row["input_digest"] for row in rows}) == 5
    read = EvaluationManifest.from_json((folder / "manifest.json").read_bytes(), "it")
    assert read.to_json() == manifest.to_json()


def test_estimates_count_what_was_scored(make_prompts, tmp_path):
    manifest, _, _ = scored(completions(make_prompts, tmp_path), ["numeric_match", "empty", "truncation"])
    found = estimate(manifest, "numeric_match")
    assert (found["n_total"], found["n_scored"], found["value"], found["method"]) == (5, 4, 0.5, "wilson")
    assert 0 < found["low"] < 0.5 < found["high"] < 1
    assert (estimate(manifest, "empty")["n_scored"], estimate(manifest, "empty")["value"]) == (5, 0.2)
    assert (estimate(manifest, "truncation")["n_scored"], estimate(manifest, "truncation")["value"]) == (4, 0.0)
    assert manifest.result["rows_by_status"]["invalid"] == 1
    assert len(manifest.result["dataset"]["fingerprint"]) == 64


def test_rows_without_an_answer_can_be_left_out(make_prompts, tmp_path):
    folder = completions(make_prompts, tmp_path)
    manifest, rows, _ = scored(folder, ["numeric_match", "empty"], missing="exclude")
    assert [row["scores"]["numeric_match"] for row in rows] == [1.0, 0.0, 1.0, None, None]
    found = estimate(manifest, "numeric_match")
    assert (found["n_total"], found["n_scored"], found["value"]) == (5, 3, pytest.approx(2 / 3))
    assert estimate(manifest, "empty")["n_scored"] == 4


def test_scoring_again_gives_the_same_and_needs_no_engine(make_prompts, tmp_path):
    folder = completions(make_prompts, tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    first, _, scores = scored(folder, ["numeric_match", "bleu"])
    table = (scores / "scores.parquet").read_bytes()
    again, _, _ = scored(folder, ["numeric_match", "bleu"])
    assert (scores / "scores.parquet").read_bytes() == table
    assert again.metrics == first.metrics
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_metrics_of_all_rows_together(make_prompts, tmp_path):
    sentences = ["the cat sat on the mat today", "a dog ran over the blue river", "no match here at all now"]
    rows = [{"question": text, "answer": text.replace("blue", "red")} for text in sentences] * 12
    manifest, _, scores = scored(completions(make_prompts, tmp_path, rows), ["bleu", "chrf"])
    found = estimate(manifest, "bleu")
    assert found["n_scored"] == 36
    assert found["low"] < found["value"] < found["high"] < 100
    assert found["method"] == "bca"
    assert estimate(manifest, "bleu_of_rows")["value"] != found["value"]
    assert np.isnan(ScoreTable(scores / "scores.parquet").values("bleu")).all()


def test_rows_without_an_answer_count_against_metrics_of_all_rows_together(make_prompts, tmp_path):
    rows = [{"question": "yes", "answer": "yes"}, {"question": "", "answer": "no"}, {"question": "no", "answer": "no"}]
    folder = completions(make_prompts, tmp_path, rows * 20)
    wrong, _, _ = scored(folder, ["classification"])
    left_out, _, _ = scored(folder, ["classification"], missing="exclude")
    assert estimate(left_out, "macro_recall")["value"] == 1
    assert estimate(wrong, "macro_recall")["value"] == pytest.approx(0.75)
    assert estimate(wrong, "accuracy")["value"] == pytest.approx(2 / 3)
    matrix = wrong.confusion["classification"]
    assert matrix == {"classes": ["no", "yes", "(none)"], "matrix": [[20, 0, 20], [0, 20, 0], [0, 0, 0]]}
    assert wrong.scorers[0]["specification"]["classes"] == ["no", "yes"]


def test_slices_show_values_apart(make_prompts, tmp_path):
    rows = [
        {"question": str(index % 4), "answer": str(index % 2), "kind": "abc"[index % 3 % 2], "size": index}
        for index in range(120)
    ]
    folder = completions(
        make_prompts, tmp_path, [*rows, {"question": "1", "answer": "1", "kind": "rare", "size": None}]
    )
    manifest, _, _ = scored(folder, ["numeric_match"], slice_columns=["kind", "size"])
    shown = [(entry["column"], entry["value"], entry["estimates"][0]["n_total"]) for entry in manifest.slices]
    assert shown[:2] == [("kind", "a", 80), ("kind", "b", 40)]
    assert [entry[2] for entry in shown[2:]] == [30, 30, 30, 30]
    assert shown[2][1] == "0 to 29.75"
    total = sum(entry["estimates"][0]["value"] * entry["estimates"][0]["n_scored"] for entry in manifest.slices[:2])
    assert total == sum(row["question"] == row["answer"] for row in rows)


def test_numbers_that_are_none_are_a_slice_of_their_own(make_prompts, tmp_path):
    sizes = [*map(float, range(100)), *[float("nan")] * 40, float("inf"), None]
    folder = completions(make_prompts, tmp_path, [{"question": "1", "answer": "1", "size": size} for size in sizes])
    manifest, _, _ = scored(folder, ["numeric_match"], slice_columns=["size"])
    assert [entry["value"] for entry in manifest.slices].count("(none)") == 1
    assert not any("nan" in entry["value"] or "inf" in entry["value"] for entry in manifest.slices)


def test_right_answers_stand_on_the_diagonal_however_targets_are_written(make_prompts, tmp_path):
    rows = [{"question": text.lower(), "answer": text} for text in ["Positive", "NEGATIVE", "negative"]]
    scorer = {"name": "classification", "classes": ["positive", "negative"]}
    manifest, _, _ = scored(completions(make_prompts, tmp_path, rows), [scorer])
    assert manifest.confusion["classification"] == {
        "classes": ["negative", "positive", "(none)"],
        "matrix": [[2, 0, 0], [0, 1, 0], [0, 0, 0]],
    }


def test_several_right_classes_are_refused(make_prompts, tmp_path):
    folder = completions(make_prompts, tmp_path, [{"question": "a", "answer": ["a", "b"]}])
    with pytest.raises(ConfigurationError, match="Scorer classification compares with one class"):
        scored(folder, ["classification"])


def test_rows_that_hang_together_widen_the_interval(make_prompts, tmp_path):
    rows = [{"question": str(index % 40 % 3), "answer": "1", "story": index % 40} for index in range(200)]
    folder = completions(make_prompts, tmp_path, rows)
    alone = estimate(scored(folder, ["numeric_match"])[0], "numeric_match")
    together = estimate(scored(folder, ["numeric_match"], cluster_column="story")[0], "numeric_match")
    assert together["value"] == alone["value"]
    assert together["method"] == "bca"
    assert together["high"] - together["low"] > 1.8 * (alone["high"] - alone["low"])


def test_several_samples_are_averaged_within_the_row(make_prompts, tmp_path):
    folder = completions(make_prompts, tmp_path, ROWS[:2], n=3, temperature=1.0)
    manifest, rows, _ = scored(folder, ["numeric_match", {"name": "pass_at_k", "of": "numeric_match", "k": [2]}])
    assert [row["num_answers"] for row in rows] == [3, 3]
    assert estimate(manifest, "pass_at_2")["n_scored"] == 2


def test_truncated_answers_are_scored_as_they_are(make_prompts, tmp_path):
    folder = completions(make_prompts, tmp_path, max_tokens=1)
    manifest, rows, _ = scored(folder, ["truncation", "numeric_match"])
    assert rows[1]["status"] == "truncated"
    assert estimate(manifest, "truncation")["value"] > 0


def test_an_empty_result_has_no_estimates(make_prompts, tmp_path):
    columns = {"slice_columns": ["kind"], "cluster_column": "story"}
    manifest, rows, _ = scored(completions(make_prompts, tmp_path, []), ["truncation"], target_column=None, **columns)
    assert rows == []
    found = estimate(manifest, "truncation")
    assert (found["value"], found["low"], found["n_total"]) == (None, None, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_column": "anser"}, r"evaluation_target_column names a column.*Did you mean 'answer'"),
        ({"slice_columns": ["knd"]}, r"evaluation_slice_columns names a column.*Did you mean 'kind'"),
        ({"cluster_column": "story"}, r"evaluation_cluster_column names a column"),
    ],
)
def test_unknown_columns_are_refused_before_anything_is_scored(make_prompts, tmp_path, changes, message):
    folder = completions(make_prompts, tmp_path)
    with pytest.raises(ConfigurationError, match=message):
        scored(folder, ["numeric_match"], **changes)
    assert not folder.with_name(f"{folder.name}-scores").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_column": None}, r"numeric_match compares with a target.*evaluation_target_column"),
        ({"missing": "ignore"}, r"Unknown evaluation_missing"),
        ({"slice_columns": ["kind", "kind"]}, r"names a column twice"),
        ({"scorers": ["numeric"]}, r"Unknown scorer.*Did you mean 'numeric_match'"),
    ],
)
def test_the_configuration_checks_itself(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        EvaluationConfig(**{"scorers": ["numeric_match"], "target_column": "answer", **changes})


def test_what_is_no_result_is_refused(tmp_path, make_result):
    config = EvaluationConfig(scorers=["empty"])
    with pytest.raises(DataError, match="not finished"):
        evaluate(config, tmp_path, tmp_path / "scores")
    folder = make_result()
    manifest = json.loads((folder / "manifest.json").read_text()) | {"output_format": "openai"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigurationError, match=r"format cannot be scored.*output_format=parquet"):
        evaluate(config, folder, tmp_path / "scores")


@pytest.mark.parametrize("text", ["{}", "[]", '{"schema_version": 1, "kind": "evaluation"}', '{"schema_version": 2}'])
def test_what_is_no_manifest_of_an_evaluation_is_refused(text):
    with pytest.raises(DataError, match="it "):
        EvaluationManifest.from_json(text, "it")
