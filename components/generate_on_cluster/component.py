"""KFP step: an Indexed Job of Kubernetes answers all shards of a job."""

from kfp import dsl
from kfp_llm_batch.components.step_component import step_component

from kfp_llm_batch.images import VLLM_CPU_IMAGE


@step_component
def generate_on_cluster(
    metrics: dsl.Output[dsl.Metrics],
    job_uri: str,
    shard_parallelism: int = 100,
    shard_attempts: int = 3,
    storage_secret_name: str = "kfp-llm-batch-storage",
    storage_endpoint: str = "",
    resources_cpu: str = "2",
    resources_memory: str = "8Gi",
    resources_node_selector: dict = {},
    resources_tolerations: list = [],
    resources_queue_name: str = "",
    resources_service_account: str = "",
    runtime_image: str = VLLM_CPU_IMAGE,
) -> str:
    """Have a Kubernetes cluster answer a job in shards, with as many pods as it has room for.

    Args:
        metrics: Shards that are answered and that failed.
        shard_parallelism: Most pods at a time.
        shard_attempts: Pods for one shard that may fail; those that were evicted do not count.
        resources_queue_name: Queue of Kueue, which then starts the pods when there is room.
        resources_service_account: Of the pods, for stores that know them by it.
        runtime_image: Image of the pods.

    Returns:
        The address of the job, for merge_shards.
    """
    parameters = dict(locals())
    from kfp_llm_batch.cluster.manifest import PodConfig
    from kfp_llm_batch.cluster.running import generate_on_cluster as generate
    from kfp_llm_batch.sharding.job import JobAddress
    from kfp_llm_batch.steps import from_parameters, step

    with step(storage_endpoint):
        pods = from_parameters(PodConfig, parameters, "shard_", "resources_", "runtime_")
        for name, value in generate(JobAddress.parse(job_uri), pods).items():
            metrics.log_metric(f"shards_{name}", float(value))
    return job_uri
