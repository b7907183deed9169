"""Whether the contestants give the same answers: a check of sanity, not of quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def compare_answers(
    texts: Mapping[tuple[str, str], Sequence[str]], job: str, reference: str
) -> dict[str, dict[str, float]]:
    """Each contestant's answers against those of `reference`, or of the first that has any.

    In bf16 greedy answers part after some tokens, since sums are ordered differently: so besides the share of rows
    that are equal there is the share of the reference's text that comes before the first difference.
    """
    found = {contestant: answers for (of_job, contestant), answers in texts.items() if of_job == job}
    expected = found.get(reference) or next(iter(found.values()), [])
    return {
        contestant: {
            "equal": _mean([float(a == b) for a, b in zip(answers, expected, strict=True)]),
            "common_beginning": _mean([_common_share(a, b) for a, b in zip(answers, expected, strict=True)]),
        }
        for contestant, answers in found.items()
    }


def _common_share(answer: str, expected: str) -> float:
    return common_length(answer, expected) / len(expected) if expected else float(not answer)


def common_length(first: Sequence[object], second: Sequence[object]) -> int:
    """Length of the beginning that both have in common."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(first), len(second)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
