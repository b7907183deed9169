"""The first pass: what is known of all rows together before any weight is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kfp_llm_batch import termination
from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.engine.decisions import JobFacts
from kfp_llm_batch.generation.answers import invalid_completion
from kfp_llm_batch.generation.checkpoint import RowIndex
from kfp_llm_batch.generation.earlier_result import EarlierResult
from kfp_llm_batch.generation.error_budget import ErrorBudget
from kfp_llm_batch.generation.preparation import PreparedRow
from kfp_llm_batch.hashes import hash_texts
from kfp_llm_batch.manifests import Checksum
from kfp_llm_batch.row_log import RowLog

_NO_KEY = "0" * 64
"""Of rows that are not asked: one with wrong parameters would have the key of another with the run's own."""


@dataclass(kw_only=True)
class Survey:
    """Counts over all rows; of fixed size but for `done` and what the surveyor was asked to keep."""

    rows: int = 0
    requests: int = 0
    faults: int = 0
    longest_prompt_tokens: int = 0
    num_prompt_tokens: int = 0
    max_tokens: int = 0
    keys: Checksum = field(default_factory=Checksum)
    """Of all rows, with the keys that they will have in the result."""
    done: bytearray = field(default_factory=bytearray)
    """By a row's number, 1 where its answer is taken over."""

    def add(self, row: PreparedRow) -> None:
        """Count a row that has to be answered."""
        self.rows += 1
        self.done.append(0)
        self.keys.add(row.row_id, row.request_key)
        if row.fault:
            self.faults += 1
            return
        samples = row.sampling["n"]
        self.requests += samples
        self.num_prompt_tokens += len(row.token_ids) * samples
        self.longest_prompt_tokens = max(self.longest_prompt_tokens, len(row.token_ids))
        self.max_tokens = max(self.max_tokens, min(row.sampling["max_tokens"], row.room))

    def take_over(self, row_id: str, request_key: str) -> None:
        """Count a row that has its answer from an earlier result."""
        self.rows += 1
        self.done.append(1)
        self.keys.add(row_id, request_key)

    def job(self) -> JobFacts:
        """What the engine's settings depend on."""
        return JobFacts(
            requests=self.requests,
            longest_prompt_tokens=self.longest_prompt_tokens,
            mean_prompt_tokens=self.num_prompt_tokens / max(1, self.requests),
            max_tokens=self.max_tokens,
        )


def survey_rows(
    batches: Iterable[list[PreparedRow]], budget: ErrorBudget, earlier: EarlierResult | None, index: RowIndex | None
) -> Survey:
    """Look at every row once.

    Args:
        batches: All rows.
        budget: More invalid rows than it allows end the run here.
        earlier: The result whose rows are taken over.
        index: Told of the request key of every row.

    Raises:
        DataError: Too many rows are invalid, or all.
        InterruptedRunError: SIGTERM has come.
    """
    survey, log = Survey(), RowLog("Checked")
    for batch in batches:
        termination.check()
        for row in batch:
            key = earlier.claim(row.row_id, row.row) if earlier else None
            if key is not None:
                survey.take_over(row.row_id, key)
                continue
            survey.add(row)
            if row.fault:
                budget.count(invalid_completion(row))
        if index:
            index.add([_NO_KEY if row.fault else row.request_key for row in batch])
        log.log(survey.rows)
    budget.check_finished(survey.rows)
    return survey


def hashed_order(prompts: Prompts) -> npt.NDArray[np.int64]:
    """The numbers of all rows, ordered by the hash of their ids: the beginning is a fair sample of the whole."""
    hashes = [hash_texts(batch.column("row_id").to_pylist()) for _, batch in prompts.batches()]
    return np.argsort(np.concatenate([np.empty(0, np.uint64), *hashes]), kind="stable")
