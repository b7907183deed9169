"""From the engine's outputs, one per sample, to the columns of a finished row."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from kfp_llm_batch.engine.messages import FinishedRequest, GenerationOutput
from kfp_llm_batch.generation.identity import sample_seed
from kfp_llm_batch.generation.preparation import PreparedRow
from kfp_llm_batch.schemas import TEXT_REPAIRED


@dataclass(kw_only=True)
class PendingAnswer:
    """An answer being generated, and the rows that wait for it: one, or several identical ones."""

    rows: list[PreparedRow]
    outputs: dict[int, GenerationOutput] = field(default_factory=dict)
    _finished_samples: int = 0
    refusal: FinishedRequest | None = None
    """The outcome of a sample that the engine refused or did not survive."""

    @property
    def samples(self) -> int:
        """How many outputs make it complete."""
        return int(self.rows[0].sampling["n"])

    def sampling(self, sample: int) -> dict[str, Any]:
        """What the engine gets for one sample: its own seed, and no more tokens than the context leaves."""
        row = self.rows[0]
        values = {name: value for name, value in row.sampling.items() if name not in ("n", "seed")}
        values["max_tokens"] = min(values["max_tokens"], row.room)
        if "seed" in row.sampling:
            values["seed"] = sample_seed(row.sampling["seed"], row.request_key, sample)
        return values

    def add(self, sample: int, finished: FinishedRequest) -> bool:
        """Take one sample's outcome; True when the answer is complete."""
        self._finished_samples += 1
        if finished.output is None:
            self.refusal = finished
        elif finished.output.finish_reason not in ("stop", "length"):
            reason = f"The engine ended the answer itself: {finished.output.finish_reason}."
            self.refusal = dataclasses.replace(finished, refusal=reason, refusal_code="engine_aborted")
        else:
            self.outputs[sample] = finished.output
        return self._finished_samples == self.samples

    def completions(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each waiting row's number and columns."""
        refusal = self.refusal
        for row in self.rows:
            if refusal:
                yield row.row, _failure(row, "failed", refusal.refusal_code, refusal.refusal or "")
            else:
                yield row.row, self._answered(row)

    def _answered(self, row: PreparedRow) -> dict[str, Any]:
        outputs = [self.outputs[sample] for sample in range(self.samples)]
        cut = any(output.finish_reason == "length" for output in outputs)
        by_context = row.room < row.sampling["max_tokens"]
        return {
            "row_id": row.row_id,
            "request_key": row.request_key,
            "status": "truncated" if cut else "ok",
            "completion": outputs[0].text,
            "outputs": [_columns(output) for output in outputs],
            "finish_reason": outputs[0].finish_reason,
            "truncated_by": ("context" if by_context else "max_tokens") if cut else None,
            "num_prompt_tokens": len(row.token_ids),
            "num_completion_tokens": sum(output.num_tokens for output in outputs),
            "seed": self.sampling(0).get("seed"),
            "error": None,
            "warnings": _warnings(row, outputs),
        }


def invalid_completion(row: PreparedRow) -> dict[str, Any]:
    """Columns of a row that was found invalid before generation."""
    assert row.fault is not None
    return _failure(row, "invalid", *row.fault)


def _failure(row: PreparedRow, status: str, code: str, message: str) -> dict[str, Any]:
    return {
        "row_id": row.row_id,
        "request_key": row.request_key,
        "status": status,
        "completion": None,
        "outputs": None,
        "finish_reason": None,
        "truncated_by": None,
        "num_prompt_tokens": len(row.token_ids) or None,
        "num_completion_tokens": 0,
        "seed": None,
        "error": {"code": code, "message": message},
        "warnings": _warnings(row, []),
    }


def _columns(output: GenerationOutput) -> dict[str, Any]:
    """All but `is_repaired`, a warning of the row; by name, since `asdict` took a quarter of a run with `echo://`."""
    return {
        "text": output.text,
        "finish_reason": output.finish_reason,
        "stop_reason": output.stop_reason,
        "num_tokens": output.num_tokens,
        "cumulative_logprob": output.cumulative_logprob,
        "logprobs": output.logprobs,
    }


def _warnings(row: PreparedRow, outputs: Sequence[GenerationOutput]) -> list[str] | None:
    is_repaired = any(output.is_repaired for output in outputs)
    return [*row.warnings, *([TEXT_REPAIRED] if is_repaired else [])] or None
