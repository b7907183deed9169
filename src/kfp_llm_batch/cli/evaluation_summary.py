"""The last run of the pipeline `evaluation` for people: outcome, metrics, where the report is."""

from __future__ import annotations

import json
from typing import Any

from kfp_llm_batch.errors import ResultError
from kfp_llm_batch.evaluation.report.charts import shown
from kfp_llm_batch.evaluation.report.content import interval_text
from kfp_llm_batch.evaluation.runs import SUMMARY
from kfp_llm_batch.storage.object_store import open_store


def print_last_evaluation(output_uri: str) -> None:
    """The run that ended last below `output_uri`; a ResultError if there is none."""
    store = open_store(output_uri)
    keys = [entry.key for entry in store.list() if entry.key.endswith(f"/{SUMMARY}")]
    summaries: list[dict[str, Any]] = [json.loads(store.read(key)) for key in keys]
    if not summaries:
        raise ResultError("The run ended without a summary", received=output_uri)
    last = max(summaries, key=lambda summary: str(summary["ended_at"]))
    print(f"outcome: {last['outcome']}" + (f": {last['reason']}" if last["reason"] else ""))
    for entry in last["metrics"]:
        print(f"  {_line(entry)}")
    print(f"report:  {last['report_uri']}")
    print(f"result:  {last['run_uri']}")


def _line(entry: dict[str, Any]) -> str:
    if entry["value"] is None:
        return f"{entry['metric']}: no row scored"
    interval = interval_text(entry["low"], entry["high"], entry["unit"])
    rows = f"{entry['n_scored']:,} of {entry['n_total']:,} rows"
    return f"{entry['metric']}: {shown(entry['value'], entry['unit'])} ({interval or 'no interval'}; {rows})"
