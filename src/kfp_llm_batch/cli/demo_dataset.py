"""The demo's own dataset: short questions with known answers, in several shapes, and one bad row."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

_CAPITALS = {
    "Austria": "Vienna",
    "Chile": "Santiago",
    "Egypt": "Cairo",
    "Finland": "Helsinki",
    "France": "Paris",
    "Germany": "Berlin",
    "Ghana": "Accra",
    "Greece": "Athens",
    "Italy": "Rome",
    "Japan": "Tokyo",
    "Kenya": "Nairobi",
    "Norway": "Oslo",
    "Peru": "Lima",
    "Poland": "Warsaw",
    "Portugal": "Lisbon",
    "Spain": "Madrid",
    "Sweden": "Stockholm",
    "Thailand": "Bangkok",
}
_OPPOSITES = {
    "hot": "cold",
    "big": "small",
    "early": "late",
    "full": "empty",
    "fast": "slow",
    "heavy": "light",
    "open": "closed",
    "wet": "dry",
}
_SEED = 7


def write_demo_dataset(path: Path, rows: int = 300) -> None:
    """Write JSONL with the columns id, shape, question and answer; the row in the middle has no question."""
    questions = list(_questions(random.Random(_SEED), rows))
    questions[rows // 2]["question"] = "   "
    lines = (json.dumps({"id": f"q{number:03d}", **entry}) for number, entry in enumerate(questions))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _questions(chance: random.Random, rows: int) -> Iterator[dict[str, str]]:
    shapes = (_sum, _capital, _opposite, _choice, _story)
    for number in range(rows):
        shape = shapes[number % len(shapes)]
        question, answer = shape(chance)
        yield {"shape": shape.__name__.removeprefix("_"), "question": question, "answer": answer}


def _sum(chance: random.Random) -> tuple[str, str]:
    one, other = chance.randint(2, 99), chance.randint(2, 99)
    return f"What is {one} + {other}?", str(one + other)


def _capital(chance: random.Random) -> tuple[str, str]:
    country = chance.choice(sorted(_CAPITALS))
    return f"What is the capital of {country}?", _CAPITALS[country]


def _opposite(chance: random.Random) -> tuple[str, str]:
    word = chance.choice(sorted(_OPPOSITES))
    return f"Name the opposite of the word '{word}'. Answer with one word.", _OPPOSITES[word]


def _choice(chance: random.Random) -> tuple[str, str]:
    numbers = chance.sample(range(10, 1000), 4)
    return f"Which of these numbers is the largest: {', '.join(map(str, numbers))}?", str(max(numbers))


def _story(chance: random.Random) -> tuple[str, str]:
    baskets, apples, eaten = chance.randint(2, 9), chance.randint(3, 12), chance.randint(1, 5)
    question = (
        f"A farmer fills {baskets} baskets with {apples} apples each. On the way to the market "
        f"{eaten} apples are eaten. How many apples are left? Explain briefly."
    )
    return question, str(baskets * apples - eaten)
