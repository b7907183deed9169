"""What a merge was refused for: which shards and rows have no answers, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.disk import temporary_folder
from kfp_llm_batch.errors import DataError, IncompleteRunError
from kfp_llm_batch.sharding.answering import fetch_prompts
from kfp_llm_batch.sharding.job import Job, JobFolder
from kfp_llm_batch.storage.uris import join_uri

MISSING_ROWS = "missing_rows.jsonl"
_SHARDS_SHOWN = 10
_ROWS_SHOWN = 3


def missing_shards_error(folder: JobFolder, job: Job, missing: Sequence[int]) -> IncompleteRunError:
    """The error for a merge that cannot be; all rows that are missing are listed in the job's folder."""
    rows = sum(job.shards[number].rows for number in missing)
    examples = _write_rows(folder, job, missing)
    shown = [_in_words(folder, job, number, examples.get(number, [])) for number in missing[:_SHARDS_SHOWN]]
    more = f"; and {len(missing) - _SHARDS_SHOWN} more" if len(missing) > _SHARDS_SHOWN else ""
    return IncompleteRunError(
        f"{len(missing)} of {len(job.shards)} shards have no answers, {rows} of {job.rows} rows: "
        f"{'; '.join(shown)}{more}. All missing rows: {join_uri(folder.store.uri, MISSING_ROWS)}",
        remedy="What is answered is kept: start the same run again, and only these shards are answered.",
    )


def _in_words(folder: JobFolder, job: Job, number: int, row_ids: list[str]) -> str:
    ids = f" ({', '.join(map(repr, row_ids))}{', ...' if len(row_ids) < job.shards[number].rows else ''})"
    reason = folder.failure(number)
    return f"shard {number} of {job.shards[number].rows} rows{ids if row_ids else ''}, " + (
        f"whose last attempt ended with {reason}" if reason else "whose pod was lost or never started"
    )


def _write_rows(folder: JobFolder, job: Job, missing: Sequence[int]) -> dict[int, list[str]]:
    """List every missing row in the store; gives the first few of each shard."""
    examples: dict[int, list[str]] = {}
    with temporary_folder() as working_folder:
        path = working_folder / MISSING_ROWS
        with path.open("w", encoding="utf-8") as lines:
            for number in missing:
                for row_ids in _row_ids(folder, job, number):
                    examples.setdefault(number, row_ids[:_ROWS_SHOWN])
                    lines.writelines(json.dumps({"shard": number, "row_id": row_id}) + "\n" for row_id in row_ids)
        folder.store.upload(path, MISSING_ROWS)
    return examples


def _row_ids(folder: JobFolder, job: Job, number: int) -> Iterator[list[str]]:
    with temporary_folder() as working_folder:  # of one shard at a time
        try:
            fetch_prompts(folder, job, number, working_folder)
        except DataError:
            return  # the shard's own error says that its prompts are gone
        for _, batch in Prompts(working_folder).batches():
            yield batch.column("row_id").to_pylist()
