"""Scorers that ask another model: the judge, and embeddings."""

import itertools
import json
import random

import numpy as np
import pytest

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.evaluation.config import EvaluationConfig
from kfp_llm_batch.evaluation.scoring import evaluate
from tests.unit.evaluation.answer_cases import make_row, scorer, text_pairs
from tests.unit.evaluation.evaluated_runs import evaluated, write_completions

LONGER = "{{ 'first' if first|length > second|length else 'second' if second|length > first|length else 'tie' }}"
PREFERS_LONGER = '{"winner": "' + LONGER + '"}'
PREFERS_FIRST = '{"winner": "first"}{# {{ question }} #}'
GRADES_BY_LENGTH = '{"grade": {{ [answer|length + 1, grades]|min }}}'
COMPARING = {"name": "judge", "model_uri": "echo://", "question_column": "question", "mode": "compare"}
GRADING = {"name": "judge", "model_uri": "echo://", "question_column": "question"}


def judged(tmp_path, options, answers, targets):
    """What a judge says that answers by rule: the echo engine gives the prompt back."""
    sources = [{"id": str(index), "question": "Why?", "answer": target} for index, target in enumerate(targets)]
    return evaluated(tmp_path, sources, answers, scorers=[options])


def test_a_preference_is_asked_in_both_orders(tmp_path):
    draw = random.Random(3)
    answers, targets = ([text.strip() for text in texts] for texts in zip(*text_pairs(220), strict=True))
    answers, targets = [("x" * draw.randint(1, 9)) for _ in range(50)] + answers, ["xxxx"] * 50 + targets
    run = judged(tmp_path, {**COMPARING, "prompt": PREFERS_LONGER}, answers, targets)
    expected = [
        1.0 if len(answer) > len(target) else 0.0 if len(answer) < len(target) else 0.5
        for answer, target in zip(answers, targets, strict=True)
    ]
    assert run.table.values("judge_preference").tolist() == expected
    assert set(run.table.values("judge_consistency")) == {1.0}
    assert set(run.table.column("extracted.judge").to_pylist()) == {
        "first and second",
        "second and first",
        "tie and tie",
    }


def test_a_judge_that_prefers_a_place_prefers_nothing(tmp_path):
    run = judged(tmp_path, {**COMPARING, "prompt": PREFERS_FIRST}, ["a", "b"], ["c", "b"])
    assert run.table.values("judge_preference").tolist() == [0.5, 0.5]
    assert run.table.values("judge_consistency").tolist() == [0.0, 0.0]


def test_a_grade_is_a_share_and_what_cannot_be_read_is_not_scored(tmp_path):
    answers = ["", "x", "xx", "x" * 20, None]
    run = judged(tmp_path / "a", {**GRADING, "prompt": GRADES_BY_LENGTH}, answers, ["t"] * 5)
    # The missing answer counts as wrong.
    assert run.table.values("judge_grade").tolist() == [0.0, 0.25, 0.5, 1.0, 0.0]
    assert run.table.column("extracted.judge").to_pylist() == ["1", "2", "3", "5", None]
    verdicts = ["no JSON", '{"grade": 6}', '{"grade": true}', '{"grade": "3"}', '{"grade": 1.5}', "[3]", '{"grade": 3}']
    odd = judged(tmp_path / "odd", {**GRADING, "prompt": "{{ answer }}"}, verdicts, ["t"] * 7)
    assert np.isnan(odd.table.values("judge_grade")).tolist() == [True] * 6 + [False]
    assert odd.manifest.metrics[0]["n_scored"] == 1


def test_grades_of_many_answers(tmp_path):
    answers = [text.strip() for pair in text_pairs(110) for text in pair]
    run = judged(tmp_path, {**GRADING, "prompt": GRADES_BY_LENGTH, "grades": 40}, answers, ["t"] * len(answers))
    expected = [(min(len(answer) + 1, 40) - 1) / 39 for answer in answers]
    assert len(answers) >= 200
    assert run.table.values("judge_grade").tolist() == pytest.approx(expected)


def test_a_judge_that_is_told_wrongly_is_refused():
    for options, message in (
        ({"mode": "rank"}, "unknown mode"),
        ({"grades": 1}, "grades is out of bounds"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            scorer("judge", model_uri="echo://", question_column="question", **options)
    with pytest.raises(ConfigurationError, match="needs the option model_uri"):
        scorer("judge", question_column="question")
    with pytest.raises(ConfigurationError, match="no evaluation_target_column"):
        EvaluationConfig(scorers=[COMPARING])


def test_the_question_column_must_be_there(tmp_path):
    folder = write_completions(tmp_path / "completions", [{"prompt": "Why?", "answer": "a"}], ["a"])
    config = EvaluationConfig(scorers=[GRADING], target_column="answer")
    with pytest.raises(ConfigurationError, match="question_column"):
        evaluate(config, folder, tmp_path / "scores")


@pytest.mark.vllm
def test_a_real_judge_answers_by_its_schema(tmp_path):
    options = {"name": "judge", "model_uri": "demo://smollm2-135m-instruct", "question_column": "question"}
    run = judged(tmp_path, options, ["Because it rains.", "42", "yes"], ["Rain.", "42", "no"])
    assert set(run.table.column("extracted.judge").to_pylist()) <= {"1", "2", "3", "4", "5"}
    assert run.manifest.metrics[0]["n_scored"] == 3


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A small encoder with random weights, and a tokenizer of characters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = {"[PAD]": 0, "[UNK]": 1, **{chr(code): code for code in range(2, 256)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=256, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config).save_pretrained(folder)
    return folder


def test_cosines_are_those_of_texts_embedded_alone(encoder):
    import torch
    from transformers import AutoModel, AutoTokenizer

    pairs = text_pairs(220)
    rows = [make_row(answer, target=target) for answer, target in pairs]
    found = scorer("embedding_cosine", model_uri=str(encoder)).prepare(lambda: iter(rows), encoder)
    tokenizer, model = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()

    def alone(text):
        ids = tokenizer(text)["input_ids"]
        with torch.inference_mode():
            return model(torch.tensor([ids])).last_hidden_state[0].mean(dim=0) if ids else None

    for row, (answer, target) in zip(rows, pairs, strict=True):
        left, right = alone(answer.strip()), alone(target)
        expected = 0.0 if left is None or right is None else float(torch.cosine_similarity(left, right, dim=0))
        assert found.score(row).values[0] == pytest.approx(expected, abs=1e-5), (answer, target)


def test_the_best_of_several_targets_counts_and_equal_texts_are_equal(encoder):
    rows = [make_row("the cat", target=["a dog", "the cat"]), make_row("the cat", "a dog", target="the cat")]
    found = scorer("embedding_cosine", model_uri=str(encoder)).prepare(lambda: iter(rows), encoder)
    assert found.score(rows[0]).values[0] == pytest.approx(1.0)
    assert found.score(rows[1]).values[0] < 1
    with pytest.raises(ConfigurationError, match="no embeddings"):
        scorer("embedding_cosine", model_uri="echo://")


def test_what_was_prepared_keeps_its_options(tmp_path, encoder):
    sources = [{"id": "1", "question": "Why?", "answer": "a"}]
    run = evaluated(
        tmp_path, sources, ["a"], scorers=["exact_match", {"name": "embedding_cosine", "model_uri": str(encoder)}]
    )
    specification = run.manifest.scorers[1]["specification"]
    assert specification == {"name": "embedding_cosine", "model_uri": str(encoder), "model_revision": None}
    assert [named.key for named in run.scorers] == ["exact_match", "embedding_cosine"]
    assert json.dumps(list(itertools.chain(run.manifest.metrics)))
