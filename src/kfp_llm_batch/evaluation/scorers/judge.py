"""What another model thinks of the answer: a grade, or whether it is better than the target."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from kfp_llm_batch.dataset.config import DatasetConfig
from kfp_llm_batch.dataset.loading import load_dataset
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.evaluation.completion_rows import Completions
from kfp_llm_batch.evaluation.scorers.protocol import Metric, PreparedScorer, Row, Score, Scorer, as_text, target_texts
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.generation.sampling import SamplingConfig

GRADE, COMPARE = "grade", "compare"
FIRST, SECOND, TIE = "first", "second", "tie"
_MAX_TOKENS = 32
_GRADING = """Grade an answer.

Question:
{{ question }}
{% if target %}
A right answer:
{{ target }}
{% endif %}
The answer to grade:
{{ answer }}

Go by this: {{ criteria }}. 1 is the worst grade and {{ grades }} the best. Reply with JSON such as {"grade": 1}."""
_COMPARING = """Which of two answers is better?

Question:
{{ question }}

The first answer:
{{ first }}

The second answer:
{{ second }}

Go by this: {{ criteria }}. Reply with JSON: {"winner": "first"}, {"winner": "second"} or {"winner": "tie"}."""

Question = dict[str, Any]
"""What a prompt is made of."""
Verdicts = Mapping[str, int | str]
"""Grade or winner, by the key of the question."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A model's grade of the answer from 0 to 1, or its choice between the answer and the target.

    Answer and target are compared in both orders, since models prefer a place: 1 if the answer wins, 0.5 for a tie, 0
    if the target wins, the mean of both orders. A row that the judge says nothing readable of is not scored.
    """

    version: ClassVar[int] = 1

    model_uri: str
    """The judge, as the parameter model_uri."""
    question_column: str
    """Column with what was asked."""
    model_revision: str | None = None
    mode: str = GRADE
    """`grade`, or `compare` with the target."""
    criteria: str = "it is correct, complete, and answers what was asked"
    grades: int = 5
    """How many there are."""
    prompt: str | None = None
    """Jinja2 template instead of the built-in one, over question, criteria, grades, answer and target, or over
    question, criteria, first and second."""

    def __post_init__(self) -> None:
        if self.mode not in (GRADE, COMPARE):
            raise ConfigurationError("Scorer judge: unknown mode", received=self.mode, allowed=[GRADE, COMPARE])
        if not 2 <= self.grades <= 100:
            raise ConfigurationError(
                "Scorer judge: grades is out of bounds", received=self.grades, allowed=["2 to 100"]
            )

    @property
    def needs_target(self) -> bool:
        """A grade can do without."""
        return self.mode == COMPARE

    @property
    def metrics(self) -> Sequence[Metric]:
        """The mean; for comparisons also how often the order of the two did not matter."""
        if self.mode == GRADE:
            return (Metric(name="judge_grade"),)
        return Metric(name="judge_preference"), Metric(name="judge_consistency", higher_is_better=None, missing=None)

    def prepare(self, rows: Callable[[], Iterator[Row]], folder: Path) -> Scorer:
        """Ask the judge about every sample of every row; what is asked twice is answered once."""
        asked = {
            _key(question): question
            for row in rows()
            for answer in row.answers
            for question in self._questions(row, answer.text)
        }
        verdicts = self._asked(asked, folder / "judge") if asked else {}
        return PreparedScorer(origin=self, score_row=partial(self._score, verdicts=verdicts))

    def score(self, row: Row) -> Score | None:
        """Nothing is known of a row before the judge was asked."""
        return None

    def _score(self, row: Row, *, verdicts: Verdicts) -> Score:
        samples = [
            [verdicts.get(_key(question)) for question in self._questions(row, answer.text)] for answer in row.answers
        ]
        if not samples or any(not sample or None in sample for sample in samples):
            return Score((None,) * len(self.metrics))
        values = [
            [self._value(verdict, order) for order, verdict in enumerate(sample) if verdict is not None]
            for sample in samples
        ]
        mean, shown = fmean(map(fmean, values)), " and ".join(map(str, samples[0]))
        if self.mode == GRADE:
            return Score((mean,), extracted=shown)
        return Score((mean, fmean(len(set(sample)) == 1 for sample in values)), extracted=shown)

    def _value(self, verdict: int | str, order: int) -> float:
        """From 0 to 1; the answer is the first of two, and in the other order the second."""
        if self.mode == GRADE:
            return (int(verdict) - 1) / (self.grades - 1)
        return 0.5 if verdict == TIE else float(verdict == (FIRST, SECOND)[order])

    def _questions(self, row: Row, answer: str) -> list[Question]:
        """What the judge is asked of one sample: nothing, if there is nothing to compare it with."""
        asked = {"question": as_text(row.columns[self.question_column] or ""), "criteria": self.criteria}
        targets = target_texts(row)
        if self.mode == GRADE:
            return [{**asked, "answer": answer, "target": " | ".join(targets), "grades": self.grades}]
        pairs = [(answer, targets[0]), (targets[0], answer)] if targets else []
        return [{**asked, "first": first, "second": second} for first, second in pairs]

    def _asked(self, questions: Mapping[str, Question], folder: Path) -> Verdicts:
        folder.mkdir()
        dataset = folder / "questions.jsonl"
        with dataset.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"id": key, **question}) + "\n" for key, question in questions.items())
        template = self.prompt or (_GRADING if self.mode == GRADE else _COMPARING)
        load_dataset(DatasetConfig(uri=str(dataset), id_column="id", prompt_template=template), folder / "prompts")
        sampling = SamplingConfig(max_tokens=_MAX_TOKENS, temperature=0.0, json_schema=self._schema())
        config = GenerationConfig(model_uri=self.model_uri, model_revision=self.model_revision, sampling=sampling)
        generate(config, folder / "prompts", folder / "verdicts")
        read = ((row.row_id, self._read(row)) for row in Completions(folder / "verdicts", None).rows())
        return {key: verdict for key, verdict in read if verdict is not None}

    def _schema(self) -> dict[str, Any]:
        name, allowed = self._allowed()
        return {
            "type": "object",
            "properties": {name: {"enum": list(allowed)}},
            "required": [name],
            "additionalProperties": False,
        }

    def _allowed(self) -> tuple[str, Sequence[int | str]]:
        return ("grade", range(1, self.grades + 1)) if self.mode == GRADE else ("winner", (FIRST, SECOND, TIE))

    def _read(self, row: Row) -> int | str | None:
        name, allowed = self._allowed()
        try:
            verdict = json.loads(row.answers[0].text)[name]
        except (IndexError, ValueError, KeyError, TypeError):
            return None
        # The one that is allowed, and not what equals it: true is 1 to Python, and no grade.
        return next((entry for entry in allowed if entry == verdict and type(entry) is type(verdict)), None)


def _key(question: Question) -> str:
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
