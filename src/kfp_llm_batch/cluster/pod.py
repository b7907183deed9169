"""What a pod of an Indexed Job runs: the shard with its index."""

from __future__ import annotations

import dataclasses
import os
import sys

from kfp_llm_batch.errors import BatchError, EngineError, as_message
from kfp_llm_batch.sharding.attempts import answer_shards
from kfp_llm_batch.sharding.job import JobAddress, JobFolder
from kfp_llm_batch.steps import step
from kfp_llm_batch.storage.object_store import open_store

INDEX_VARIABLE = "JOB_COMPLETION_INDEX"


def answer_index(address: JobAddress, index: int) -> None:
    """Answer one shard; unlike in Kubeflow's loop a failure is one of the pod, since Kubernetes then starts another.

    Raises:
        BatchError: The shard is not answered.
    """
    folder = JobFolder(open_store(address.uri))
    try:
        answer_shards(dataclasses.replace(address, shards=(index,)), None)
    except BatchError as error:
        folder.save_failure(index, as_message(error))
        raise
    # Without a job the whole result stands already.
    if folder.read_job() is not None and folder.manifest(index) is None:
        raise EngineError(f"Shard {index} is not answered: {folder.failure(index)}")


def main() -> None:
    """Entry of the container: the address of the job."""
    (address,) = sys.argv[1:]
    with step(""):
        answer_index(JobAddress.parse(address), int(os.environ[INDEX_VARIABLE]))


if __name__ == "__main__":
    main()
