"""Evaluated runs made without an engine: completions are written as the generating step does."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kfp_llm_batch.evaluation.config import EvaluationConfig
from kfp_llm_batch.evaluation.run_folder import EvaluatedRun
from kfp_llm_batch.evaluation.scoring import evaluate
from kfp_llm_batch.manifests import Checksum, ResultManifest, StoredFile
from kfp_llm_batch.schemas import completions_schema

Sources = Sequence[dict[str, Any]]


def write_completions(folder: Path, sources: Sources, answers: Sequence[str | None], **facts: Any) -> Path:
    """A finished result folder: one answer per row, None for a row that failed; `facts` go into the manifest."""
    columns = pa.Table.from_pylist(list(sources)).schema
    schema = completions_schema(list(columns))
    rows = [_row(index, source, answer) for index, (source, answer) in enumerate(zip(sources, answers, strict=True))]
    path = folder / "parts/part-00000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    keys = Checksum()
    for row in rows:
        keys.add(row["row_id"], row["request_key"])
    failed = sum(answer is None for answer in answers)
    part = StoredFile(path="parts/part-00000.parquet", rows=len(rows), bytes=path.stat().st_size, sha256=_digest(path))
    fields: dict[str, Any] = {
        "created_at": "2025-01-02T03:04:05+00:00",
        "rows_in": len(rows),
        "rows_out": len(rows),
        "rows_by_status": {"ok": len(rows) - failed, "truncated": 0, "invalid": 0, "failed": failed},
        "errors_by_code": {"engine_killed": failed} if failed else {},
        "num_prompt_tokens": 5 * len(rows),
        "num_completion_tokens": 3 * len(rows),
        "dataset": {"fingerprint": "f", "rows": len(rows), "parameters": {"prompt_template": "{{ question }}"}},
        "model": {"uri": "echo://", "revision": None, "digest": "d"},
        "sampling": {"max_tokens": 256, "temperature": 0.0},
        "engine": {},
        "versions": {"vllm": "0.32.0"},
        "machine": {},
    }
    manifest = ResultManifest(
        output_format="parquet", keys_checksum=keys.hexdigest(), parts=(part,), errors=(), **{**fields, **facts}
    )
    manifest.save(folder)
    return folder


def evaluated(folder: Path, sources: Sources, answers: Sequence[str | None], **options: Any) -> EvaluatedRun:
    """The scores of such completions; `options` are those of an EvaluationConfig, and `facts`."""
    facts = options.pop("facts", {})
    write_completions(folder / "completions", sources, answers, **facts)
    config = EvaluationConfig(**{"scorers": ["numeric_match"], "target_column": "answer", **options})
    evaluate(config, folder / "completions", folder / "scores")
    return EvaluatedRun(folder / "scores")


def _row(index: int, source: dict[str, Any], answer: str | None) -> dict[str, Any]:
    has_failed = answer is None
    row_id = str(source.get("id", index))
    output = {"text": answer, "finish_reason": "length" if answer and answer.endswith("...") else "stop"}
    return {
        "row_id": row_id,
        "request_key": hashlib.sha256(row_id.encode()).hexdigest(),
        "status": "failed" if has_failed else "ok",
        "completion": answer,
        "outputs": None if has_failed else [output],
        "finish_reason": None if has_failed else output["finish_reason"],
        "num_prompt_tokens": 5,
        "num_completion_tokens": 0 if answer is None else len(answer.split()),
        "error": {"code": "engine_killed", "message": "it ended"} if has_failed else None,
        **source,
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
