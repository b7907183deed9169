"""How many fields of a JSON target the answer has right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

from kfp_llm_batch.evaluation.scorers.json_answers import INVALID, parsed, parsed_answer
from kfp_llm_batch.evaluation.scorers.protocol import Metric, Row, Score

_ABSENT = object()
Path = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class JsonFields:
    """The share of the target's fields that the answer has with the same value; nested ones count each.

    Numbers are compared as numbers, so that 1 and 1.0 are equal; texts and types exactly. Fields that the target does
    not have change nothing. The second metric is 1 if all are right.
    """

    version: ClassVar[int] = 1
    needs_target: ClassVar[bool] = True
    takes_objects: ClassVar[bool] = True
    metrics: ClassVar[Sequence[Metric]] = (Metric(name="json_fields"), Metric(name="json_fields_all_right"))

    fields: Sequence[str] = ()
    """Top-level fields to look at; none means all of the target."""
    code_block: bool = True
    """Whether the answer may stand in a Markdown code block."""

    def score(self, row: Row) -> Score | None:
        """Compare every answer with the target: an object, or its JSON text."""
        target = parsed(row.target) if isinstance(row.target, str) else row.target
        if not isinstance(target, Mapping):
            return None
        names = [name for name in self.fields or target if name in target]
        if not names:
            return None
        expected = dict(_leaves({name: target[name] for name in names}))
        shares = [self._share(parsed_answer(answer, self.code_block), expected) for answer in row.answers]
        return Score((fmean(shares), fmean(share == 1 for share in shares)))

    def _share(self, value: Any, expected: Mapping[Path, Any]) -> float:
        found = {} if value is INVALID else dict(_leaves(value))
        return fmean(_is_equal(found.get(path, _ABSENT), leaf) for path, leaf in expected.items())


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """All values that hold no others, with the way to them; an empty object or list is such a value."""
    if isinstance(value, Mapping) and value:
        for name, entry in value.items():
            yield from _leaves(entry, (*path, name))
    elif isinstance(value, list) and value:
        for index, entry in enumerate(value):
            yield from _leaves(entry, (*path, index))
    else:
        yield path, value


def _is_equal(found: Any, expected: Any) -> bool:
    if isinstance(found, bool) or isinstance(expected, bool):
        return found is expected
    return bool(found == expected)
