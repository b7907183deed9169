"""KFP step: the model compiled once for the pods of a job, where that pays."""

from kfp import dsl
from kfp_llm_batch.components.step_component import step_component


@step_component
def warm_shards(engine_cache: dsl.Output[dsl.Artifact], job_uri: str, storage_endpoint: str = "") -> None:
    """Compile the model of a job if all pods together save more by it than it costs.

    Args:
        engine_cache: Folder for the input engine_cache of generate_shards; says why, if nothing is compiled.
    """
    from pathlib import Path

    from kfp_llm_batch.sharding.job import JobAddress
    from kfp_llm_batch.sharding.warming import warm_job
    from kfp_llm_batch.steps import step

    with step(storage_endpoint):
        engine_cache.metadata.update(warm_job(JobAddress.parse(job_uri), Path(engine_cache.path)))
