"""Made answers and targets for comparisons with independent implementations: the same ones in every run."""

from __future__ import annotations

import random
import re
from typing import Any

from kfp_llm_batch.evaluation.scorers.protocol import Answer, Row
from kfp_llm_batch.evaluation.scorers.registry import make_scorer

ODD_TEXTS = (
    "",
    " ",
    "The",
    "a an the",
    "...",
    "1,234.50",
    "$18",
    "50%",
    "3 apples and 4 pears make 7",
    "\u00fcber die Br\u00fccke",
    "\u4f60\u597d\uff0c\u4e16\u754c",
    "na\u00efve caf\u00e9",
    "\U0001f600 \U0001f600",
    "line one\nline two",
    "tab\tseparated   words",
    "O'Brien's well-known e-mail",
    "UPPER lower MiXeD",
    "\u00a0no-break\u00a0space",
    "\u017fharp s: \u00df SS",
    "\ufb01ne ligature",
    "{{ braces }} <b>markup</b> \\ backslash",
    "the the the the the the",
)
_WORDS = re.findall(
    r"\S+",
    "the a an cat dog sat on mat ran fast blue sky over under river bank money 12 3.5 1,000 Paris London U.S. it's "
    "isn't well-known (maybe) [note] \u00e9t\u00e9 stra\u00dfe \u6771\u4eac and or not never always final",
)


def text_pairs(count: int = 260, seed: int = 7) -> list[tuple[str, str]]:
    """Answers with targets: unrelated, alike, equal, and the odd ones."""
    draw = random.Random(seed)
    pairs = [(left, right) for left, right in zip(ODD_TEXTS, reversed(ODD_TEXTS), strict=True)]
    pairs += [(text, text) for text in ODD_TEXTS]
    while len(pairs) < count:
        target = [draw.choice(_WORDS) for _ in range(draw.randint(1, 14))]
        answer = [word if draw.random() < 0.7 else draw.choice(_WORDS) for word in target]
        draw.shuffle(answer) if draw.random() < 0.3 else None
        pairs.append((" ".join(answer[: draw.randint(1, 14)]), " ".join(target)))
    return pairs


def make_row(*answers: str, target: Any = None, is_truncated: bool = False, **columns: Any) -> Row:
    """A row as the scoring step makes it: surrounding white space is gone from the answers."""
    samples = tuple(Answer(text=answer.strip(), is_truncated=is_truncated) for answer in answers)
    return Row(row_id="r", answers=samples, target=target, num_completion_tokens=10, columns=columns)


def scorer(name: str, **options: Any) -> Any:
    return make_scorer({"name": name, **options}).scorer


def score(name: str, row: Row, **options: Any) -> Any:
    found = scorer(name, **options).score(row)
    assert found is not None
    return found


def value(name: str, answer: str, target: Any = None, **options: Any) -> Any:
    return score(name, make_row(answer, target=target), **options).values[0]
