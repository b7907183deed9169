"""The loop between prompts, engine and parts: requests stay in flight while finished rows are written."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from kfp_llm_batch.engine.group import PREFIX_TOKENS, EngineGroup
from kfp_llm_batch.engine.messages import GenerationRequest
from kfp_llm_batch.generation.answers import PendingAnswer, invalid_completion
from kfp_llm_batch.generation.deadline import Deadline
from kfp_llm_batch.generation.parts import PartWriter
from kfp_llm_batch.generation.preparation import PreparedRow
from kfp_llm_batch.generation.progress import ProgressReport

ROWS_PER_WINDOW = 4096
TOKENS_PER_WINDOW = 2**20
"""Rows are ordered and searched for duplicates together up to either bound; it bounds memory, not the engine."""


def pending_answers(
    batches: Iterable[list[PreparedRow]],
    writer: PartWriter,
    done: Sequence[int],
    rows_per_window: int = ROWS_PER_WINDOW,
) -> Iterator[PendingAnswer]:
    """Answers to be generated, in the order that serves the engine; invalid rows go to the writer at once.

    Args:
        batches: All rows.
        writer: Takes the invalid ones.
        done: By a row's number, whether it has its answer already.
        rows_per_window: Rows that are ordered together; 1 keeps the order of `batches`.
    """
    for window in _windows((row for batch in batches for row in batch if not done[row.row]), rows_per_window):
        for row in window:
            if row.fault:
                writer.add(row.row, invalid_completion(row))
        yield from in_engine_order(without_duplicates(row for row in window if not row.fault))


def _windows(rows: Iterable[PreparedRow], rows_per_window: int) -> Iterator[list[PreparedRow]]:
    window: list[PreparedRow] = []
    tokens = 0
    for row in rows:
        window.append(row)
        tokens += len(row.token_ids)
        if len(window) == rows_per_window or tokens >= TOKENS_PER_WINDOW:
            yield window
            window, tokens = [], 0
    if window:
        yield window


def without_duplicates(rows: Iterable[PreparedRow]) -> list[PendingAnswer]:
    """Identical requests as one answer, for which all their rows wait."""
    answers: dict[str, PendingAnswer] = {}
    for row in rows:
        if row.request_key in answers:
            answers[row.request_key].rows.append(row)
        else:
            answers[row.request_key] = PendingAnswer(rows=[row])
    return list(answers.values())


def in_engine_order(answers: list[PendingAnswer]) -> list[PendingAnswer]:
    """Prompts with a common beginning one after the other, the largest such groups first; else the longest first.

    Long prompts first leave short ones for the end, when the batch empties.
    """

    def prefix(answer: PendingAnswer) -> tuple[int, ...]:
        return tuple(answer.rows[0].token_ids[:PREFIX_TOKENS])

    sizes = Counter(prefix(answer) for answer in answers)

    def place(answer: PendingAnswer) -> tuple[int, tuple[int, ...], int]:
        beginning = prefix(answer)
        shared = sizes[beginning]
        return -shared, beginning if shared > 1 else (), -len(answer.rows[0].token_ids)

    return sorted(answers, key=place)


class _Flight(NamedTuple):
    """A request that the engine has."""

    answer: PendingAnswer
    sample: int
    started: float


class AnswerLoop:
    """Feeds the engine continuously and hands finished rows to the writer.

    Args:
        engine: Running engines.
        writer: Takes finished rows.
        progress: Told of finished rows.
        max_in_flight: Most requests handed to the engine and not yet answered.
        deadline: Ends the loop; nothing is begun that is not likely to be finished by then.
    """

    def __init__(
        self,
        *,
        engine: EngineGroup,
        writer: PartWriter,
        progress: ProgressReport,
        max_in_flight: int,
        deadline: Deadline,
    ) -> None:
        self._engine = engine
        self._writer = writer
        self._progress = progress
        self._max_in_flight = max_in_flight
        self._deadline = deadline
        self._in_flight: dict[int, _Flight] = {}
        self._next_id = 0
        self._longest_seconds = 0.0

    def run(self, answers: Iterator[PendingAnswer]) -> None:
        """Answer everything, or what the deadline lets; never drains the engine while rows are left."""
        while not self._deadline.is_within(0):
            if requests := list(self._next_requests(answers)):
                self._engine.submit(requests)
            if not self._in_flight:
                return
            self._progress.add(0, 0)
            self._writer.flush_if_old()
            for finished in self._engine.receive(timeout_seconds=1.0):
                flight = self._in_flight.pop(finished.request_id)
                self._longest_seconds = max(self._longest_seconds, time.monotonic() - flight.started)
                if flight.answer.add(flight.sample, finished):
                    self._write(flight.answer)

    def _next_requests(self, answers: Iterator[PendingAnswer]) -> Iterator[GenerationRequest]:
        while self._may_begin() and (answer := next(answers, None)):
            for sample in range(answer.samples):
                self._in_flight[self._next_id] = _Flight(answer, sample, time.monotonic())
                yield GenerationRequest(
                    request_id=self._next_id,
                    token_ids=answer.rows[0].token_ids,
                    sampling=answer.sampling(sample),
                )
                self._next_id += 1

    def _may_begin(self) -> bool:
        return len(self._in_flight) < self._max_in_flight and not self._deadline.is_within(self._longest_seconds)

    def _write(self, answer: PendingAnswer) -> None:
        for row, completion in answer.completions():
            self._writer.add(row, completion)
        self._progress.add(len(answer.rows), sum(output.num_tokens for output in answer.outputs.values()))
