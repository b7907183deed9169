"""The manifest of an evaluation: what was measured on which completions, written last."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from kfp_llm_batch.manifests import Manifest, ResultManifest, StoredFile

KIND = "evaluation"

_TAKEN_FROM_RESULT = (
    "created_at",
    "rows_in",
    "rows_out",
    "rows_by_status",
    "errors_by_code",
    "num_prompt_tokens",
    "num_completion_tokens",
    "keys_checksum",
    "is_partial",
    "dataset",
    "model",
    "sampling",
    "engine",
    "versions",
    "machine",
    "timings_seconds",
)


@dataclass(frozen=True, kw_only=True)
class EvaluationManifest(Manifest):
    """What an evaluation holds."""

    title: ClassVar[str] = "the manifest of an evaluation"

    kind: str = KIND
    created_at: str
    """UTC, ISO 8601."""
    rows: int
    scorers: tuple[dict[str, Any], ...]
    """Of each its key, its specification as `make_scorer` takes it, and its version."""
    target_column: str | None
    slice_columns: tuple[str, ...]
    cluster_column: str | None
    missing: str
    metrics: tuple[dict[str, Any], ...]
    """Of all rows: each a `summary.Estimate` as JSON."""
    slices: tuple[dict[str, Any], ...]
    """Of every slice: each a `summary.Slice` as JSON."""
    confusion: dict[str, Any] = field(default_factory=dict)
    """By classification scorer: its classes, and the rows of the matrix, one per expected class."""
    noise: dict[str, Any] = field(default_factory=dict)
    """What changed in rows that were answered twice, see `canary.noise`; empty without a canary."""
    scores: StoredFile
    result: dict[str, Any]
    """What the manifest of the completions says of them."""

    def __post_init__(self) -> None:
        if self.kind != KIND:
            raise TypeError(f"its kind is {self.kind!r}, not {KIND!r}")


def facts_of_result(manifest: ResultManifest) -> dict[str, Any]:
    """What an evaluation keeps of the completions that it is of."""
    return {name: getattr(manifest, name) for name in _TAKEN_FROM_RESULT}
