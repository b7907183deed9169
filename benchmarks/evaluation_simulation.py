"""Whether the evaluation's statistics keep what they say, on simulated runs whose truth is known.

Three questions: how often the gate fails runs that are as good as their baseline, how often it fails runs that lost
five points against the power that it printed, and how often an interval of 95 percent holds the true value.

Run: .venv/bin/python -m benchmarks.evaluation_simulation --output benchmarks/results/evaluation_simulation.json
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from kfp_llm_batch.evaluation.gate import ALPHA, GateConfig, decide, power_at
from kfp_llm_batch.evaluation.scorers.protocol import Metric
from kfp_llm_batch.evaluation.statistics.intervals import CONFIDENCE, Interval, interval_of
from kfp_llm_batch.evaluation.statistics.measurements import FloatArray, Measurements, of_statistics, of_values
from kfp_llm_batch.evaluation.statistics.paired import compare

RUNS = 1_000
SLOW_RUNS = 200
"""Of what is resampled, which takes a second each."""
MARGIN = 0.02
SHARE = Metric(name="share")

Draw = np.random.Generator
Pair = tuple[FloatArray, FloatArray]


def rates(draw: Draw, rows: int, churn: float, loss: float, accuracy: float = 0.6) -> Pair:
    """Answers of two runs, right or wrong; `churn` of the rows turn in each direction by chance alone."""
    turned = draw.choice([0, 1, 2], size=rows, p=[1 - 2 * churn - loss, churn + loss, churn])
    baseline = (draw.random(rows) < accuracy).astype(np.float64)
    baseline[turned == 1], candidate = 1.0, baseline.copy()
    baseline[turned == 2] = 0.0
    candidate[turned == 1], candidate[turned == 2] = 0.0, 1.0
    return candidate, baseline


def means(draw: Draw, rows: int, churn: float, loss: float) -> Pair:
    """Scores like F1: many ones and zeros, the rest between; `churn` of the rows get another score by chance alone."""
    baseline = np.clip(draw.beta(0.6, 0.4, rows) * 1.2 - 0.1, 0, 1)
    other = np.clip(draw.beta(0.6, 0.4, rows) * 1.2 - 0.1, 0, 1)
    candidate = np.where(draw.random(rows) < churn, other, baseline)
    return np.where(draw.random(rows) < 2 * loss, candidate * (1 - 1 / (2 * baseline.mean())), candidate), baseline


def gate_outcomes(draw: Draw, make: Callable[[Draw], Pair], runs: int, loss: float) -> dict[str, Any]:
    """How the gate decides over simulated comparisons, and what power it printed."""
    config, outcomes, powers = GateConfig(margin=MARGIN), Counter[str](), []
    for _ in range(runs):
        candidate, baseline = make(draw)
        paired = compare(of_values(candidate), of_values(baseline))
        outcomes[decide([(SHARE, paired)], config).outcome] += 1
        powers.append(power_at(loss, SHARE, paired, config))
    return {
        "runs": runs,
        "true_loss": loss,
        "outcomes": dict(sorted(outcomes.items())),
        "fail_share": outcomes["fail"] / runs,
        "pass_share": outcomes["pass"] / runs,
        "printed_power": float(np.mean(powers)),
        "simulation_error": math.sqrt(0.25 / runs),
    }


def coverage(draw: Draw, make: Callable[[Draw], tuple[Interval | None, float]], runs: int) -> dict[str, Any]:
    """How often intervals hold the truth; where none can be told, that counts as a miss."""
    made = [make(draw) for _ in range(runs)]
    held = sum(interval is not None and interval.low <= truth <= interval.high for interval, truth in made)
    methods = Counter(interval.method if interval else "none" for interval, _ in made)
    error = math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / runs)
    return {"runs": runs, "coverage": held / runs, "simulation_error": error, "methods": dict(methods)}


def rate_interval(rows: int, truth: float) -> Callable[[Draw], tuple[Interval | None, float]]:
    """One run's share of right answers."""
    return lambda draw: (interval_of(of_values((draw.random(rows) < truth).astype(np.float64))), truth)


def mean_interval(rows: int) -> Callable[[Draw], tuple[Interval | None, float]]:
    """One run's mean of a skewed score."""
    return lambda draw: (interval_of(of_values(draw.beta(0.5, 2.0, rows))), 0.2)


def cluster_interval(clusters: int) -> Callable[[Draw], tuple[Interval | None, float]]:
    """Rows that hang together: each cluster has a rate of its own, and up to eight rows."""

    def make(draw: Draw) -> tuple[Interval | None, float]:
        sizes = draw.integers(1, 9, clusters)
        owners = np.repeat(np.arange(clusters), sizes)
        values = (draw.random(len(owners)) < draw.beta(1.2, 0.8, clusters)[owners]).astype(np.float64)
        return interval_of(of_values(values, owners)), 0.6

    return make


def ratio_interval(rows: int) -> Callable[[Draw], tuple[Interval | None, float]]:
    """A metric of all rows together: a ratio of sums, as precision and BLEU are."""

    def make(draw: Draw) -> tuple[Interval | None, float]:
        whole = draw.gamma(2.0, 1.0, rows)
        columns = np.column_stack([whole * draw.beta(2.0, 3.0, rows), whole])
        return interval_of(_ratio(columns)), 0.4

    return make


def _ratio(columns: FloatArray) -> Measurements:
    return of_statistics(columns, lambda sums: float(sums[0] / sums[1]))


def difference_interval(make: Callable[[Draw], Pair], truth: float) -> Callable[[Draw], tuple[Interval | None, float]]:
    """The difference of two runs on the same rows."""

    def made(draw: Draw) -> tuple[Interval | None, float]:
        candidate, baseline = make(draw)
        return compare(of_values(candidate), of_values(baseline)).interval, truth

    return made


def simulate(seed: int, output: Path) -> None:
    """All simulations; prints and writes each as it is done."""
    draw = np.random.default_rng(seed)
    found: dict[str, Any] = {"alpha": ALPHA, "margin": MARGIN, "seed": seed, "gate": {}, "coverage": {}}
    found["versions"] = {name: version(name) for name in ("numpy", "scipy", "statsmodels")}

    def keep(kind: str, name: str, result: dict[str, Any]) -> None:
        found[kind][name] = result
        print(name, json.dumps(result), flush=True)
        output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

    for rows, churn in ((200, 0.02), (200, 0.1), (1000, 0.02), (1000, 0.05), (1000, 0.15)):
        for loss in (0.0, 0.05):
            name = f"rates, {rows} rows, {churn:.0%} turn each way, true loss {100 * loss:.0f} points"
            keep("gate", name, gate_outcomes(draw, partial(rates, rows=rows, churn=churn, loss=loss), RUNS, loss))
    for rows, truth in ((50, 0.1), (200, 0.5), (1000, 0.9)):
        keep("coverage", f"rate {truth} of {rows} rows", coverage(draw, rate_interval(rows, truth), 10 * RUNS))
    for rows, churn, loss in ((200, 0.02, 0.0), (200, 0.1, 0.05), (1000, 0.05, 0.0)):
        name = f"difference of rates, {rows} rows, {churn:.0%} turn each way, loss {loss}"
        made = difference_interval(partial(rates, rows=rows, churn=churn, loss=loss), -loss)
        keep("coverage", name, coverage(draw, made, 5 * RUNS))
    for rows in (100, 400):
        keep("coverage", f"skewed mean of {rows} rows", coverage(draw, mean_interval(rows), SLOW_RUNS))
    keep("coverage", "ratio of sums, 300 rows", coverage(draw, ratio_interval(300), SLOW_RUNS))
    keep("coverage", "share of right rows in 100 clusters", coverage(draw, cluster_interval(100), SLOW_RUNS))
    made = difference_interval(partial(means, rows=300, churn=0.3, loss=0.0), 0.0)
    keep("coverage", "difference of means, 300 rows", coverage(draw, made, SLOW_RUNS))
    for loss in (0.0, 0.05):
        name = f"means, 1000 rows, 20% change, true loss {100 * loss:.0f} points"
        keep("gate", name, gate_outcomes(draw, partial(means, rows=1000, churn=0.2, loss=loss), SLOW_RUNS, loss))


def main() -> None:
    """Simulate, and write the raw result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=20_250_101)
    options = parser.parse_args()
    simulate(options.seed, options.output)


if __name__ == "__main__":
    main()
