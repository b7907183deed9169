"""Runs of odd shapes all the way: scored, compared, reported; right results, or one clear error."""

import json

import pytest

from kfp_llm_batch.errors import ConfigurationError, DataError
from kfp_llm_batch.evaluation.comparing import ComparisonConfig, compare_evaluations
from kfp_llm_batch.evaluation.comparison import compare_runs
from kfp_llm_batch.evaluation.gate import GateConfig
from kfp_llm_batch.evaluation.report.content import ReportInput
from kfp_llm_batch.evaluation.report.markdown import markdown_report
from kfp_llm_batch.evaluation.report.page import html_report
from tests.unit.evaluation.evaluated_runs import evaluated

SCORERS = ["numeric_match", "token_f1", "truncation", "length"]
ROWS = [{"id": str(index), "question": "q", "answer": str(index)} for index in range(60)]
RIGHT = [row["answer"] for row in ROWS]


@pytest.mark.parametrize(
    ("targets", "kind"),
    [([{"value": 1}, {"value": 2}], "struct"), ([b"1", b"2"], "binary"), ([[[1]], [[2]]], "list")],
)
def test_targets_that_no_scorer_reads_are_refused(tmp_path, targets, kind):
    sources = [{"id": str(index), "answer": target} for index, target in enumerate(targets)]
    with pytest.raises(ConfigurationError, match=f"numeric_match cannot compare.*answer: {kind}"):
        evaluated(tmp_path, sources, ["1", "2"])


def test_objects_are_targets_of_fields_of_json(tmp_path):
    sources = [{"id": "1", "answer": {"city": "Rome"}}]
    run = evaluated(tmp_path, sources, ['{"city": "Rome"}'], scorers=["json_fields", "truncation"])
    assert run.table.values("json_fields").tolist() == [1.0]


@pytest.mark.parametrize(
    ("targets", "answers", "scores"),
    [
        ([1, 2, None], ["1", "3", "4"], [1.0, 0.0, None]),
        ([1.0, 2.5, None], ["1", "2.50", "4"], [1.0, 1.0, None]),
        ([["1", "one"], ["2"], []], ["1", "3", "4"], [1.0, 0.0, None]),
        ([[1, 2], None, [None]], ["2", "3", "4"], [1.0, None, None]),
    ],
)
def test_targets_of_other_types_and_none_at_all(tmp_path, targets, answers, scores):
    sources = [{"id": str(index), "answer": target} for index, target in enumerate(targets)]
    run = evaluated(tmp_path, sources, answers)
    assert run.table.column("scores.numeric_match").to_pylist() == scores
    assert run.manifest.metrics[0]["n_scored"] == sum(score is not None for score in scores)
    assert run.manifest.metrics[0]["n_total"] == 3


def test_truth_values_are_targets(tmp_path):
    sources = [{"id": "1", "answer": True}, {"id": "2", "answer": False}]
    run = evaluated(tmp_path, sources, ["True", "true"], scorers=["normalized_match"])
    assert run.table.values("normalized_match").tolist() == [1.0, 0.0]


def test_rows_with_the_same_identity_are_refused(tmp_path):
    sources = [{"id": name, "answer": "1"} for name in ("a", "b", "a")]
    with pytest.raises(DataError, match=r"same row_id.*3 rows, 2 different ids"):
        evaluated(tmp_path, sources, ["1", "1", "1"])
    assert not (tmp_path / "scores" / "manifest.json").exists()


@pytest.mark.parametrize("rows", [1, 2])
def test_a_run_of_hardly_any_rows_is_compared_and_reported(tmp_path, rows):
    options = {"scorers": SCORERS, "slice_columns": ["question"]}
    run = evaluated(tmp_path / "a", ROWS[:rows], ["wrong"] * rows, **options)
    baseline = evaluated(tmp_path / "b", ROWS[:rows], RIGHT[:rows], **options)
    comparison = compare_runs(run, baseline, GateConfig())
    assert comparison.decision.outcome == "inconclusive"
    given = ReportInput(run=run, comparison=comparison, baseline=baseline)
    assert "The gate could not decide" in html_report(given)
    assert "| numeric&#95;match | 0.0% |" in markdown_report(given)


def test_runs_without_rows_are_compared_and_reported(tmp_path):
    run, baseline = (evaluated(tmp_path / name, ROWS[:1], [None], missing="exclude") for name in "ab")
    comparison = compare_runs(run, baseline, GateConfig())
    assert comparison.decision.outcome == "inconclusive"
    assert "0 of 1" in html_report(ReportInput(run=run, comparison=comparison, baseline=baseline))


def test_a_baseline_of_another_dataset_decides_nothing_and_is_kept(tmp_path):
    pointer = str(tmp_path / "baseline.json")
    first = evaluated(tmp_path / "a", ROWS, RIGHT)
    config = ComparisonConfig(baseline_uri=pointer, promote=True, run_uri=str(tmp_path / "runs/one"))
    assert compare_evaluations(config, first.folder).is_promoted
    others = [{**row, "question": "something else"} for row in ROWS]
    second = evaluated(tmp_path / "b", others, RIGHT, facts={"dataset": {"fingerprint": "g", "rows": 60}})
    config = ComparisonConfig(baseline_uri=pointer, promote=True, run_uri=str(tmp_path / "runs/two"))
    found = compare_evaluations(config, second.folder)
    assert (found.outcome, found.is_promoted) == ("inconclusive", False)
    assert "the dataset is another one" in found.markdown
    assert json.loads((tmp_path / "baseline.json").read_text())["evaluation_uri"].endswith("runs/one/evaluation")


def test_texts_of_all_kinds_reach_the_page(tmp_path):
    odd = [
        "",
        "\U0001f600",
        "\u05e9\u05dc\u05d5\u05dd",
        "a\u0000b",
        "\u2028",
        "</script>",
        "\ud7ff",
        "x" * 5_000,
        "$1,234.50",
        "50%",
    ]
    sources = [{"id": text[:3] + str(index), "question": text, "answer": text} for index, text in enumerate(odd)]
    page = html_report(ReportInput(run=evaluated(tmp_path, sources, odd, scorers=["exact_match", "token_f1"])))
    assert page.count("</script>") == 2
    assert page.encode()
