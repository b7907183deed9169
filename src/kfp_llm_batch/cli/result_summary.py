"""A finished result for people: where it is, what it counts, its first answers."""

from __future__ import annotations

import sys

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kfp_llm_batch.disk import temporary_folder
from kfp_llm_batch.errors import ResultError
from kfp_llm_batch.results.publishing import existing_result
from kfp_llm_batch.storage.object_store import open_store

_SHOWN_CHARACTERS = 160


def print_summary(uri: str) -> None:
    """Counts by status, tokens per second and the address."""
    manifest = existing_result(uri)
    if manifest is None:
        raise ResultError("The run ended without a result", received=uri)
    counts = ", ".join(f"{count:,} {status}" for status, count in manifest.rows_by_status.items() if count)
    partial = f" of {manifest.rows_in:,}, partial: the time was over" if manifest.is_partial else ""
    print(f"rows:    {manifest.rows_out:,}{partial} ({counts or 'none'})")
    seconds = manifest.timings_seconds.get("generate", 0.0)
    generated = manifest.num_completion_tokens - manifest.reused["completion_tokens"]
    speed = f", {generated / seconds:,.0f} per second" if seconds else ""
    print(f"tokens:  {manifest.num_prompt_tokens:,} in prompts, {generated:,} generated{speed}")
    if rows := manifest.reused["rows"]:
        print(f"reused:  {rows:,} rows, {manifest.reused['completion_tokens']:,} tokens, of earlier runs")
    print(f"result:  {uri}")


def print_first_answers(uri: str, columns: list[str], rows: int) -> None:
    """A table of the first rows of the first part."""
    manifest = existing_result(uri)
    if manifest is None or not manifest.parts:
        return
    with temporary_folder() as folder:
        path = folder / "part.parquet"
        open_store(uri).download(manifest.parts[0].path, path)
        shown = next(pq.ParquetFile(path).iter_batches(rows, columns=columns)).to_pylist()
    table = Table(*columns, title="First answers", show_lines=True)
    for row in shown:
        table.add_row(*(Text(str(row[name] or "")[:_SHOWN_CHARACTERS]) for name in columns))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120).print(table)
