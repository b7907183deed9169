"""The formats of a published result: Parquet as it was written, JSON Lines, and OpenAI batch output.

An OpenAI line: {"id": "batch_req_KEY", "custom_id": "row-1", "response": {"status_code": 200, "request_id": "KEY",
"body": {"object": "chat.completion", "choices": [...], ...}}, "error": null, "metadata": {"status": "ok", ...}}
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.manifests import ResultManifest
from kfp_llm_batch.schemas import FAULTY

BATCH_ROWS = 1_000
EXTENSIONS: Mapping[str, str] = {"parquet": "parquet", "jsonl": "jsonl", "openai": "jsonl"}
OUTPUT_FORMATS = tuple(EXTENSIONS)
METADATA = ("request_key", "status", "num_prompt_tokens", "num_completion_tokens", "warnings", "provenance")
"""Columns that an OpenAI line carries as `metadata`, since OpenAI's own fields cannot hold them for a failed row."""

Row = dict[str, Any]


class Sink(Protocol):
    """Takes bytes: a file, or a digest."""

    def write(self, data: bytes, /) -> object:
        """Take some bytes."""


def check_output_format(output_format: str) -> None:
    """Refuse a format that this product cannot write."""
    if output_format not in EXTENSIONS:
        raise ConfigurationError("output_format is unknown", received=output_format, allowed=OUTPUT_FORMATS)


def write_part(source: Path, manifest: ResultManifest, output_format: str, sink: Sink) -> None:
    """Write a part of a local result in the output's format; the same rows are the same bytes.

    Raises:
        ConfigurationError: The local result is neither Parquet nor in that format already.
    """
    if manifest.output_format == output_format:
        _copy(source, sink)
        return
    if manifest.output_format != "parquet":
        raise ConfigurationError(
            f"A result in the format {manifest.output_format} cannot be converted",
            received=output_format,
            allowed=[manifest.output_format],
        )
    model = str(manifest.model.get("uri", ""))
    with pq.ParquetFile(source) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            for row in _representable(batch).to_pylist():
                sink.write(_json_line(_openai_line(row, model) if output_format == "openai" else row))


def json_rows(batch: pa.RecordBatch) -> list[Row]:
    """The rows as who reads their JSON Lines gets them."""
    return [json.loads(_json_line(row)) for row in _representable(batch).to_pylist()]


def _json_line(row: Row) -> bytes:
    try:
        return (_ENCODER.encode(row) + "\n").encode()
    except ValueError:
        # JSON has no NaN and no infinity; only rows that hold one pay for the search.
        return (_ENCODER.encode(_plain(row)) + "\n").encode()


def _copy(source: Path, sink: Sink) -> None:
    with source.open("rb") as file:
        while block := file.read(1 << 20):
            sink.write(block)


def _representable(batch: pa.RecordBatch) -> pa.RecordBatch:
    # Python's datetime ends at microseconds.
    for index, field in enumerate(batch.schema):
        if pa.types.is_temporal(field.type) and getattr(field.type, "unit", "") == "ns":
            batch = batch.set_column(index, field.name, pc.cast(batch.column(index), pa.string()))
    return batch


def _plain(value: Any) -> Any:
    """The nearest JSON value."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    return value.total_seconds() if isinstance(value, dt.timedelta) else str(value)


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain)


def _openai_line(row: Row, model: str) -> Row:
    key = row["request_key"]
    is_answered = row["status"] not in FAULTY
    body = _chat_completion(row, model) if is_answered else None
    return {
        "id": f"batch_req_{key}",
        "custom_id": row["row_id"],
        "response": body and {"status_code": 200, "request_id": key, "body": body},
        "error": None if is_answered else row["error"] or {"code": row["status"], "message": None},
        "metadata": {name: row[name] for name in METADATA},
    }


def _chat_completion(row: Row, model: str) -> Row:
    prompt, completion = row["num_prompt_tokens"] or 0, row["num_completion_tokens"] or 0
    return {
        "id": f"chatcmpl-{row['request_key']}",
        "object": "chat.completion",
        # The same rows are the same bytes, whenever they were made; the manifest has the time.
        "created": 0,
        "model": model,
        "choices": [_choice(index, output) for index, output in enumerate(row["outputs"] or _first_output(row))],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion},
    }


def _first_output(row: Row) -> list[Row]:
    return [{"text": row["completion"], "finish_reason": row["finish_reason"], "logprobs": None}]


def _choice(index: int, output: Row) -> Row:
    tokens = output["logprobs"]
    logprobs = None if tokens is None else {"content": [_token(candidates) for candidates in tokens if candidates]}
    return {
        "index": index,
        "message": {"role": "assistant", "content": output["text"]},
        "logprobs": logprobs,
        "finish_reason": output["finish_reason"],
    }


def _token(candidates: list[Row]) -> Row:
    shown = [_candidate(candidate) for candidate in candidates]
    return {**shown[0], "top_logprobs": shown}


def _candidate(candidate: Row) -> Row:
    token = candidate["token"]
    data = None if token is None else list(token.encode())
    return {"token": token, "bytes": data, "logprob": _plain(candidate["logprob"])}
