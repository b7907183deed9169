"""Scorers that read something out of an answer: numbers, letters, classes, fields."""

import itertools
import random
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import regex

from kfp_llm_batch.errors import ConfigurationError, DataError
from kfp_llm_batch.evaluation.scorers.numeric_match import numbers_in
from tests.unit.evaluation.answer_cases import ODD_TEXTS, make_row, score, scorer, value

FORMATS = (
    "{:d}",
    "{:,d}",
    "${:,d}",
    "\u20ac{:d}",
    "{:d}.00",
    "{:,d}.50",
    "{:d}%",
    "{:d} apples",
    "**{:,d}**",
    "\\boxed{{{:d}}}",
    "-{:d}",
    "\u2212{:d}",
    "-${:,d}",
    "{:d}.",
    "({:d})",
    "= {:d}\n",
    "\u5171{:d}\u4e2a",
)


def number_cases(count=340):
    """Texts with the number that they come to, built the other way round: the truth is known first."""
    draw = random.Random(11)
    for index in range(count):
        size, pattern = draw.choice([3, 42, 999, 1000, 12_345, 1_234_567]), FORMATS[index % len(FORMATS)]
        number = Decimal(size) + (Decimal("0.5") if ".50" in pattern else 0)
        number = -number if pattern[0] in "-\u2212" else number
        before = draw.choice(["", "5 - 3 is 2. ", "First 7, then 8,000: ", "In 1999 ", "x2 and y_3; ", "- 4 of 9\n"])
        after = draw.choice(["", " in all.", "!", "\n", " (sure)", " per day, thanks"])
        yield before + pattern.format(size) + after, number


def test_the_last_number_of_known_texts():
    cases = list(number_cases())
    assert len(cases) >= 200
    for text, number in cases:
        assert value("numeric_match", text, str(number)) == 1, text
        assert value("numeric_match", text, str(number + 1)) == 0, text


def test_targets_are_read_as_answers_are():
    """`1,234.50` is the target `$1234.5`, whichever of both says it how."""
    cases = list(itertools.islice(zip(number_cases(), reversed(list(number_cases())), strict=True), 260))
    for (answer, number), (target, expected) in cases:
        assert value("numeric_match", answer, target) == float(number == expected), (answer, target)
        assert value("numeric_match", answer, f"{number:,.2f}") == 1, answer
        assert value("numeric_match", answer, f"So {target}\n#### ${number:,}%") == 1, answer
    assert sum(number == expected for (_, number), (_, expected) in cases) >= 5


def gsm8k_official(text):
    """What GSM8K's authors take for the answer of a solution: behind the marks, without commas."""
    match = re.search(r"#### (\-?[0-9\.\,]+)", text)
    return match.group(1).strip().replace(",", "") if match else "[invalid]"


def test_solutions_in_the_form_of_gsm8k():
    draw = random.Random(5)
    agreeing = 0
    for index in range(300):
        right, given = draw.randint(-2000, 200_000), draw.randint(-2000, 200_000)
        given = right if index % 2 else given
        target = f"He needs {draw.randint(1, 9)} * 3 = <<7*3=21>>21 of them.\n#### {right:,}"
        answer = f"Step 1: 12 + 30 = 42\nStep 2: 1,000 / 3\n#### {given}" + draw.choice(["", "\n", " dollars", " 7"])
        expected = gsm8k_official(answer) == gsm8k_official(target)
        assert value("numeric_match", answer, target) == float(expected)
        agreeing += expected
    assert agreeing >= 150


GSM8K = Path(__file__).parents[4] / "shared/data/gsm8k_test.jsonl"


@pytest.mark.skipif(not GSM8K.exists(), reason="the dataset lies beside the checkout, where there is one")
def test_every_solution_of_gsm8k_is_read_as_its_authors_do():
    solutions = [msgspec.json.decode(line)["answer"] for line in GSM8K.read_bytes().splitlines()]
    assert len(solutions) == 1319
    for solution in solutions:
        found = score("numeric_match", make_row(solution, target=solution))
        assert found.values == (1.0,)
        assert Decimal(found.extracted) == Decimal(gsm8k_official(solution))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", []),
        ("no number", []),
        ("1,234.50", ["1234.50"]),
        ("$1,234.50", ["1234.50"]),
        ("50%", ["50"]),
        ("-3", ["-3"]),
        ("5-3", ["5", "3"]),
        ("- 3 apples", ["3"]),
        (".5", ["0.5"]),
        ("3.14.15", ["3.14"]),
        ("1e3 and 2E-2", ["1000", "0.02"]),
        ("1e99999", ["1"]),
        ("1,2,3", ["1", "2", "3"]),
        ("12,34", ["12", "34"]),
        ("COVID-19 A4", ["19"]),
        ("\uff11\uff18", ["18"]),
        ("10:30, 1/2", ["10", "30", "1", "2"]),
        ("18.", ["18"]),
        ("9" * 400, []),
    ],
)
def test_what_is_a_number(text, numbers):
    assert [Decimal(number) for number in numbers] == numbers_in(text)


@pytest.mark.parametrize(
    ("options", "answer", "target", "right"),
    [
        ({}, "#### 18 and 5 more", "18", 1),
        ({}, "First 3.\n#### 4\nor rather\n#### 18", "18", 1),
        ({}, "18 ####", "18", 1),
        ({}, "", "18", 0),
        ({}, "eighteen", "18", 0),
        ({}, "18.0", 18, 1),
        ({}, "18", [17, 18], 1),
        ({"take": "first"}, "18, not 20", "18", 1),
        ({"take": "marked"}, "18", "18", 0),
        ({"take": "marked"}, "#### 18", "18", 1),
        ({"marker": ""}, "#### 18, 19", "19", 1),
        ({"marker": "Answer:"}, "Answer: 3 (of 9)", "3", 1),
        ({"tolerance": 0.01}, "3.14", "3.1416", 1),
        ({"tolerance": 0.001}, "3.14", "3.1416", 0),
        ({"relative_tolerance": 0.05}, "95", "100", 1),
        ({"relative_tolerance": 0.05}, "94", "100", 0),
        ({}, "0.1", "0.10", 1),
    ],
)
def test_the_number_that_counts(options, answer, target, right):
    assert value("numeric_match", answer, target, **options) == right


def test_a_target_without_a_number_is_not_scored():
    assert scorer("numeric_match").score(make_row("18", target="none")) is None
    assert scorer("numeric_match").score(make_row("18")) is None


def choice_cases():
    """Answers that name a letter in a known way, with the letter."""
    patterns = (
        "{}",
        "({})",
        "{}.",
        "{}) because it is right",
        "{}: Paris",
        "The answer is {}.",
        "the correct answer is ({})",
        "Answer: {}",
        "**Answer:** {}",
        "I think it is B or C, but the answer is {}",
        "Let me think.\nA is wrong.\nSo the final answer is \\boxed{{{}}}",
        "My choice would be {}",
    )
    befores = ("", "\u00dcberlegen wir: 1,234.50 < $2,000. ", "50% of a pie\n\n", "\u6211\u60f3\uff1a")
    for pattern, letter, before, after in itertools.product(patterns, "ABCD", befores, ("", "\n", " \U0001f600")):
        # A letter at the beginning counts at the beginning alone.
        is_leading = pattern.startswith(("{}", "({})"))
        yield ("" if is_leading else before) + pattern.format(letter) + after, letter


def test_the_chosen_letter_of_known_answers():
    cases = sorted(set(choice_cases()))
    assert len(cases) >= 200
    for answer, letter in cases:
        found = score("multiple_choice", make_row(answer, target=letter))
        assert (found.values, found.extracted) == ((1.0,), letter), answer


@pytest.mark.parametrize(
    ("answer", "target", "letter"),
    [
        ("", "A", None),
        ("A or B", "A", None),
        ("A cat sat there", "A", "A"),
        ("I like E", "A", None),
        ("It's Paris", "A", "A"),
        ("Paris, not London", "A", None),
        ("answer: a", 0, "A"),
        ("D", 3, "D"),
        ("D", "3", "D"),
        ("B", "(b)", "B"),
        ("B", "london", "B"),
    ],
)
def test_odd_choices(answer, target, letter):
    choices = ["Paris", "London", "Rome", "Bonn"]
    row = make_row(answer, target=target, options=choices)
    found = score("multiple_choice", row, choices_column="options")
    assert found.extracted == letter


@pytest.mark.parametrize(("answer", "right"), [("A", 1.0), ("B", 1.0), ("C", 0.0)])
def test_several_choices_may_be_right(answer, right):
    assert value("multiple_choice", answer, ["A", "b", None]) == right


def test_choices_without_a_target_that_is_one():
    for target in ("E", 7, None, "nothing"):
        assert scorer("multiple_choice").score(make_row("A", target=target)) is None


@pytest.mark.parametrize(
    ("options", "answer", "target", "right", "extracted"),
    [
        ({"pattern": r"\d{4}-\d\d-\d\d", "compare": False}, "on 2024-02-03", None, 1, "2024-02-03"),
        ({"pattern": r"\d{4}", "compare": False}, "never", None, 0, None),
        ({"pattern": r"ANSWER: (\w+)"}, "ANSWER: no\nANSWER: Yes", "yes", 1, "Yes"),
        ({"pattern": r"ANSWER: (\w+)", "take": "first"}, "ANSWER: no\nANSWER: Yes", "yes", 0, "no"),
        ({"pattern": r"(x)?y"}, "y", "y", 0, None),
    ],
)
def test_patterns(options, answer, target, right, extracted):
    found = score("regex_match", make_row(answer, target=target), **options)
    assert (found.values, found.extracted) == ((right,), extracted)


def test_patterns_agree_with_the_search_of_another_module():
    pattern = r"(\w+)\s+(?:cat|dog|sky)"
    letters = "abcC\u00fc\u4f60"
    texts = {*ODD_TEXTS, *(f"{a} {b} blue sky {c} dog" for a, b, c in itertools.product(letters, repeat=3))}
    assert len(texts) >= 200
    for text in texts:
        found = regex.findall(pattern, text.strip())
        expected = float(bool(found) and found[-1].casefold() == "c")
        assert value("regex_match", text, "C", pattern=pattern) == expected


CLASSES = ["positive", "negative", "very negative", "\u4e2d\u6027"]


def class_cases(count=400):
    draw = random.Random(17)
    says = ("{}", "{}.", "I would say {}!", "  {} \n", "The label is: **{}**", "UPPER {}")
    for _ in range(count):
        expected, found = draw.choice(CLASSES), draw.choice([*CLASSES, None])
        found = expected if draw.random() < 0.5 else found
        text = "no idea" if found is None else draw.choice(says).format(draw.choice([found, found.upper()]))
        yield text, expected, found


def test_class_measures_are_those_of_scikit_learn():
    from sklearn.metrics import accuracy_score, matthews_corrcoef, precision_recall_fscore_support

    cases = list(class_cases())
    used = scorer("classification", classes=CLASSES)
    scores = [used.score(make_row(text, target=expected)) for text, expected, _ in cases]
    expected = [case[1] for case in cases]
    found = [case[2] or "none" for case in cases]
    assert [entry.extracted or "none" for entry in scores] == found
    sums = np.sum([entry.statistics for entry in scores], axis=0)
    measures = {metric.name: metric.corpus(sums) for metric in used.metrics if metric.corpus}
    precision, recall, f1, _ = precision_recall_fscore_support(
        expected, found, labels=CLASSES, average="macro", zero_division=0
    )
    assert np.mean([entry.values[0] for entry in scores]) == pytest.approx(accuracy_score(expected, found))
    assert measures["macro_precision"] == pytest.approx(precision)
    assert measures["macro_recall"] == pytest.approx(recall)
    assert measures["macro_f1"] == pytest.approx(f1)
    assert measures["mcc"] == pytest.approx(matthews_corrcoef(expected, found))


def test_class_measures_of_resampled_rows_are_those_of_scikit_learn():
    """As the bootstrap sees them: classes that do not occur, and rows that occur several times."""
    from sklearn.metrics import matthews_corrcoef, precision_recall_fscore_support

    cases = list(class_cases())
    used = scorer("classification", classes=CLASSES)
    statistics = np.array([used.score(make_row(text, target=right)).statistics for text, right, _ in cases])
    draw = np.random.default_rng(1)
    for size in (1, 2, 3, 8, 50):
        for _ in range(50):
            picked = draw.integers(0, len(cases), size)
            expected = [cases[index][1] for index in picked]
            found = [cases[index][2] or "none" for index in picked]
            sums = statistics[picked].sum(axis=0)
            occurring = sorted({*expected, *found} - {"none"})
            f1 = precision_recall_fscore_support(expected, found, labels=occurring, average="macro", zero_division=0)[2]
            measures = {metric.name: metric.corpus(sums) for metric in used.metrics if metric.corpus}
            assert measures["macro_f1"] == pytest.approx(f1)
            is_constant = len({*expected, *found}) == 1
            assert measures["mcc"] == pytest.approx(0 if is_constant else matthews_corrcoef(expected, found))


@pytest.mark.parametrize(
    ("take", "answer", "extracted"),
    [
        ("only", "positive, not negative", None),
        ("first", "positive, not negative", "positive"),
        ("last", "positive, not negative", "negative"),
        ("only", "very negative", "very negative"),
        ("only", "nonnegative", None),
        ("only", "\u6211\u89c9\u5f97\u662f\u4e2d\u6027\u7684", "\u4e2d\u6027"),
    ],
)
def test_the_class_that_is_mentioned(take, answer, extracted):
    found = score("classification", make_row(answer, target="positive"), classes=CLASSES, take=take)
    assert found.extracted == extracted


def test_classes_are_taken_from_the_targets(tmp_path):
    rows = [make_row("Yes", target="yes"), make_row("no", target="No"), make_row("x"), make_row("x", target="YES ")]
    ready = scorer("classification").prepare(lambda: iter(rows), tmp_path)
    assert [name.strip().lower() for name in ready.classes] == ["no", "yes"]
    assert [ready.score(row).values[0] for row in rows if row.target] == [1.0, 1.0, 0.0]
    assert ready.score(rows[2]) is None


def test_too_many_classes_are_no_classification(tmp_path):
    rows = [make_row("x", target=str(index)) for index in range(101)]
    with pytest.raises(DataError, match="101 classes"):
        scorer("classification").prepare(lambda: iter(rows), tmp_path)


def json_cases():
    """Texts that are JSON, nearly JSON, and none."""
    values = [
        1,
        -0.5,
        "text",
        "\u00fc\u4f60\U0001f600",
        True,
        None,
        [],
        {},
        [1, [2, {"a": None}]],
        {"k": "v", "n": [1, 2]},
    ]
    valid = [msgspec.json.encode(entry).decode() for entry in values]
    broken = [text[:-1] for text in valid] + [text + "]" for text in valid] + [text + "," for text in valid]
    broken += ["'single'", "{a: 1}", "[1, 2,]", '{"a" 1}', "NaN", "-Infinity", "01", "1.", "+1", "tRue", "// c\n1", ""]
    spaced = [f" \n{text}\t" for text in valid]
    wrapped = [f"[{left}, {right}]" for left in valid for right in [*valid, *broken[:8]]]
    return [*valid, *broken, *spaced, *wrapped]


def test_what_is_json_is_json_to_another_parser():
    cases = json_cases()
    assert len(cases) >= 200
    found = [value("json_valid", text) for text in cases]
    assert found == [float(_parses(text)) for text in cases]
    assert 20 < sum(found) < len(found) - 20


def _parses(text):
    try:
        msgspec.json.decode(text.strip())
    except msgspec.DecodeError:
        return False
    return True


def test_json_in_a_code_block_and_cut_json():
    block = '```json\n{"a": 1}\n```'
    assert value("json_valid", block) == 1
    assert value("json_valid", block, code_block=False) == 0
    assert value("json_valid", f"Here it is:\n{block}") == 0
    assert score("json_valid", make_row("12", is_truncated=True)).values == (0.0,)
    assert value("json_valid", "[" * 100_000) == 0


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}, "tags": {"type": "array"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def follows_the_schema(value):
    """SCHEMA in plain words."""
    if not isinstance(value, dict) or not {"name", "age"} <= value.keys() <= {"name", "age", "tags"}:
        return False
    age = value["age"]
    is_whole = isinstance(age, int | float) and not isinstance(age, bool) and age == int(age)
    return isinstance(value["name"], str) and is_whole and age >= 0 and isinstance(value.get("tags", []), list)


def test_schemas():
    names, ages = ["Ann", 3, None], [0, 41, -1, 1.0, 1.5, True, "1"]
    tags: list[Any] = [None, [], ["a"], "a", {}]
    cases: list[Any] = []
    for name, age, tag, extra in itertools.product(names, ages, tags, [{}, {"x": 1}]):
        cases.append({"name": name, "age": age, **({} if tag is None else {"tags": tag}), **extra})
    cases += [{}, [], "Ann", 1, {"name": "Ann"}]
    assert len(cases) >= 200
    texts = [msgspec.json.encode(case).decode() for case in cases]
    found = [value("json_schema", text, schema=SCHEMA) for text in texts]
    assert found == [float(follows_the_schema(case)) for case in cases]
    assert sum(found) >= 5


def lines_of(value, path=""):
    """Every leaf as one line of text: another way to compare trees."""
    if isinstance(value, dict) and value:
        return {line for key, entry in value.items() for line in lines_of(entry, f"{path}/{key}")}
    if isinstance(value, list) and value:
        return {line for index, entry in enumerate(value) for line in lines_of(entry, f"{path}#{index}")}
    shown = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    return {f"{path}={shown!r}"}


def test_fields_of_json():
    draw = random.Random(23)

    def tree(depth):
        kind = draw.randint(0, 6 if depth else 4)
        leaf = [draw.randint(0, 2), draw.choice("xy\u00fc"), None, draw.random() < 0.5, 1.0][min(kind, 4)]
        if kind < 5:
            return leaf
        keys = draw.sample("abcde", draw.randint(0, 4))
        return {key: tree(depth - 1) for key in keys} if kind == 5 else [tree(depth - 1) for _ in keys]

    compared = 0
    while compared < 250:
        target = {key: tree(2) for key in "pqr"}
        answer = {
            key: entry if draw.random() < 0.6 else tree(2) for key, entry in target.items() if draw.random() < 0.9
        }
        expected = lines_of(target)
        share = len(expected & lines_of(answer)) / len(expected)
        texts = [msgspec.json.encode(entry).decode() for entry in (answer, target)]
        found = score("json_fields", make_row(texts[0], target=draw.choice([texts[1], target])))
        assert found.values == pytest.approx((share, float(share == 1)))
        compared += 1


def test_chosen_fields_of_json():
    target = {"a": 1, "b": {"c": 2, "d": 3}, "e": 4}
    assert value("json_fields", '{"a": 1, "b": {"c": 2}}', target, fields=["b"]) == 0.5
    assert value("json_fields", "not JSON", target) == 0
    assert scorer("json_fields", fields=["z"]).score(make_row("{}", target=target)) is None
    assert scorer("json_fields").score(make_row("{}", target="[1]")) is None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("numeric_match", {"take": "lst"}, "unknown take.*Did you mean 'last'"),
        ("numeric_match", {"tolerance": -1}, "tolerance is no number from 0"),
        ("regex_match", {"pattern": "("}, "no regular expression"),
        ("regex_match", {"pattern": "x", "take": "all"}, "unknown take"),
        ("multiple_choice", {"num_choices": 1}, "num_choices is out of bounds"),
        ("classification", {"take": "any"}, "unknown take"),
        ("classification", {"classes": ["a", "A "]}, "two classes are the same"),
        ("json_schema", {"schema": {"type": "objct"}}, "the schema is none"),
        ("bleu", {"tokenize": "13b"}, "unknown tokenizer.*Did you mean '13a'"),
        ("chrf", {"word_order": 3}, "word_order is unknown"),
        ("repetition", {"words": 0}, "no positive number"),
        ("language", {"expected": "english"}, "unknown language"),
        ("refusal", {"phrases": ["("]}, "no regular expression"),
        ("pass_at_k", {"of": "bleu"}, "cannot use bleu"),
        ("pass_at_k", {"of": "classification"}, "cannot use classification"),
        ("pass_at_k", {"of": "exact_match", "k": [0]}, "no list of different positive"),
        ("majority_at_k", {"of": "exact_match", "k": [1, 1]}, "no list of different positive"),
    ],
)
def test_options_check_themselves(name, options, message):
    with pytest.raises(ConfigurationError, match=message):
        scorer(name, **options)
