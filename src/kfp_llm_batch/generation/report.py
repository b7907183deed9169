"""What the Kubeflow UI shows of a generation: metrics and a short Markdown report."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from kfp_llm_batch.manifests import ResultManifest, StoredFile

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
    sections = [f"# Completions by {escape(str(manifest.model.get('uri')))}"]
    if manifest.is_partial:
        sections.append(f"**Partial: {manifest.rows_out:,} of {manifest.rows_in:,} rows; the time was over.**")
    counts = [(name, f"{value:,.10g}") for name, value in metrics(manifest).items()]
    codes = [(escape(code), f"{count:,}") for code, count in manifest.errors_by_code.items()]
    answers = [
        (escape(row["row_id"]), row["status"], escape(row["completion"] or ""))
        for row in _first_rows(folder, manifest.parts)
    ]
    failures = [
        (escape(row["row_id"]), escape(row["error"]["code"]), escape(row["error"]["message"]))
        for row in _first_rows(folder, manifest.errors)
    ]
    tables = {
        "": _table(("metric", "value"), counts),
        "## Estimate and truth\n\n": estimate_table(manifest),
        "## Rows without an answer\n\n": _table(("code", "rows"), codes),
        "## First answers\n\n": _table(("row", "status", "answer"), answers),
        "## First rows without an answer\n\n": _table(("row", "code", "message"), failures),
    }
    return "\n\n".join([*sections, *(title + table for title, table in tables.items() if table)]) + "\n"


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (names, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(names), *lines[1:]]) if rows else ""


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
    rows = [_estimate_cells(name, estimate[name], truth) for name, truth in shown.items()]
    table = _table(("", "expected", "interval", "truth", "truth / expected"), rows)
    return f"By {escape(str(estimate.get('basis')))}.\n\n{table}"


def escape(text: str) -> str:
    """Text as character references wherever Markdown or HTML could see syntax; line ends become spaces."""
    shortened = text if len(text) <= SAMPLE_CHARACTERS else text[:SAMPLE_CHARACTERS] + " ..."
    return _MARKDOWN_OR_HTML.sub(lambda match: f"&#{ord(match[0])};", " ".join(shortened.split())).replace("_", "&#95;")


def _estimate_cells(name: str, value: dict[str, float], truth: float) -> tuple[str, ...]:
    expected, low, high = value["expected"], value.get("low"), value.get("high")
    interval = "" if low is None or high is None else f"{low:,.1f} to {high:,.1f}"
    ratio = f"{truth / expected:.2f}" if expected else ""
    return name, f"{expected:,.1f}", interval, f"{truth:,.1f}", ratio


def _first_rows(folder: Path, files: Sequence[StoredFile]) -> list[dict[str, Any]]:
    # A result that was reused may have been published in another format.
    if not files or not files[0].path.endswith(".parquet"):
        return []
    with pq.ParquetFile(folder / files[0].path) as file:
        batches = file.iter_batches(SAMPLE_ROWS, columns=["row_id", "status", "completion", "error"])
        rows: list[dict[str, Any]] = next(batches).to_pylist()
    return rows
