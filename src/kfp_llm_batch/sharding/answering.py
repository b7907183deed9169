"""Shards answered, in a process of their own: the parts of each go to the output at once, its manifest last."""

from __future__ import annotations

import ctypes
import signal
import sys
from pathlib import Path

import pyarrow as pa

from kfp_llm_batch.dataset.prompt_writing import SHARD
from kfp_llm_batch.disk import file_sha256, temporary_folder, writing
from kfp_llm_batch.errors import ConfigurationError, DataError
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.manifests import PromptsManifest, StoredFile
from kfp_llm_batch.sharding.job import Job, JobAddress, JobFolder, checkpoint_uri, prompts_key
from kfp_llm_batch.sharding.uploading import upload_shard
from kfp_llm_batch.steps import step
from kfp_llm_batch.storage.object_store import LONG_PATIENCE_SECONDS, ObjectNotFoundError, open_store

_PR_SET_PDEATHSIG = 1
"""Linux ends this process when the one that started it is gone."""


def answer_in_turn(address: JobAddress, engine_cache: Path | None) -> None:
    """Answer the shards of `address` one after another; each is finished before the next begins."""
    folder = JobFolder(open_store(address.uri, patience_seconds=LONG_PATIENCE_SECONDS))
    job = folder.job()
    for number in address.shards or ():
        if number >= len(job.shards):
            last = len(job.shards) - 1
            raise ConfigurationError("The job has no such shard", received=number, allowed=[f"0 to {last}"])
        _answer(folder, job, address, number, engine_cache)


def _answer(folder: JobFolder, job: Job, address: JobAddress, number: int, engine_cache: Path | None) -> None:
    checkpoint = checkpoint_uri(address.uri, number)
    with temporary_folder() as working_folder:
        prompts, result = working_folder / "prompts", working_folder / "result"
        fetch_prompts(folder, job, number, prompts)
        config = job.generation_config(checkpoint_uri=checkpoint, engine_cache=engine_cache, origin=address.origin)
        manifest = generate(config, prompts, result)
        store = open_store(address.output_uri, patience_seconds=LONG_PATIENCE_SECONDS)
        folder.save_manifest(number, upload_shard(result, manifest, store, number, job.output_format))
    folder.clear_checkpoint(number)


def fetch_prompts(folder: JobFolder, job: Job, number: int, target: Path) -> None:
    """Download the prompts of a shard as a folder that can be read like any other.

    Raises:
        DataError: They are gone, or not what the job says.
    """
    shard, path = job.shards[number], target / SHARD
    with writing(path):
        target.mkdir(parents=True, exist_ok=True)
    try:
        folder.store.download(prompts_key(number), path)
    except ObjectNotFoundError as error:
        raise DataError(f"The prompts of shard {number} are gone: {error}", remedy="Start the run again.") from error
    if (digest := file_sha256(path)) != shard.sha256:
        raise DataError(f"The prompts of shard {number} are not what the job says: their SHA-256 is {digest}")
    PromptsManifest(
        fingerprint=shard.sha256,
        rows=shard.rows,
        rows_with_faults=_faults(path),
        source_uri=job.dataset["uri"],
        source_format=job.dataset["format"],
        source_revision=job.dataset["revision"],
        parameters=job.dataset["parameters"],
        shards=(StoredFile(path=SHARD, rows=shard.rows, bytes=shard.bytes, sha256=shard.sha256),),
    ).save(target)


def _faults(path: Path) -> int:
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        return sum(batch.num_rows - batch.column("fault").null_count for batch in batches)


def main() -> None:
    """Entry of the process: the address of the shards, and the folder of the engine's cache or an empty text."""
    address, engine_cache = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    with step(""):
        answer_in_turn(JobAddress.parse(address), Path(engine_cache) if engine_cache else None)


if __name__ == "__main__":
    main()
