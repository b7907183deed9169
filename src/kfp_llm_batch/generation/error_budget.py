"""How many rows may stay without an answer before the run fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from kfp_llm_batch.errors import BatchError, DataError, EngineError
from kfp_llm_batch.schemas import FAULTY

MIN_ROWS = 100
"""A run is not ended by what its first few rows are like."""


class ErrorBudget:
    """Counts rows without an answer, and ends a run that has more of them than it may.

    Args:
        max_rate: Share of all rows that may stay without an answer.
        rows: All rows.
        is_shard: Whether the run answers only some of them; another step then has the last word on all.
    """

    def __init__(self, max_rate: float, rows: int, *, is_shard: bool = False) -> None:
        self._max_rate = max_rate
        self._rows = rows
        self._is_shard = is_shard
        self._counted = 0
        self._errors: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def count(self, completion: dict[str, Any]) -> None:
        """Take one finished row.

        Raises:
            DataError: The budget can no longer be kept, most of it spent on rows found invalid.
            EngineError: The same, most of it on rows that the engine did not answer.
        """
        self._counted += 1
        if completion["status"] not in FAULTY:
            return
        code = completion["error"]["code"]
        self._errors[completion["status"]] += 1
        self.codes[code] += 1
        self._first.setdefault(code, f", the first row {completion['row_id']!r}: {completion['error']['message']}")
        if self._counted >= MIN_ROWS and self._errors.total() > self._max_rate * self._rows:
            raise self._exceeded(self._rows)

    def check_finished(self, rows: int) -> None:
        """The last word, when all rows that will be are finished.

        Raises:
            DataError, EngineError: As for `count`; also if none of them was answered.
        """
        if self._is_shard:
            return
        if self._errors.total() > self._max_rate * rows or 0 < rows == self._errors.total():
            raise self._exceeded(rows)

    def again(self) -> ErrorBudget:
        """The same, nothing counted yet."""
        return ErrorBudget(self._max_rate, self._rows, is_shard=self._is_shard)

    def take(self, rows_by_status: Mapping[str, int], errors_by_code: Mapping[str, int]) -> None:
        """Take rows that were counted elsewhere, of which only numbers are left."""
        self._errors.update({status: rows_by_status.get(status, 0) for status in FAULTY})
        self.codes.update(errors_by_code)

    def _exceeded(self, rows: int) -> BatchError:
        kind = DataError if self._errors["invalid"] >= self._errors["failed"] else EngineError
        codes = "; ".join(f"{count} {code}{self._first.get(code, '')}" for code, count in self.codes.most_common(5))
        return kind(
            f"{self._errors.total()} of {rows} rows have no answer (max_error_rate is {self._max_rate:g}): {codes}",
            remedy="Mend the rows or the settings; what was answered is kept in the checkpoint.",
        )
