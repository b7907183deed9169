"""The step `split_dataset`: a dataset becomes a job in shards, in the store beside the result to be."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kfp_llm_batch.dataset.config import DatasetConfig
from kfp_llm_batch.dataset.loading import load_dataset
from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.disk import temporary_folder
from kfp_llm_batch.engine.compiling import eager_seconds
from kfp_llm_batch.generation.config import GenerationConfig, generation_fields
from kfp_llm_batch.generation.reuse import shared_answers
from kfp_llm_batch.machine import read_machine
from kfp_llm_batch.models.sizes import weight_bytes
from kfp_llm_batch.results.publishing import check_destination, existing_result
from kfp_llm_batch.results.stored_result import check_replaceable
from kfp_llm_batch.sharding.dealing import BucketCounts, deal
from kfp_llm_batch.sharding.job import FILE_NAME, Job, JobAddress, JobFolder, Shard, is_result_of, prompts_key
from kfp_llm_batch.sharding.reusing import hand_out_answers
from kfp_llm_batch.sharding.sizing import AUTO, ShardingConfig, parse_cpus
from kfp_llm_batch.sharding.splitting import count_buckets, shard_file, write_shards
from kfp_llm_batch.steps import from_parameters
from kfp_llm_batch.storage.object_store import LONG_PATIENCE_SECONDS, open_store

_LOG = logging.getLogger("kfp_llm_batch")


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """What to load, how to answer it, and into how many shards it goes."""

    dataset: DatasetConfig
    generation: GenerationConfig
    sharding: ShardingConfig

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Self:
        """As the parameters of the step `split_dataset` say; a ConfigurationError if one is wrong."""
        return cls(
            dataset=DatasetConfig.from_parameters(parameters),
            generation=GenerationConfig.from_parameters(parameters),
            sharding=from_parameters(ShardingConfig, parameters, "shard_", "resources_"),
        )


def prepare_job(config: JobConfig) -> tuple[JobAddress, Job]:
    """Load and split a dataset, and store its shards; the same job again stores nothing twice.

    Raises:
        ConfigurationError: A parameter is wrong, or another result stands at the output.
        DataError: The dataset cannot be used.
        StorageError: A store does not answer or refuses.
    """
    generation = config.generation
    output_uri = generation.output_uri or ""
    check_destination(output_uri)
    shared = shared_answers(generation)
    with temporary_folder() as folder:
        load_dataset(config.dataset, folder / "prompts")
        prompts = Prompts(folder / "prompts")
        counts = count_buckets(prompts)
        shards = write_shards(prompts, counts, _shards(counts, generation, config.sharding), folder)
        job = _job(prompts, generation, counts, shards)
        address = JobAddress.of(output_uri, job)
        existing = existing_result(output_uri)
        if is_result_of(job.id, existing):
            _LOG.info("The result at %s is that of this very job; nothing is generated.", output_uri)
        else:
            check_replaceable(existing, output_uri, overwrite=job.output_overwrite)
            _store_prompts(job, address, folder)
            if shared and not _is_handed_out(job, address):
                hand_out_answers(shared, deal(counts, len(shards)), address.uri)
            open_store(address.uri).write(FILE_NAME, job.to_json().encode())
    tokens = [shard.tokens for shard in job.shards]
    _LOG.info(
        "%d rows in %d shards of %d to %d prompt tokens, estimated.", job.rows, len(tokens), min(tokens), max(tokens)
    )
    return address, job


def _shards(counts: BucketCounts, generation: GenerationConfig, sharding: ShardingConfig) -> int:
    rows, sampling = int(counts.rows.sum()), generation.sampling
    if sharding.num_shards != AUTO:
        return sharding.shards(rows, None)
    size = weight_bytes(generation.model_uri, generation.model_revision)
    tokens = sampling.n * (int(counts.tokens.sum()) + rows * sampling.max_tokens)
    seconds = None
    if size is not None:
        seconds = eager_seconds(tokens * size, read_machine().instruction_set, parse_cpus(sharding.cpu))
    shards = sharding.shards(rows, seconds)
    _LOG.info(
        "About %s tokens, at most; one pod of %s processors would take about %.2f hours: %d shards.",
        f"{tokens:,}",
        sharding.cpu,
        (seconds or 0) / 3600,
        shards,
    )
    return shards


def _job(prompts: Prompts, generation: GenerationConfig, counts: BucketCounts, shards: list[Shard]) -> Job:
    return Job(
        dataset={**prompts.manifest.facts, "format": prompts.manifest.source_format},
        generation=generation_fields(generation),
        output_format=generation.output_format,
        output_overwrite=generation.output_overwrite,
        reuse_uri=generation.reuse_uri,
        max_error_rate=generation.max_error_rate,
        longest_prompt_tokens=counts.longest,
        shards=tuple(shards),
    )


def _store_prompts(job: Job, address: JobAddress, folder: Path) -> None:
    store = open_store(address.uri, patience_seconds=LONG_PATIENCE_SECONDS)
    stored = {entry.key: entry.size for entry in store.list("prompts/")}
    for number, shard in enumerate(job.shards):
        if stored.get(prompts_key(number)) != shard.bytes:
            store.upload(shard_file(folder, number), prompts_key(number))


def _is_handed_out(job: Job, address: JobAddress) -> bool:
    """Whether the same run has done it before: its job is written afterwards."""
    stored = JobFolder(open_store(address.uri)).read_job()
    return stored is not None and stored.reuse_uri == job.reuse_uri
