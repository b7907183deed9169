"""The tables of a comparison, in Markdown: ratios, who did not run, the roofline, the machine."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

_HEAD = (
    "contestant",
    "total s",
    "cold s",
    "load s",
    "generate s",
    "first row s",
    "tokens/s",
    "total, times faster",
    "generation, times faster",
    "peak MiB",
    "equal answers",
    "common beginning",
)


def report(results: dict[str, Any]) -> str:
    """Everything that was measured, for a reader."""
    parts = [_machine(results), *(_job(results, job) for job in results["jobs"]), _not_run(results)]
    if "roofline" in results:
        parts.append(_roofline(results["roofline"]))
    parts.append(_contestants(results))
    return "\n\n".join(part for part in parts if part) + "\n"


def medians(results: dict[str, Any], job: str) -> dict[str, dict[str, float]]:
    """What each contestant that ran took in the warm rounds, by measure; `cold` where there was a cold round."""
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(run["contestant"] for run in results["runs"]):
        good = [run for run in results["runs"] if (run["job"], run["contestant"], run["error"]) == (job, name, None)]
        if warm := [run for run in good if run["round"]]:
            found[name] = _median_of(warm)
            if cold := [run["seconds"] for run in good if not run["round"]]:
                found[name]["cold"] = statistics.median(cold)
    return found


def _median_of(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    names = ("seconds", "load_seconds", "generate_seconds", "first_row_seconds", "peak_mib")
    values = {name: statistics.median(run[name] for run in runs) for name in names}
    speeds = [sum(run["tokens"]) / run["generate_seconds"] for run in runs]
    spread = {"tokens_per_second_deviation": statistics.stdev(speeds)} if len(speeds) > 1 else {}
    return {**values, "tokens_per_second": statistics.mean(speeds), **spread}


def _job(results: dict[str, Any], job: str) -> str:
    facts, found = results["jobs"][job], medians(results, job)
    reference = found.get(results["reference"]) or next(iter(found.values()), {})
    rows = [_row(name, values, reference, results["answers"][job].get(name, {})) for name, values in found.items()]
    title = (
        f"### {job}: {facts['rows']:,} rows, {sum(facts['prompt_lengths']):,} prompt tokens, "
        f"answers of at most {facts['max_tokens']} tokens"
    )
    faults = [f"- {fault}" for run in results["runs"] if run["job"] == job and (fault := _fault(run, facts))]
    return "\n".join([title, "", _table(_HEAD, rows), *([""] if faults else []), *faults])


def _fault(run: dict[str, Any], facts: dict[str, Any]) -> str:
    """What keeps a run out of the table, or makes it another piece of work."""
    who, tokens = f"{run['contestant']}, round {run['round']}", sum(facts["prompt_lengths"])
    if run["error"]:
        return f"{who}: {run['error']}"
    return f"{who}: other prompts, of {run['prompt_tokens']:,} tokens" if run["prompt_tokens"] != tokens else ""


def _row(
    name: str, values: dict[str, float], reference: dict[str, float], answers: dict[str, float]
) -> tuple[str, ...]:
    return (
        name,
        f"{values['seconds']:.1f}",
        f"{values['cold']:.1f}" if "cold" in values else "",
        f"{values['load_seconds']:.1f}",
        f"{values['generate_seconds']:.1f}",
        f"{values['first_row_seconds']:.1f}",
        _speed(values),
        f"{reference['seconds'] / values['seconds']:.2f}",
        f"{values['tokens_per_second'] / reference['tokens_per_second']:.2f}",
        f"{values['peak_mib']:,.0f}",
        f"{answers.get('equal', 0):.0%}",
        f"{answers.get('common_beginning', 0):.0%}",
    )


def _speed(values: dict[str, float]) -> str:
    deviation = values.get("tokens_per_second_deviation")
    return f"{values['tokens_per_second']:,.0f}" + (f" ± {deviation:,.0f}" if deviation is not None else "")


def _machine(results: dict[str, Any]) -> str:
    machine = results["machine"]
    return (
        f"Measured {results['created_at']} on {machine['cpu_model']}, {machine['instruction_set']}, "
        f"{machine['physical_cores']} cores, {machine['memory_limit_bytes'] / 2**30:.0f} GiB, "
        f"kernel {machine['kernel']}, Python {machine['python']}. Model {results['model']}, bf16. "
        f"Medians of warm rounds, of tokens/s the mean and standard deviation; `cold` is one round with an empty "
        f"compile cache; times faster than {results['reference']}."
    )


def _not_run(results: dict[str, Any]) -> str:
    if not results["not_run"]:
        return ""
    return "\n".join(["### Not run", "", *(f"- {name}: {reason}" for name, reason in results["not_run"].items())])


def _contestants(results: dict[str, Any]) -> str:
    lines = []
    for name in dict.fromkeys(run["contestant"] for run in results["runs"] if not run["error"]):
        run = next(run for run in results["runs"] if run["contestant"] == name and not run["error"])
        versions = ", ".join(f"{package} {version}" for package, version in run["versions"].items())
        settings = ", ".join(f"{key}={value}" for key, value in run["settings"].items())
        lines.append(f"- **{name}**: {results['notes'][name]}. {versions}. Settings: {settings}.")
    return "\n".join(["### Contestants", "", *lines])


def _roofline(roofline: dict[str, Any]) -> str:
    machine = roofline["machine"]
    speeds = ", ".join(f"{name}: {value:.3f}" for name, value in machine["bf16_tflops"].items())
    head = ("job", "phase", "GFLOP", "GB", "bound by", "s at the limit", "s measured", "share reached")
    rows = [
        (
            entry["job"],
            entry["phase"],
            f"{entry['flops'] / 1e9:,.0f}",
            f"{entry['bytes'] / 1e9:,.1f}",
            entry["bound"],
            f"{entry['limit_seconds']:.2f}",
            f"{entry['measured_seconds']:.2f}",
            f"{entry['limit_seconds'] / entry['measured_seconds']:.0%}",
        )
        for entry in roofline["phases"]
    ]
    title = f"### Roofline of ours_step: {machine['read_gb_per_second']:.1f} GB/s; bf16 TFLOP/s {speeds}"
    return "\n".join([title, "", _table(head, rows)])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
