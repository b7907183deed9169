"""What is known of a job's requests from some of its rows, with the model's own tokenizer."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.engine.decisions import JobFacts
from kfp_llm_batch.engine.settings import BLOCK_TOKENS
from kfp_llm_batch.errors import DataError
from kfp_llm_batch.generation.answering import in_engine_order, without_duplicates
from kfp_llm_batch.generation.answers import PendingAnswer
from kfp_llm_batch.generation.preparation import RowPreparer
from kfp_llm_batch.generation.survey import Survey, hashed_order

SAMPLE_ROWS = 2048
"""Of lengths that differ by half, the mean of so many is known to one percent."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Some rows of a job; all of them, if they are few."""

    all_rows: int
    """Of the dataset."""
    rows: int
    """Looked at."""
    faults: int
    """Of these, rows that cannot be answered."""
    facts: JobFacts
    """Of the rows looked at."""
    answers: Sequence[PendingAnswer]
    """In the engine's order, identical requests once."""
    seconds: float
    """That rendering, tokenizing and checking these rows took."""

    @property
    def scale(self) -> float:
        """All rows by the rows looked at."""
        return self.all_rows / self.rows

    @property
    def is_whole(self) -> bool:
        """Whether every row was looked at."""
        return self.rows == self.all_rows

    @property
    def job(self) -> JobFacts:
        """The whole job, what its settings depend on."""
        return dataclasses.replace(self.facts, requests=round(self.facts.requests * self.scale))


def draw_sample(prompts: Prompts, preparer: RowPreparer) -> Sample:
    """Tokenize a fair sample of the rows.

    Raises:
        DataError: There is no row that can be answered.
    """
    started = time.monotonic()
    batches = prompts.batches_in(hashed_order(prompts)[:SAMPLE_ROWS])
    rows = list(itertools.chain.from_iterable(preparer.prepare(batches)))
    survey = Survey()
    for row in rows:
        survey.add(row)
    if not survey.requests:
        code, reason = next(row.fault for row in rows if row.fault)
        raise DataError(
            f"There is nothing to estimate: none of {len(rows)} rows can be answered, the first for {code}: {reason}",
            remedy="Correct the dataset.",
        )
    return Sample(
        all_rows=prompts.manifest.rows,
        rows=survey.rows,
        faults=survey.faults,
        facts=survey.job(),
        answers=in_engine_order(without_duplicates(row for row in rows if not row.fault)),
        seconds=time.monotonic() - started,
    )


class PrefixBlocks:
    """The blocks of prompts that an engine has computed before; it computes each only once."""

    def __init__(self) -> None:
        self._known: set[int] = set()

    def fresh_tokens(self, token_ids: Sequence[int]) -> int:
        """How many tokens of a prompt have to be computed; the prompt is known from then on."""
        chain, known = 0, True
        fresh = len(token_ids)
        for start in range(0, len(token_ids) - BLOCK_TOKENS, BLOCK_TOKENS):  # the last token is always computed
            chain = hash((chain, tuple(token_ids[start : start + BLOCK_TOKENS])))
            known = known and chain in self._known
            fresh -= BLOCK_TOKENS if known else 0
            self._known.add(chain)
        return fresh
