"""Samples in the forms in which lm-evaluation-harness logs them."""

import json
import math

import numpy as np
import pytest

from kfp_llm_batch.errors import DataError
from kfp_llm_batch.evaluation.comparing import ComparisonConfig
from kfp_llm_batch.evaluation.config import EvaluationConfig
from kfp_llm_batch.evaluation.harness_runs import publish_samples, samples_file
from kfp_llm_batch.evaluation.harness_samples import import_samples
from kfp_llm_batch.evaluation.run_folder import EvaluatedRun
from kfp_llm_batch.evaluation.scoring import evaluate
from kfp_llm_batch.results.audit import audit_result

FILE = "samples_gsm8k_2025-01-01T00-00-00.000001.jsonl"


def generated(doc_id, answer, scores, **changes):
    """A line of a task that generates."""
    return {
        "doc_id": doc_id,
        "doc": {"question": f"What is {doc_id}?", "answer": f"#### {doc_id}"},
        "target": f"#### {doc_id}",
        "arguments": {"gen_args_0": {"arg_0": f"Q: What is {doc_id}?\nA:", "arg_1": {"until": ["Q:"]}}},
        "resps": [[answer]],
        "filtered_resps": [answer],
        "filter": "none",
        "metrics": list(scores),
        "doc_hash": "d",
        "prompt_hash": "p",
        "target_hash": "t",
        **scores,
        **changes,
    }


def written(folder, lines):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / FILE


def scored(tmp_path, lines):
    scorer = import_samples(written(tmp_path / "org__model", lines), tmp_path / "completions")
    config = EvaluationConfig(scorers=[scorer], target_column="target")
    evaluate(config, tmp_path / "completions", tmp_path / "scores")
    return scorer, EvaluatedRun(tmp_path / "scores")


def test_answers_and_scores_are_taken_over(tmp_path):
    lines = [generated(index, f"A {index}", {"exact_match": float(index % 2)}) for index in range(10)]
    scorer, run = scored(tmp_path, lines)
    assert run.table.values("exact_match").tolist() == [0.0, 1.0] * 5
    assert run.table.column("row_id").to_pylist() == [str(index) for index in range(10)]
    assert run.table.column("answer").to_pylist()[3] == "A 3"
    assert run.table.source("question").to_pylist()[3] == "Q: What is 3?\nA:"
    assert run.manifest.result["model"]["uri"] == "org__model"
    assert run.manifest.result["dataset"]["uri"] == "lm-evaluation-harness: gsm8k"
    assert scorer == {"name": "recorded", "names": ["exact_match"], "points": []}
    assert audit_result(str(tmp_path / "completions")).ok


def test_filters_of_a_row_are_metrics_of_it(tmp_path):
    lines = [
        generated(index, "A", {"exact_match": value}, filter=name)
        for name, value in (("strict-match", 0.0), ("flexible-extract", 1.0))
        for index in range(3)
    ]
    _, run = scored(tmp_path, lines)
    assert run.manifest.rows == 3
    assert run.table.values("exact_match_strict_match").tolist() == [0.0] * 3
    assert run.table.values("exact_match_flexible_extract").tolist() == [1.0] * 3


def test_choices_samples_points_and_lines_of_older_versions(tmp_path):
    choice = generated(0, "", {}, resps=[[[-1.5, False]], [[-0.5, True]]], filtered_resps=[[-1.5, False], [-0.5, True]])
    choice |= {"arguments": [["Q", " a"], ["Q", " b"]], "acc": 1, "bleu": 42.5, "loglikelihood": -7.0, "pair": [1, 2]}
    del choice["metrics"]
    several = generated(1, "", {"acc": True}, resps=[["x", "y"]], target=3)
    _, run = scored(tmp_path, [choice, several])
    assert run.table.values("acc").tolist() == [1.0, 1.0]
    assert np.isnan(run.table.values("bleu")).tolist() == [False, True]
    assert [entry["metric"] for entry in run.manifest.metrics] == ["acc", "bleu"]
    assert run.table.column("answer").to_pylist() == ["[[-1.5, false], [-0.5, true]]", "x"]
    assert run.table.column("num_answers").to_pylist() == [1, 2]
    assert run.table.column("target").to_pylist()[1] == "3"


def test_two_models_are_compared_on_the_same_rows(tmp_path, store_uri):
    pointer = f"{store_uri}/baseline.json"

    def published(name, wrong):
        lines = [generated(index, "A", {"exact_match": float(index >= wrong)}) for index in range(300)]
        config = ComparisonConfig(baseline_uri=pointer, promote=True, run_uri=f"{store_uri}/{name}")
        return publish_samples(written(tmp_path / name, lines), config, None)

    assert published("first", 30) == "no_baseline"
    assert published("same", 30) == "pass"
    assert published("worse", 80) == "fail"


def test_numbers_that_are_none_are_left_out(tmp_path):
    lines = [generated(index, "A", {"acc": math.nan if index == 1 else 1.0}) for index in range(3)]
    _, run = scored(tmp_path, lines)
    assert run.manifest.metrics[0]["n_scored"] == 2
    assert run.manifest.metrics[0]["value"] == 1.0


def test_samples_are_found_in_their_folder(tmp_path):
    with pytest.raises(DataError, match=r"no file with samples"):
        samples_file(tmp_path)
    path = written(tmp_path / "out/org__model", [generated(0, "A", {"acc": 1.0})])
    assert samples_file(tmp_path / "out") == samples_file(path) == path
    written(tmp_path / "out/org__other", [generated(0, "A", {"acc": 1.0})])
    with pytest.raises(DataError, match=r"2 files with samples.*org__model.*Name one of them"):
        samples_file(tmp_path / "out")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no samples"),
        ([{"doc_id": 1}], "Line 1 of .* is no sample"),
        ([[1]], "Line 1 of .* is no sample"),
        ([generated(0, "a", {"perplexity": 700.0})], "No metric of the samples"),
    ],
)
def test_what_are_no_samples_is_refused(tmp_path, lines, message):
    with pytest.raises(DataError, match=message):
        import_samples(written(tmp_path, lines), tmp_path / "completions")
