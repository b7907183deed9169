"""Draws a comparison: for each job, how long every contestant took, split into load and generation.

Runs in an environment of its own: python benchmarks/charts.py RESULTS.json; writes RESULTS.png and RESULTS.svg.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

_OURS, _OTHERS, _LOAD, _COLD = "#1f6fb4", "#7a7a7a", 0.45, "#b3401f"
_FACE = {"font.size": 9, "svg.hashsalt": "compare", "axes.spines.top": False, "axes.spines.right": False}


def _warm_runs(results: dict[str, Any], job: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for run in results["runs"]:
        if run["job"] == job and run["round"] and not run["error"]:
            found.setdefault(run["contestant"], []).append(run)
    return found


def _median(runs: list[dict[str, Any]], name: str) -> float:
    return float(statistics.median(run[name] for run in runs))


def _draw_job(axes: Any, results: dict[str, Any], job: str) -> None:
    runs = _warm_runs(results, job)
    names = sorted(runs, key=lambda name: _median(runs[name], "seconds"), reverse=True)
    reference = runs.get(results["reference"])
    for place, name in enumerate(names):
        total, generate = _median(runs[name], "seconds"), _median(runs[name], "generate_seconds")
        colour = _OURS if name.startswith("ours") else _OTHERS
        axes.barh(place, total - generate, color=colour, alpha=_LOAD)
        axes.barh(place, generate, left=total - generate, color=colour)
        ratio = f"  {_median(reference, 'seconds') / total:.2f}x" if reference else ""
        longest = max(run["seconds"] for run in runs[name])
        axes.text(longest, place, f" {total:,.1f} s{ratio}", va="center")
        if len(runs[name]) > 1:
            axes.plot([run["seconds"] for run in runs[name]], [place] * len(runs[name]), "k|", markersize=9)
        for run in results["runs"]:
            if (run["job"], run["contestant"], run["round"], run["error"]) == (job, name, 0, None):
                axes.plot([run["seconds"]] * 2, [place - 0.4, place + 0.4], color=_COLD)
    axes.set_yticks(range(len(names)), names)
    axes.set_xmargin(0.2)
    facts = results["jobs"][job]
    axes.set_title(f"{job}: {facts['rows']:,} rows, at most {facts['max_tokens']} tokens each", loc="left")
    axes.set_xlabel("seconds, whole process")


def main() -> None:
    """Draw one panel for each job."""
    path = Path(sys.argv[1])
    results = json.loads(path.read_text(encoding="utf-8"))
    jobs = [job for job in results["jobs"] if _warm_runs(results, job)]
    if not jobs:
        raise SystemExit("nobody ran")
    plt.rcParams.update(_FACE)
    heights = [1.1 + 0.32 * len(_warm_runs(results, job)) for job in jobs]
    figure, panels = plt.subplots(
        len(jobs), figsize=(9, sum(heights) + 0.8), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for axes, job in zip(panels[:, 0], jobs, strict=True):
        _draw_job(axes, results, job)
    machine = results["machine"]
    figure.suptitle(
        f"{results['model']}, {machine['cpu_model']} {machine['instruction_set']}, {machine['physical_cores']} cores\n"
        f"light: until ready, dark: generation, red: with an empty cache, black: single rounds; "
        f"times faster than {results['reference']}",
        fontsize=9,
    )
    figure.tight_layout()
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=120, metadata={"Date": None} if suffix == ".svg" else None)


if __name__ == "__main__":
    main()
