"""Our own result folders as an outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.peers.protocol import Job, Outcome
from kfp_llm_batch.manifests import ResultManifest


def outcome_of(job: Job, result: Path, manifest: ResultManifest, seconds: float) -> Outcome:
    """What the manifest measured, and the rows in the job's order.

    Args:
        job: Its rows are numbered from 0, which are their ids.
        result: Folder with the parts.
        manifest: The result's own.
        seconds: From the start of the interpreter to the end.
    """
    rows: dict[int, dict[str, Any]] = {}
    columns = ["row_id", "completion", "num_completion_tokens"]
    for part in manifest.parts:
        rows.update((int(row["row_id"]), row) for row in pq.read_table(result / part.path, columns=columns).to_pylist())
    generated = manifest.timings_seconds["generate"]
    ordered = [rows[row] for row in range(len(job.prompts))]
    return Outcome(
        versions=dict(manifest.versions),
        settings=_settings(manifest.engine),
        load_seconds=seconds - generated,
        generate_seconds=generated,
        first_row_seconds=generated,
        prompt_tokens=manifest.num_prompt_tokens,
        tokens=[row["num_completion_tokens"] for row in ordered],
        texts=[row["completion"] for row in ordered],
    )


def _settings(engine: dict[str, Any]) -> dict[str, Any]:
    """What was planned for the engine, without the reasons."""
    values = {name: setting["value"] for kind in ("arguments", "environment") for name, setting in engine[kind].items()}
    return {**values, "threads": values.get("OMP_NUM_THREADS")}
