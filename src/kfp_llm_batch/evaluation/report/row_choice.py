"""Which rows a report shows, and what of them: those that turned first, then those that are wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kfp_llm_batch.evaluation.comparison import Comparison
from kfp_llm_batch.evaluation.run_folder import EvaluatedRun
from kfp_llm_batch.evaluation.scorers.protocol import FloatArray
from kfp_llm_batch.evaluation.statistics.measurements import IntArray

MOST_ROWS = 2_000
MOST_CHARACTERS = 4_000_000
"""Of all shown texts together: a page of some megabytes opens at once."""
_LONGEST_ANSWER = 4_000
_LONGEST_SOURCE = 1_000


def shown_rows(
    run: EvaluatedRun, metric: str, comparison: Comparison | None, baseline: EvaluatedRun | None
) -> list[dict[str, Any]]:
    """The most telling rows, with both answers, the target, the source columns and all scores.

    Args:
        run: The candidate.
        metric: By which rows are called right or wrong.
        comparison: With the baseline, if there is one.
        baseline: The run that it was compared with.
    """
    scores = run.table.values(metric)
    earlier = np.full(len(scores), np.nan)
    places: dict[int, int] = {}
    if comparison and baseline and metric in baseline.measurements.metrics:
        earlier[comparison.candidate_rows] = baseline.table.values(metric)[comparison.baseline_rows]
    if comparison:
        places = dict(zip(comparison.candidate_rows.tolist(), comparison.baseline_rows.tolist(), strict=True))
    sign = run.measurements.metrics[metric].sign
    numbers = _most_telling(sign * scores, sign * earlier)
    before = None if baseline is None else _Texts(baseline)
    texts = _Texts(run)
    shown: list[dict[str, Any]] = []
    characters = 0
    for number in numbers.tolist():
        row = texts.row(number)
        place = places.get(number)
        if before and place is not None:
            row["before"] = before.answer(place)
            row["score_before"] = _plain(earlier[number])
        row |= {"score": _plain(scores[number]), "turned": _turned(sign * scores[number], sign * earlier[number])}
        characters += sum(len(str(value)) for value in row.values())
        if characters > MOST_CHARACTERS:
            break
        shown.append(row)
    return shown


def _most_telling(scores: FloatArray, earlier: FloatArray) -> IntArray:
    """Numbers of rows: right to wrong, wrong to right, then the worst scores; rows without a score last."""
    change = np.nan_to_num(scores - earlier)
    rank = np.select([change < 0, change > 0, np.isnan(scores)], [0, 1, 3], default=2)
    return np.asarray(np.lexsort((np.arange(len(scores)), np.nan_to_num(scores), rank))[:MOST_ROWS])


def _turned(score: float, earlier: float) -> str:
    if np.isnan(score) or np.isnan(earlier) or score == earlier:
        return ""
    return "worse" if score < earlier else "better"


class _Texts:
    """The texts of a table of scores, by the number of the row."""

    def __init__(self, run: EvaluatedRun) -> None:
        names = ("row_id", "status", "finish_reason", "answer", "target")
        self._columns = {name: run.table.column(name) for name in names}
        # It is shown as the target already.
        target = run.manifest.target_column
        self._sources = {name: run.table.source(name) for name in run.table.source_names if name != target}
        self._extracted = {key: run.table.column(f"extracted.{key}") for key in (named.key for named in run.scorers)}

    def answer(self, number: int) -> str | None:
        """One answer, shortened."""
        return _shortened(self._columns["answer"][number].as_py(), _LONGEST_ANSWER)

    def row(self, number: int) -> dict[str, Any]:
        """Everything that is shown of a row."""
        own = {name: column[number].as_py() for name, column in self._columns.items()}
        return {
            "id": own["row_id"],
            "status": "truncated" if own["finish_reason"] == "length" else own["status"],
            "answer": _shortened(own["answer"], _LONGEST_ANSWER),
            "target": _shortened(own["target"], _LONGEST_SOURCE),
            "source": _texts({name: column[number].as_py() for name, column in self._sources.items()}),
            "extracted": _texts({key: column[number].as_py() for key, column in self._extracted.items()}),
        }


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(_shortened(str(value), _LONGEST_SOURCE)) for name, value in values.items() if value is not None}


def _shortened(text: str | None, most: int) -> str | None:
    return text if text is None or len(text) <= most else f"{text[:most]} \u2026"


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
