"""A batch of a source's rows becomes record batches of prompts, in this process or in another."""

from __future__ import annotations

import itertools
import json
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from kfp_llm_batch.dataset.batches import SourceBatch, reading
from kfp_llm_batch.dataset.carried_types import as_text
from kfp_llm_batch.dataset.config import DatasetConfig
from kfp_llm_batch.dataset.messages import Prompt, RowFaultError
from kfp_llm_batch.dataset.prompt_writing import PromptRow, prompt_batches, shown
from kfp_llm_batch.dataset.rendering import PARAMS_COLUMN, Row, make_renderer
from kfp_llm_batch.errors import DataError
from kfp_llm_batch.manifests import Checksum
from kfp_llm_batch.row_ids import RowIds
from kfp_llm_batch.schemas import COMPLETION_COLUMNS, PROMPT_COLUMNS, PROMPT_FIELDS
from kfp_llm_batch.storage.uris import redact
from kfp_llm_batch.workers import worker_count, worker_map

_BATCHES_ALONE = 20
"""Fewer are done before other processes have started."""

NumberedSourceBatch = tuple[int, SourceBatch]
"""The zero-based number of the first row, and the rows."""


@dataclass(frozen=True, kw_only=True)
class RenderedBatch:
    """What became of one batch of a source."""

    batches: list[bytes]
    """Rows of the Prompts contract, each record batch as an Arrow message."""
    rows: int
    checksum: str
    """Of these rows."""
    faults: list[str]
    preview: list[dict[str, Any]]
    """The first rows of the dataset, for people."""


class BatchRenderer:
    """Renders batches; what it needs can go to another process.

    Args:
        config: How rows become prompts.
        schema: The source's columns.
        is_openai: The rows are OpenAI batch lines.
    """

    def __init__(self, config: DatasetConfig, schema: pa.Schema, is_openai: bool) -> None:
        self._arguments = (config, schema, is_openai)
        self._render = make_renderer(config, schema.names, is_openai=is_openai)
        self._uri = redact(config.uri)
        self.ids = RowIds("custom_id" if is_openai else config.id_column)
        carried = [] if is_openai else _carried(config, schema)
        self.schema = pa.schema([*PROMPT_FIELDS, *carried])
        self._carried_names = {field.name for field in carried}

    def all(self, batches: Iterable[SourceBatch]) -> Generator[RenderedBatch, None, None]:
        """Render all batches of a source, in their order; many of them on all processors."""
        tasks = _numbered(batches)
        yield from map(self, itertools.islice(tasks, _BATCHES_ALONE))
        following = next(tasks, None)
        if following is None:
            return
        tasks = itertools.chain([following], tasks)
        if (number := worker_count()) == 1:
            yield from map(self, tasks)
            return
        with worker_map(number, BatchRenderer, *self._arguments) as render_all:
            yield from render_all(tasks)

    def __call__(self, task: NumberedSourceBatch) -> RenderedBatch:
        """Render one batch.

        Raises:
            DataError: The batch cannot be read, or a row has no id.
        """
        first, batch = task
        with reading(f"{self._uri} after row {first}"):
            stored = batch.table.to_pylist() or [{}] * batch.table.num_rows
        rows = stored if batch.rows is None else batch.rows
        checksum = Checksum()
        prompts = [
            self._prompt_row(first + index, row, values, batch.faults.get(index), checksum)
            for index, (row, values) in enumerate(zip(rows, stored, strict=True))
        ]
        return RenderedBatch(
            batches=[part.serialize().to_pybytes() for part in prompt_batches(prompts, batch.table, self.schema)],
            rows=len(prompts),
            checksum=checksum.hexdigest(),
            faults=[f"row {number}: {row.fault}" for number, row in enumerate(prompts, first + 1) if row.fault],
            preview=shown(prompts, first),
        )

    def _prompt_row(
        self, number: int, row: Row, stored: Row, source_fault: str | None, checksum: Checksum
    ) -> PromptRow:
        """Render `row` as it came; `stored` has the types of all rows, and is what goes along."""
        row_id = self.ids.of(row, number)
        prompt, fault = self._rendered(row, source_fault)
        params = None if prompt.params is None else _to_json(prompt.params)
        # Null values are left out, so that a column that a file format cannot omit changes nothing.
        carried = {name: stored[name] for name in self._carried_names if stored[name] is not None}
        content = _to_json([prompt.messages, prompt.params, fault, carried])
        # A counted id says nothing about the row; without it the checksum does not depend on the rows' order.
        checksum.add(row_id if self.ids.column else "", content)
        return PromptRow(row_id=row_id, messages=prompt.messages, params=params, fault=fault, size=len(content))

    def _rendered(self, row: Row, source_fault: str | None) -> tuple[Prompt, str | None]:
        try:
            if source_fault is not None:
                raise RowFaultError("bad_text", source_fault)
            return self._render(row), None
        except RowFaultError as fault:
            return Prompt(messages=[]), str(fault)


def _numbered(batches: Iterable[SourceBatch]) -> Iterator[NumberedSourceBatch]:
    first = 0
    for batch in batches:
        yield first, batch
        first += batch.table.num_rows


def _carried(config: DatasetConfig, schema: pa.Schema) -> list[pa.Field]:
    """The source columns that go along, those left out that become our own."""
    taken = {PARAMS_COLUMN}
    taken |= {"row_id"} & {config.id_column}
    taken |= {"messages"} & {config.prompt_messages_column}
    carried = [field for field in schema if field.name not in taken]
    # Carried, they would hide columns of the prompts or of the result.
    if clashes := sorted({*PROMPT_COLUMNS, *COMPLETION_COLUMNS}.intersection(field.name for field in carried)):
        raise DataError(
            "The dataset has columns whose names this product uses for its own",
            received=clashes,
            remedy="Rename them in the dataset; all source columns are carried into the result.",
        )
    return carried


_to_json = json.JSONEncoder(sort_keys=True, default=as_text, check_circular=False).encode
