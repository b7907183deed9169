"""KFP step: the answered shards become one result, its manifest written last."""

from kfp import dsl
from kfp_llm_batch.components.step_component import step_component


@step_component
def merge_shards(
    metrics: dsl.Output[dsl.Metrics],
    job_uri: str,
    storage_endpoint: str = "",
) -> str:
    """Publish the result of a job if its shards hold every row of the dataset exactly once.

    Args:
        metrics: Rows by status and tokens of the whole result.

    Returns:
        The address of the result.
    """
    from kfp_llm_batch.generation.report import metrics as result_metrics
    from kfp_llm_batch.sharding.job import JobAddress
    from kfp_llm_batch.sharding.merging import merge_shards as merge
    from kfp_llm_batch.steps import step

    with step(storage_endpoint):
        address = JobAddress.parse(job_uri)
        for name, value in result_metrics(merge(address)).items():
            metrics.log_metric(name, value)
    return address.output_uri
