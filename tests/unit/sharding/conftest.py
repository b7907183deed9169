"""A job in shards, made as the first step makes it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kfp_llm_batch.dataset.loading import DatasetConfig
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.sharding.job import Job, JobAddress
from kfp_llm_batch.sharding.preparing import JobConfig, prepare_job
from kfp_llm_batch.sharding.sizing import ShardingConfig

MakeJob = Callable[..., tuple[JobAddress, Job]]


@pytest.fixture
def make_job(tmp_path: Path) -> MakeJob:
    """Loads rows rendered from their column `question`; the output is `tmp_path`/output."""

    def make(
        rows: list[dict[str, Any]],
        shards: int | str = 4,
        max_tokens: int = 256,
        output_uri: str | None = None,
        model_uri: str = "echo://",
        **generation: Any,
    ) -> tuple[JobAddress, Job]:
        dataset = tmp_path / "rows.jsonl"
        dataset.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        config = JobConfig(
            dataset=DatasetConfig(
                uri=str(dataset), prompt_template="{{ question }}", id_column="id" if rows and "id" in rows[0] else None
            ),
            generation=GenerationConfig(
                model_uri=model_uri,
                sampling=SamplingConfig(max_tokens=max_tokens),
                output_uri=output_uri or str(tmp_path / "output"),
                **generation,
            ),
            sharding=ShardingConfig(num_shards=str(shards)),
        )
        return prepare_job(config)

    return make
