"""Drift without targets: how far inputs and answers moved from the baseline's, by the size of the change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from kfp_llm_batch.evaluation.run_folder import EvaluatedRun
from kfp_llm_batch.evaluation.scorers.protocol import FloatArray

SMALL, LARGE = 0.1, 0.25
"""Below, a change is called small, above, large: of both measures, which go from 0 to 1."""
_NUMBERS = {"prompt tokens": "num_prompt_tokens", "generated tokens": "num_completion_tokens"}
_CLASSES = {"status": "status", "finish reason": "finish_reason"}
_SCORERS_OF_CLASSES = ("classification", "language", "multiple_choice")
_SHOWN_CLASSES = 3


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How far one property of the rows moved; with many rows every change is significant, so its size alone counts."""

    name: str
    effect: float
    measure: str
    """`Kolmogorov-Smirnov` or `Jensen-Shannon`, both distances from 0 to 1."""
    before: str
    now: str

    @property
    def verdict(self) -> str:
        """`small`, `moderate` or `large`."""
        return "small" if self.effect < SMALL else "moderate" if self.effect < LARGE else "large"


def drift(candidate: EvaluatedRun, baseline: EvaluatedRun) -> tuple[Drift, ...]:
    """All properties that both runs have, the largest change first."""
    known = {named.key for named in baseline.scorers}
    keys = [named.key for named in candidate.scorers if named.name in _SCORERS_OF_CLASSES and named.key in known]
    classes = _CLASSES | {f"answers by {key}": f"extracted.{key}" for key in keys}
    found = [
        *(
            _of_numbers(name, baseline.table.numbers(column), candidate.table.numbers(column))
            for name, column in _NUMBERS.items()
        ),
        *(_of_classes(name, _texts(baseline, column), _texts(candidate, column)) for name, column in classes.items()),
    ]
    return tuple(sorted((entry for entry in found if entry is not None), key=lambda entry: -entry.effect))


def _of_numbers(name: str, before: FloatArray, now: FloatArray) -> Drift | None:
    if not len(before) or not len(now):
        return None
    return Drift(
        name=name,
        effect=float(scipy.stats.ks_2samp(before, now, method="asymp").statistic),
        measure="Kolmogorov-Smirnov",
        before=_quartiles(before),
        now=_quartiles(now),
    )


def _of_classes(name: str, before: Sequence[str], now: Sequence[str]) -> Drift | None:
    if not before or not now:
        return None
    counts = Counter(before), Counter(now)
    classes = sorted({*before, *now})
    shares = [[count[entry] for entry in classes] for count in counts]
    return Drift(
        name=name,
        effect=float(scipy.spatial.distance.jensenshannon(*shares, base=2)) if len(classes) > 1 else 0.0,
        measure="Jensen-Shannon",
        before=_commonest(counts[0]),
        now=_commonest(counts[1]),
    )


def _texts(run: EvaluatedRun, column: str) -> list[str]:
    return ["none" if value is None else str(value) for value in run.table.column(column).to_pylist()]


def _quartiles(values: FloatArray) -> str:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"median {middle:,.0f}, half between {low:,.0f} and {high:,.0f}"


def _commonest(counts: Counter[str]) -> str:
    total = counts.total()
    return ", ".join(f"{name} {100 * count / total:.1f}%" for name, count in counts.most_common(_SHOWN_CLASSES))
