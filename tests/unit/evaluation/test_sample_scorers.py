"""Scorers of several samples, scorers without a target, and what is done to every answer before."""

import dataclasses
import itertools
import random
from statistics import fmean

import pytest

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.evaluation.reasoning import without_reasoning
from kfp_llm_batch.evaluation.scorers.language import language_of
from kfp_llm_batch.evaluation.scorers.protocol import Answer
from tests.unit.evaluation.answer_cases import ODD_TEXTS, make_row, score, scorer, text_pairs, value


def test_pass_at_k_counts_all_ways_to_draw():
    cases = 0
    for samples in range(1, 9):
        for right in range(samples + 1):
            answers = ["yes"] * right + ["no"] * (samples - right)
            row = make_row(*answers, target="yes")
            for k in range(1, samples + 1):
                draws = list(itertools.combinations(answers, k))
                expected = fmean("yes" in draw for draw in draws)
                found = score("pass_at_k", row, of="exact_match", k=[k]).values
                assert found == pytest.approx((expected,))
                cases += 1
    assert cases >= 200


def test_pass_at_k_of_fewer_samples_is_not_scored():
    row = make_row("yes", "no", target="yes")
    assert score("pass_at_k", row, of="exact_match", k=[1, 2, 3]).values == (0.5, 1.0, None)
    assert scorer("pass_at_k", of="exact_match").score(make_row("yes")) is None


def test_majority_at_k_against_counting():
    draw = random.Random(2)
    for _ in range(250):
        answers = [draw.choice(["18", "$18.00", "7", "9", "none"]) for _ in range(draw.randint(1, 7))]
        k = draw.randint(1, len(answers))
        read = {"18": "18", "$18.00": "18", "7": "7", "9": "9"}
        votes = [read[answer] for answer in answers[:k] if answer in read]
        most = max((votes.count(vote) for vote in votes), default=0)
        winners = {vote for vote in votes if votes.count(vote) == most}
        expected = ("18" in winners) / len(winners) if winners else 0.0
        row = make_row(*answers, target="18")
        assert score("majority_at_k", row, of="numeric_match", k=[k]).values == (pytest.approx(expected),)


def test_the_majority_of_texts_is_that_of_equal_texts():
    row = make_row("Paris", "paris ", "London", target="paris")
    assert score("majority_at_k", row, of="normalized_match", k=[3, 4]).values == (1.0, None)


def test_repetition_against_counting():
    for answer, _ in text_pairs(240):
        words = answer.split()
        seen, repeated, runs = [], 0, 0
        for start in range(max(0, len(words) - 2)):
            run = words[start : start + 3]
            runs += 1
            repeated += run in seen
            seen.append(run)
        assert value("repetition", answer, words=3) == pytest.approx(repeated / runs if runs else 0.0)
    assert value("repetition", "so it is so it is so it is so it is", words=3) > 0.5


def test_empty_and_length_against_counting():
    for answer in [*ODD_TEXTS, *(pair[0] for pair in text_pairs(200))]:
        letters = len(list(answer.strip()))
        assert value("empty", answer) == float(letters == 0)
        assert score("length", make_row(answer)).values == (letters, 10.0)
    assert score("length", make_row("a", "abc")).values == (2.0, 5.0)


def test_lengths_and_truncation_of_several_samples_against_counting():
    draw = random.Random(9)
    texts = [text.strip() for pair in text_pairs(200) for text in pair]
    for _ in range(250):
        cut = [draw.random() < 0.4 for _ in range(draw.randint(1, 6))]
        answers = tuple(Answer(text=draw.choice(texts), is_truncated=is_cut) for is_cut in cut)
        tokens = draw.randint(0, 900)
        row = dataclasses.replace(make_row("x"), answers=answers, num_completion_tokens=tokens)
        assert score("truncation", row).values == (pytest.approx(cut.count(True) / len(cut)),)
        letters = sum(1 for answer in answers for _ in answer.text)
        expected = (letters / len(cut), tokens / len(cut))
        assert score("length", row).values == pytest.approx(expected)
        empty = [answer.text for answer in answers].count("")
        assert score("empty", row).values == (pytest.approx(empty / len(cut)),)


def test_recorded_numbers_are_taken_as_they_are():
    draw = random.Random(4)
    used = scorer("recorded", names=["acc", "f1"], points=["bleu"])
    for _ in range(220):
        given = {"acc": float(draw.random() < 0.5), "f1": draw.random(), "bleu": 100 * draw.random()}
        kept = {name: number for name, number in given.items() if draw.random() < 0.8}
        found = used.score(make_row(draw.choice(ODD_TEXTS), recorded=kept))
        assert found is None if not kept else found.values == (kept.get("acc"), kept.get("f1"), kept.get("bleu"))
    assert [metric.unit for metric in used.metrics] == ["share", "share", "points"]
    with pytest.raises(ConfigurationError, match="both empty"):
        scorer("recorded", names=[])


REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I\u2019m sorry, I cannot assist with this request.",
    "Sorry, but I can't do this.",
    "I cannot provide medical advice.",
    "As an AI language model, I do not have opinions.",
    "As a language model I am not able to browse.",
    "I am unable to answer.",
    "I must decline.",
    "I won't help you with this.",
    "i can't discuss that topic.",
    "Unfortunately, I cannot fulfill this request.",
    "I have to refuse.",
)
ANSWERS = (
    "The answer is 18.",
    "Sorry is the hardest word, says the song.",
    "I can help you with that.",
    "You can't divide by zero.",
    "He said he was sorry and left the house.",
    "Provide a list of items.",
    "As an AI researcher she works at the university.",
    "The committee declined the offer.",
    "",
    "18",
    "It can't be 7, so it is 8.",
    "I am able to answer: 5.",
)


def test_refusals_and_answers_that_are_none():
    draw = random.Random(1)
    checked = 0
    for text, expected in [(text, 1) for text in REFUSALS] + [(text, 0) for text in ANSWERS]:
        for tail in range(10):
            rest = " ".join(draw.choice(["then", "we", "see", "12", "why"]) for _ in range(tail))
            assert value("refusal", f"{text} {rest}") == expected, text
            checked += 1
    assert checked >= 200
    assert value("refusal", "word " * 60 + REFUSALS[0]) == 0
    assert value("refusal", "Das geht nicht.", phrases=["geht nicht"]) == 1


SENTENCES = {
    "en": "The children are playing in the garden behind the old house.",
    "de": "Die Kinder spielen im Garten hinter dem alten Haus.",
    "fr": "Les enfants jouent dans le jardin derri\u00e8re la vieille maison.",
    "es": "Los ni\u00f1os est\u00e1n jugando en el jard\u00edn detr\u00e1s de la casa vieja.",
    "it": "I bambini giocano nel giardino dietro la vecchia casa.",
    "nl": "De kinderen spelen in de tuin achter het oude huis.",
    "pl": "Dzieci bawi\u0105 si\u0119 w ogrodzie za starym domem.",
    "ru": "\u0414\u0435\u0442\u0438 \u0438\u0433\u0440\u0430\u044e\u0442 \u0432 \u0441\u0430\u0434\u0443.",
    "ja": "\u5b50\u4f9b\u305f\u3061\u306f\u5ead\u3067\u904a\u3093\u3067\u3044\u307e\u3059\u3002",
    "zh": "\u5b69\u5b50\u4eec\u5728\u8001\u623f\u5b50\u540e\u9762\u7684\u82b1\u56ed\u91cc\u73a9\u3002",
}


def test_the_language_of_known_sentences():
    checked = 0
    for code, sentence in SENTENCES.items():
        for expected in SENTENCES:
            assert value("language", sentence, expected=expected) == float(code == expected)
            checked += 1
        for tail in ("", " 42", "\n\n", " 2024!"):
            for number in range(3):
                assert language_of(f"{number}. {sentence}{tail}") == code
                checked += 1
    assert checked >= 200
    assert language_of("42 OK") is None
    assert score("language", make_row("42")).values == (None,)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("18", "18"),
        ("", ""),
        ("  18 \n", "18"),
        ("<think>3 * 6\n</think>\n\n18", "18"),
        ("<think></think>18", "18"),
        ("<THINK>x</THINK> 18", "18"),
        ("<reasoning>a</reasoning>18", "18"),
        ("the template opened it</think>18", "18"),
        ("<think>one</think>7<think>two</think>18", "718"),
        ("<think>cut at max_tokens, perhaps 17", ""),
        ("18<think>and cut", "18"),
        ("<think>a</think></think>18", "18"),
        ("1 < 2 > 0 <thinker>", "1 < 2 > 0 <thinker>"),
    ],
)
def test_reasoning_is_set_aside(text, answer):
    assert without_reasoning(text) == answer
