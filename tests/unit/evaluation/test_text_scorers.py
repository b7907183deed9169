"""Scorers that compare texts, held against independent implementations on the same made cases."""

import itertools
import re
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
import regex
from rouge_score.rouge_scorer import RougeScorer

from tests.unit.evaluation.answer_cases import make_row, score, scorer, text_pairs, value

PAIRS = text_pairs()
nfkc = partial(normalize, "NFKC")


def test_there_are_enough_cases():
    assert len(PAIRS) >= 200
    assert len(set(PAIRS)) >= 200


def squad_words(text):
    """The convention of SQuAD's evaluation, from its description."""
    kept = "".join(" " if character.isspace() else character for character in text.lower())
    kept = re.sub(r"[!-/:-@\[-`{-~]", "", kept)
    return re.sub(r"\b(?:the|an|a)\b", " ", kept).split()


def squad_f1(answer, target):
    left, right = squad_words(answer), squad_words(target)
    shared = sum(min(count, right.count(word)) for word, count in Counter(left).items())
    if not left or not right:
        return float(left == right)
    precision, recall = shared / len(left), shared / len(right)
    return 2 * precision * recall / (precision + recall) if shared else 0.0


def test_token_f1_is_that_of_squad():
    for answer, target in PAIRS:
        assert value("token_f1", answer, target) == pytest.approx(squad_f1(answer, target), abs=1e-12)


def test_matches_are_those_of_squad():
    found = [value("normalized_match", answer, target) for answer, target in PAIRS]
    assert found == [float(squad_words(answer) == squad_words(target)) for answer, target in PAIRS]
    assert 0 < sum(found) < len(found)


def test_exact_matches():
    found = [value("exact_match", answer, target) for answer, target in PAIRS]
    trim = re.compile(r"^\s+|\s+$")
    assert found == [float(trim.sub("", answer) == trim.sub("", target)) for answer, target in PAIRS]
    assert 0 < sum(found) < len(found)


def searched(answer, piece, ignore_case):
    """Whether another module's search, which folds case in full, finds the words of `piece`."""
    if not ignore_case:
        return answer.strip().find(piece) >= 0
    words = r"\s+".join(regex.escape(word, special_only=True) for word in nfkc(piece).split())
    return regex.search(words, nfkc(answer), flags=regex.IGNORECASE | regex.FULLCASE) is not None


@pytest.mark.parametrize("ignore_case", [True, False])
def test_contained_targets(ignore_case):
    pieces = [(answer, " ".join(target.split()[:2])) for answer, target in PAIRS]
    pieces = [(answer, draw(piece)) for answer, piece in pieces if piece for draw in (str, str.upper, str.lower)]
    found = [value("contains", answer, piece, ignore_case=ignore_case) for answer, piece in pieces]
    assert found == [float(searched(answer, piece, ignore_case)) for answer, piece in pieces]
    assert len(set(pieces)) >= 200
    assert 0.1 < sum(found) / len(found) < 0.9


def test_contained_targets_without_regard_to_case_and_form():
    assert value("contains", "It is PARIS,\n France.", "paris, france") == 1
    assert value("contains", "\ufb01ne", "FINE") == 1
    assert value("contains", "Parts", "Paris") == 0
    assert value("contains", "", "") == 1
    assert value("contains", "something", "") == 0


def test_rouge_is_that_of_rouge_score():
    oracle = RougeScorer(["rougeL", "rouge1", "rouge2"])
    for answer, target in PAIRS:
        expected = oracle.score(target, answer)
        found = score("rouge", make_row(answer, target=target)).values
        assert found == pytest.approx([expected[name].fmeasure for name in ("rougeL", "rouge1", "rouge2")], abs=1e-12)


def test_each_rouge_of_several_targets_is_the_best_of_rouge_score():
    oracle = RougeScorer(["rougeL", "rouge1", "rouge2"])
    for (answer, target), (_, other) in itertools.pairwise(PAIRS):
        both = [oracle.score(text, answer) for text in (target, other)]
        found = score("rouge", make_row(answer, target=[target, other])).values
        best = [max(entry[name].fmeasure for entry in both) for name in ("rougeL", "rouge1", "rouge2")]
        assert found == pytest.approx(best, abs=1e-12)


def test_rouge_of_other_scripts():
    target = "\u043a\u043e\u0448\u043a\u0430 \u0441\u0438\u0434\u0438\u0442"
    assert value("rouge", target, target) == 0
    assert value("rouge", target, target, ascii_words=False) == 1


def sacrebleu(folder, cases, *options):
    """What sacreBLEU's command says of answers with their targets; it takes a line as a segment."""
    paths = [str(folder / str(index)) for index in range(len(cases[0]))]
    for path, texts in zip(paths, zip(*cases, strict=True), strict=True):
        Path(path).write_text("".join(" ".join(text.split()) + "\n" for text in texts), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", *paths[1:], "-i", paths[0], *options]
    finished = subprocess.run([*command, "-b", "-w", "9"], capture_output=True, text=True, check=True)
    return [float(line) for line in finished.stdout.split()]


def corpus_value(name, cases, **options):
    used = scorer(name, **options)
    lines = [[" ".join(text.split()) for text in case] for case in cases]
    rows = [make_row(answer, target=targets) for answer, *targets in lines]
    sums = np.sum([used.score(row).statistics for row in rows], axis=0)
    return used.metrics[0].corpus(sums)


@pytest.mark.parametrize(
    ("name", "options", "arguments"),
    [
        ("bleu", {}, ["-m", "bleu"]),
        ("bleu", {"lowercase": True, "tokenize": "intl"}, ["-m", "bleu", "-lc", "--tokenize", "intl"]),
        ("bleu", {"tokenize": "char"}, ["-m", "bleu", "--tokenize", "char"]),
        ("chrf", {}, ["-m", "chrf"]),
        ("chrf", {"word_order": 2}, ["-m", "chrf", "--chrf-word-order", "2"]),
    ],
    ids=["bleu", "bleu-intl", "bleu-char", "chrf", "chrf++"],
)
def test_corpus_scores_are_those_of_the_command_of_sacrebleu(tmp_path, name, options, arguments):
    (expected,) = sacrebleu(tmp_path, PAIRS, *arguments)
    assert corpus_value(name, PAIRS, **options) == pytest.approx(expected, abs=1e-8)
    assert 10 < expected < 90


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_corpus_scores_of_several_targets_are_those_of_the_command_of_sacrebleu(tmp_path, name):
    cases = [(answer, target, other) for (answer, target), (_, other) in itertools.pairwise(PAIRS)]
    (expected,) = sacrebleu(tmp_path, cases, "-m", name)
    assert corpus_value(name, cases) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_row_scores_are_those_of_the_command_of_sacrebleu(tmp_path, name):
    expected = sacrebleu(tmp_path, PAIRS, "-m", name, "--sentence-level")
    rows = [make_row(" ".join(answer.split()), target=" ".join(target.split())) for answer, target in PAIRS]
    used = scorer(name)
    assert [used.score(row).values[1] for row in rows] == pytest.approx(expected, abs=1e-8)


def test_scores_of_several_samples_are_averaged_within_the_row():
    row = make_row("right", "wrong", "Right.", "right", target="right")
    assert score("exact_match", row).values == (0.5,)
    assert score("normalized_match", row).values == (0.75,)
    one, other = (score("bleu", make_row(text, target="a b c d e")) for text in ("a b c d e", "x y"))
    both = score("bleu", make_row("a b c d e", "x y", target="a b c d e"))
    assert both.statistics == pytest.approx(np.mean([one.statistics, other.statistics], axis=0))


@pytest.mark.parametrize("name", ["exact_match", "normalized_match", "contains", "token_f1", "rouge"])
def test_the_best_of_several_targets_counts_and_none_is_not_scored(name):
    assert value(name, "Paris", ["London", "Paris"]) == 1
    assert score(name, make_row("Paris")).values[0] is None
    assert score(name, make_row("Paris", target=[])).values[0] is None


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_corpus_scorers_without_a_target(name):
    assert scorer(name).score(make_row("Paris")) is None


def test_a_number_as_target_is_its_text():
    assert value("exact_match", "18", 18) == 1
    assert value("exact_match", "18", 18.0) == 1
    assert value("exact_match", "0.5", 0.5) == 1
