"""What the Kubeflow UI shows of a generation: metrics and a short Markdown report."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pyarrow.parquet as pq

from kfp_llm_batch.manifests import ResultManifest

SAMPLE_ROWS = 5
SAMPLE_CHARACTERS = 600
PHASES = ("prepare", "load", "generate")
"""Of a run, one after the other."""

_MARKDOWN_OR_HTML = re.compile(r"[^\w\s.,;?'%/$=-]", re.ASCII)


def metrics(manifest: ResultManifest) -> dict[str, float]:
    """Finite numbers by name; the Kubeflow UI refuses others."""
    statuses = {f"rows_{status}": count for status, count in manifest.rows_by_status.items()}
    seconds = manifest.timings_seconds.get("generate", 0.0)
    reused_tokens = manifest.reused["completion_tokens"]
    values = {
        "rows": manifest.rows_out,
        "rows_left_out": manifest.rows_in - manifest.rows_out,
        **statuses,
        "prompt_tokens": manifest.num_prompt_tokens,
        "completion_tokens": manifest.num_completion_tokens,
        "rows_reused": manifest.reused["rows"],
        "completion_tokens_reused": reused_tokens,
        "completion_tokens_per_second": (manifest.num_completion_tokens - reused_tokens) / seconds if seconds else 0.0,
        **{f"{name}_seconds": value for name, value in manifest.timings_seconds.items()},
    }
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def markdown_report(manifest: ResultManifest, folder: Path) -> str:
    """Counts, the first answers and the first failures; nothing that the model wrote can act as markup."""
    counts = "\n".join(f"| {name} | {value:,.10g} |" for name, value in metrics(manifest).items())
    answers = "\n".join(_answer_line(row) for row in _first_rows(folder, [part.path for part in manifest.parts]))
    failures = "\n".join(_failure_line(row) for row in _first_rows(folder, [part.path for part in manifest.errors]))
    codes = "\n".join(f"| {escape(code)} | {count:,} |" for code, count in manifest.errors_by_code.items())
    sections = [f"# Completions by {escape(str(manifest.model.get('uri')))}"]
    if manifest.is_partial:
        sections.append(f"**Partial: {manifest.rows_out:,} of {manifest.rows_in:,} rows; the time was over.**")
    sections.append(f"| metric | value |\n|---|---|\n{counts}")
    if comparison := estimate_table(manifest):
        sections.append(f"## Estimate and truth\n\n{comparison}")
    if codes:
        sections.append(f"## Rows without an answer\n\n| code | rows |\n|---|---|\n{codes}")
    if answers:
        sections.append(f"## First answers\n\n| row | status | answer |\n|---|---|---|\n{answers}")
    if failures:
        sections.append(f"## First rows without an answer\n\n| row | code | message |\n|---|---|---|\n{failures}")
    return "\n\n".join(sections) + "\n"


def estimate_table(manifest: ResultManifest) -> str:
    """What was expected of the run beside what it was; empty if nothing was, or if the run is partial."""
    seconds, estimate = manifest.timings_seconds, manifest.estimate
    truths = {
        "prompt_tokens": float(manifest.num_prompt_tokens),
        "completion_tokens": float(manifest.num_completion_tokens),
        "generate_seconds": seconds.get("generate", 0.0),
        "seconds": sum(seconds.get(phase, 0.0) for phase in PHASES),
    }
    shown = {name: truth for name, truth in truths.items() if isinstance(estimate.get(name), dict)}
    if not shown or manifest.is_partial:
        return ""
    rows = "\n".join(_estimate_line(name, estimate[name], truth) for name, truth in shown.items())
    basis = escape(str(estimate.get("basis")))
    return f"By {basis}.\n\n| | expected | interval | truth | truth / expected |\n|---|---|---|---|---|\n{rows}"


def escape(text: str) -> str:
    """Text as character references wherever Markdown or HTML could see syntax; line ends become spaces."""
    shortened = text if len(text) <= SAMPLE_CHARACTERS else text[:SAMPLE_CHARACTERS] + " ..."
    return _MARKDOWN_OR_HTML.sub(lambda match: f"&#{ord(match[0])};", " ".join(shortened.split())).replace("_", "&#95;")


def _estimate_line(name: str, value: dict[str, float], truth: float) -> str:
    expected, low, high = value["expected"], value.get("low"), value.get("high")
    interval = "" if low is None or high is None else f"{low:,.1f} to {high:,.1f}"
    ratio = f"{truth / expected:.2f}" if expected else ""
    return f"| {name} | {expected:,.1f} | {interval} | {truth:,.1f} | {ratio} |"


def _first_rows(folder: Path, names: list[str]) -> list[dict[str, object]]:
    # A result that was reused may have been published in another format.
    if not names or not names[0].endswith(".parquet"):
        return []
    batches = pq.ParquetFile(folder / names[0]).iter_batches(
        SAMPLE_ROWS, columns=["row_id", "status", "completion", "error"]
    )
    rows: list[dict[str, object]] = next(batches).to_pylist()
    return rows


def _answer_line(row: dict[str, object]) -> str:
    return f"| {escape(str(row['row_id']))} | {row['status']} | {escape(str(row['completion'] or ''))} |"


def _failure_line(row: dict[str, object]) -> str:
    error = row["error"]
    assert isinstance(error, dict)
    return f"| {escape(str(row['row_id']))} | {escape(error['code'])} | {escape(error['message'])} |"
