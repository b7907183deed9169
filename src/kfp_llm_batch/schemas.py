"""Arrow schemas of prompts and completions: the contract between the steps."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

MESSAGES = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))

PROMPT_FIELDS = (
    pa.field("row_id", pa.string(), nullable=False),
    pa.field("messages", MESSAGES, nullable=False),
    pa.field("params", pa.string()),
    pa.field("fault", pa.string()),
)
"""`params` holds the row's own sampling parameters as a JSON object, or null.

`fault` is null, or says as "code: message" why the row has no prompt (`messages` is then empty): a bad row is kept,
and answered with status `invalid`.
"""

FAULT_CODES = (
    "empty_prompt",
    "bad_text",
    "bad_messages",
    "template_error",
    "bad_params",
    "special_token",
    "prompt_too_long",
)
"""Why a row is `invalid`: it is known before the engine starts."""

FAILURE_CODES = (
    "engine_refused",
    "engine_aborted",
    "engine_killed",
    "engine_exited",
    "engine_failed",
    "engine_hung",
)
"""Why a row is `failed`: the engine did not answer it."""

PROMPT_TRUNCATED = "prompt_truncated"
"""The prompt's longest message was cut to make room for the answer."""
TEXT_REPAIRED = "text_repaired"
"""An answer ended inside a character, which was removed, or held what is no Unicode text."""
WARNING_CODES = (PROMPT_TRUNCATED, TEXT_REPAIRED)
"""What is to be known of a row that was answered."""

LOGPROBS = pa.list_(
    pa.list_(
        pa.struct({"token_id": pa.int32(), "token": pa.string(), "logprob": pa.float32(), "rank": pa.int32()}),
    )
)
"""Per generated token its candidates, the sampled one first."""

OUTPUTS = pa.list_(
    pa.struct(
        {
            "text": pa.string(),
            "finish_reason": pa.string(),
            "stop_reason": pa.string(),
            "num_tokens": pa.int32(),
            "cumulative_logprob": pa.float64(),
            "logprobs": LOGPROBS,
        }
    )
)

PROVENANCE = pa.struct({"run_id": pa.string(), "output_uri": pa.string(), "generated_at": pa.string()})
"""Of an answer that an earlier run has made: the run, where its result went, and when (UTC, ISO 8601)."""

STATUSES = ("ok", "truncated", "invalid", "failed")
FAULTY = ("invalid", "failed")
"""Statuses of the rows without an answer, which `errors/` repeats."""

COMPLETION_FIELDS = (
    pa.field("row_id", pa.string(), nullable=False),
    pa.field("request_key", pa.string(), nullable=False),
    pa.field("status", pa.string(), nullable=False),
    pa.field("completion", pa.string()),
    pa.field("outputs", OUTPUTS),
    pa.field("finish_reason", pa.string()),
    pa.field("truncated_by", pa.string()),
    pa.field("num_prompt_tokens", pa.int32()),
    pa.field("num_completion_tokens", pa.int32()),
    pa.field("seed", pa.int64()),
    pa.field("error", pa.struct({"code": pa.string(), "message": pa.string()})),
    pa.field("warnings", pa.list_(pa.string())),
    pa.field("provenance", PROVENANCE),
)
"""`warnings` holds WARNING_CODES, and is null if there are none; `provenance` is null in a row of this run."""

PROMPT_COLUMNS = tuple(field.name for field in PROMPT_FIELDS)
COMPLETION_COLUMNS = tuple(field.name for field in COMPLETION_FIELDS)


def completions_schema(source_fields: Iterable[pa.Field]) -> pa.Schema:
    """The declared schema of a part: our columns, then the carried source columns."""
    return pa.schema([*COMPLETION_FIELDS, *source_fields])


def source_fields(prompts: pa.Schema) -> list[pa.Field]:
    """The carried source columns of a prompts file."""
    return [field for field in prompts if field.name not in PROMPT_COLUMNS]
