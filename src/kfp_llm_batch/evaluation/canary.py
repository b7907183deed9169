"""The canary: some rows answered twice, in another order and company, which shows what chance alone changes.

At temperature 0 an answer can still depend on which others are computed with it: sums are rounded in another order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kfp_llm_batch.dataset.prompt_writing import SHARD
from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.disk import temporary_folder
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.evaluation.score_table import ScoreTable
from kfp_llm_batch.evaluation.scorers.protocol import Metric
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.generation.survey import hashed_order
from kfp_llm_batch.manifests import ResultManifest, StoredFile
from kfp_llm_batch.schemas import PROMPT_FIELDS


def answer_again(config: GenerationConfig, prompts_folder: Path, rows: int, result_folder: Path) -> ResultManifest:
    """Answer a sample of the rows once more, the last of them first; no rows make an empty result.

    Args:
        config: That of the first time, without a destination or a checkpoint, which would give the answers back.
        prompts_folder: The prompts of the first time.
        rows: How many at most.
        result_folder: Gets the answers.

    Raises:
        BatchError: See errors.py.
    """
    if rows < 0:
        raise ConfigurationError("evaluation_canary_rows is negative", received=rows)
    with temporary_folder() as folder:
        _write_sample(Prompts(prompts_folder), rows, folder)
        return generate(config, folder, result_folder)


def noise(first: ScoreTable, again: ScoreTable, metrics: Sequence[Metric]) -> dict[str, Any]:
    """What changed between two answers to the same rows.

    Args:
        first: Scores of all rows.
        again: Scores of the sample.
        metrics: Those of single rows are looked at.

    Returns:
        Rows of the sample, rows with another answer, and for each metric the rows with another value.
    """
    places = pc.index_in(again.column("row_id").combine_chunks(), value_set=first.column("row_id").combine_chunks())
    # A deadline can have left rows of the sample out the first time.
    common = np.flatnonzero(places.is_valid().to_numpy(zero_copy_only=False))
    rows = places.drop_null().to_numpy().astype(np.int64)
    answers = [table.column("answer").to_pylist() for table in (first, again)]
    values = {
        metric.name: (first.values(metric.name)[rows], again.values(metric.name)[common])
        for metric in metrics
        if metric.corpus is None
    }
    return {
        "rows": len(rows),
        "answers_changed": sum(answers[0][row] != answers[1][place] for row, place in zip(rows, common, strict=True)),
        "values_changed": {
            name: int((~np.isclose(before, after, equal_nan=True)).sum()) for name, (before, after) in values.items()
        },
    }


def _write_sample(prompts: Prompts, rows: int, folder: Path) -> None:
    names = [field.name for field in (*PROMPT_FIELDS, *prompts.source_fields)]
    numbers = np.sort(hashed_order(prompts)[:rows])
    table = prompts.columns(names, numbers.tolist()).take(pa.array(range(len(numbers))[::-1], pa.int64()))
    path = folder / SHARD
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)
    shard = StoredFile.of(path, SHARD, table.num_rows)
    faults = table.num_rows - table.column("fault").null_count
    sample = dataclasses.replace(prompts.manifest, rows=table.num_rows, rows_with_faults=faults, shards=(shard,))
    sample.save(folder)
