"""Two evaluated runs: joined by their rows, checked for likeness, compared over all rows and over slices."""

import dataclasses

import numpy as np
import pytest

from kfp_llm_batch.errors import DataError, ResultError
from kfp_llm_batch.evaluation.comparison import compare_runs
from kfp_llm_batch.evaluation.gate import GateConfig
from kfp_llm_batch.evaluation.run_folder import EvaluatedRun
from tests.unit.evaluation.evaluated_runs import evaluated

SOURCES = [
    {"id": f"q{index}", "question": f"What is {index}?", "answer": str(index), "kind": "ab"[index % 2]}
    for index in range(200)
]
RIGHT = [source["answer"] for source in SOURCES]


def with_errors(count, start=0):
    """The right answers but for some."""
    return [f"not {index + 1000}" if start <= index < start + count else right for index, right in enumerate(RIGHT)]


def compared(candidate, baseline, **gate):
    return compare_runs(candidate, baseline, GateConfig(**gate))


def test_rows_are_joined_by_their_identity_whatever_their_order(tmp_path):
    baseline = evaluated(tmp_path / "baseline", SOURCES, with_errors(10))
    order = np.random.default_rng(1).permutation(len(SOURCES))
    answers = with_errors(30)
    shuffled = [SOURCES[index] for index in order], [answers[index] for index in order]
    found = compared(evaluated(tmp_path / "candidate", *shuffled), baseline)
    (metric,) = found.metrics
    assert (metric.paired.num_lower, metric.paired.num_higher, metric.paired.num_rows) == (20, 0, 200)
    assert metric.paired.difference == pytest.approx(-0.1)
    assert found.decision.outcome == "fail"
    ids = [
        found_run.table.column("row_id").to_pylist() for found_run in (evaluated(tmp_path / "c2", *shuffled), baseline)
    ]
    assert [ids[0][row] for row in found.candidate_rows] == [ids[1][row] for row in found.baseline_rows]
    assert found.likeness.rows_compared == 200


def test_the_same_run_again_passes(tmp_path):
    runs = [evaluated(tmp_path / name, SOURCES, with_errors(20)) for name in ("candidate", "baseline")]
    found = compared(*runs)
    assert found.decision.outcome == "pass"
    assert found.likeness.differences == ()
    assert found.likeness.is_fair


@pytest.mark.parametrize(
    "options",
    [
        {"scorers": ["bleu", "chrf"]},
        {"scorers": [{"name": "classification", "take": "first"}]},
        {"scorers": ["numeric_match", "truncation", "token_f1"], "cluster_column": "kind"},
    ],
    ids=["corpus", "classes", "clusters"],
)
def test_the_same_answers_again_pass_by_whatever_they_are_measured(tmp_path, options):
    """200 rows that did not change leave less room than the margin."""
    sources = [{"id": str(index), "answer": ["yes", "no"][index % 2], "kind": f"k{index}"} for index in range(200)]
    answers = ["yes, it is" if index % 3 else "no, it is not" for index in range(200)]
    runs = [evaluated(tmp_path / name, sources, answers, **options) for name in ("candidate", "baseline")]
    assert compared(*runs).decision.outcome == "pass"


def test_rows_that_were_asked_something_else_are_left_out_and_counted(tmp_path):
    changed = [dict(source, question="another") if index < 5 else source for index, source in enumerate(SOURCES)]
    candidate = evaluated(tmp_path / "candidate", [*changed[:190], {**SOURCES[0], "id": "new"}], [*RIGHT[:190], "0"])
    found = compared(candidate, evaluated(tmp_path / "baseline", SOURCES, RIGHT))
    likeness = found.likeness
    assert (likeness.rows_compared, likeness.rows_changed) == (185, 5)
    assert (likeness.rows_only_in_candidate, likeness.rows_only_in_baseline) == (1, 10)
    assert found.metrics[0].paired.num_rows == 185
    assert likeness.is_fair


def test_another_dataset_is_no_comparison(tmp_path):
    others = [dict(source, id=f"other{index}") for index, source in enumerate(SOURCES)]
    found = compared(evaluated(tmp_path / "a", others, RIGHT), evaluated(tmp_path / "b", SOURCES, RIGHT))
    assert found.decision.outcome == "inconclusive"
    assert "Only 0 rows are the same" in found.decision.reason
    assert found.metrics == ()


def test_what_is_not_like_for_like_is_said(tmp_path):
    facts = {
        "sampling": {"max_tokens": 8, "temperature": 0.0},
        "model": {"uri": "hf://org/model", "revision": "r", "digest": "e"},
        "versions": {"vllm": "0.33.0"},
        "engine": {"choices": {}, "arguments": {"dtype": {"value": "bfloat16", "reason": "half the traffic"}}},
        "machine": {"instruction_set": "AVX2", "usable_cpus": 4},
        "dataset": {"fingerprint": "g", "rows": 200, "parameters": {"prompt_template": "Q: {{ question }}"}},
        "is_partial": True,
        "rows_in": 300,
    }
    candidate = evaluated(tmp_path / "candidate", SOURCES, RIGHT, facts=facts)
    found = compared(candidate, evaluated(tmp_path / "baseline", SOURCES, RIGHT))
    said = " ".join(found.likeness.differences)
    for part in (
        "The sampling differs in max_tokens: 256 before, 8 now.",
        "The dataset differs in fingerprint: f before, g now.",
        "The dataset differs in prompt_template: {{ question }} before, Q: {{ question }} now.",
        "The model differs in uri: echo:// before, hf://org/model now.",
        "The engine differs in version of vllm: 0.32.0 before, 0.33.0 now.",
        "The engine differs in dtype: None before, bfloat16 now.",
        "The engine differs in instruction set: None before, AVX2 now.",
        "The candidate is partial",
    ):
        assert part in said


def test_metrics_of_another_scorer_are_not_compared(tmp_path):
    scorers = [{"name": "numeric_match", "tolerance": 1.0}, "empty"]
    candidate = evaluated(tmp_path / "candidate", SOURCES, RIGHT, scorers=scorers)
    baseline = evaluated(tmp_path / "baseline", SOURCES, RIGHT, scorers=["numeric_match", "empty"])
    found = compared(candidate, baseline)
    assert found.likeness.incomparable == ("numeric_match",)
    assert [entry.metric.name for entry in found.metrics] == ["empty"]
    assert (
        "numeric_match is not compared: its scorer has other options or another version." in found.likeness.differences
    )
    assert found.decision.outcome == "inconclusive"
    assert "not compared: numeric_match. empty lost less than the margin" in found.decision.reason
    excluding = evaluated(tmp_path / "excluding", SOURCES, RIGHT, scorers=["numeric_match", "empty"], missing="exclude")
    nothing = compared(excluding, baseline)
    assert nothing.metrics == ()
    assert nothing.decision.outcome == "inconclusive"
    assert nothing.likeness.differences == (
        "No metric is compared: evaluation_missing was wrong before, and is exclude now.",
    )


def test_a_metric_that_the_baseline_does_not_have_is_left_out(tmp_path):
    candidate = evaluated(tmp_path / "candidate", SOURCES, RIGHT, scorers=["numeric_match", "empty"])
    found = compared(candidate, evaluated(tmp_path / "baseline", SOURCES, RIGHT))
    assert [entry.metric.name for entry in found.metrics] == ["numeric_match"]
    assert found.likeness.differences == ("empty is not compared: the baseline does not have it.",)
    assert found.decision.outcome == "pass"
    gone = compared(evaluated(tmp_path / "fewer", SOURCES, RIGHT), candidate)
    assert gone.likeness.differences == ("empty is not compared: only the baseline has it.",)


def test_slices_are_compared_and_their_p_values_adjusted(tmp_path):
    answers = [f"not {index + 1000}" if index % 2 and index < 60 else right for index, right in enumerate(RIGHT)]
    candidate = evaluated(tmp_path / "candidate", SOURCES, answers, slice_columns=["kind"])
    found = compared(candidate, evaluated(tmp_path / "baseline", SOURCES, RIGHT))
    losses = {entry.value: entry.paired.num_lower for entry in found.slices}
    assert losses == {"a": 0, "b": 30}
    assert found.slices[0].p_adjusted == pytest.approx(1.0)
    worst = max(found.slices, key=lambda entry: entry.paired.num_lower)
    assert worst.p_adjusted >= 2 * worst.paired.p_value


def test_clusters_are_the_same_units_in_both_runs(tmp_path):
    sources = [dict(source, story=f"s{index % 20}") for index, source in enumerate(SOURCES)]
    options = {"cluster_column": "story"}
    baseline = evaluated(tmp_path / "baseline", sources, with_errors(10), **options)
    turned = evaluated(tmp_path / "candidate", sources[::-1], with_errors(30)[::-1], **options)
    found = compared(turned, baseline).metrics[0].paired
    assert found.num_units == 20
    assert found.difference == pytest.approx(-0.1)
    straight = compared(evaluated(tmp_path / "c2", sources, with_errors(30), **options), baseline).metrics[0].paired
    assert found.num_lower == straight.num_lower
    assert found.deviation == pytest.approx(straight.deviation, rel=0.05)


def test_metrics_of_all_rows_together_are_compared(tmp_path):
    texts = [dict(source, answer=f"the number {source['answer']} is right here") for source in SOURCES]
    answers = [source["answer"] for source in texts]
    worse = [
        answer.replace("right here", "wrong there") if index < 60 else answer for index, answer in enumerate(answers)
    ]
    runs = [
        evaluated(tmp_path / name, texts, given, scorers=["bleu"])
        for name, given in (("candidate", worse), ("baseline", answers))
    ]
    found = compared(*runs)
    (bleu, of_rows) = found.metrics
    assert bleu.paired.difference < -5
    assert bleu.paired.interval.high < 0
    assert of_rows.paired.num_lower == 60
    assert found.decision.outcome == "fail"


def test_scores_that_were_changed_are_refused(tmp_path):
    run = evaluated(tmp_path / "run", SOURCES, RIGHT)
    path = run.folder / "scores.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ResultError, match="not what their manifest says"):
        EvaluatedRun(run.folder)
    (run.folder / "manifest.json").unlink()
    with pytest.raises(DataError, match="no manifest"):
        EvaluatedRun(run.folder)


def test_a_comparison_is_plain_data(tmp_path):
    runs = [evaluated(tmp_path / name, SOURCES, RIGHT) for name in ("candidate", "baseline")]
    assert dataclasses.asdict(compared(*runs).decision)["outcome"] == "pass"
