"""KFP step: an Indexed Job of Kubernetes answers all shards of a job."""

from kfp import dsl

from kfp_llm_batch.images import VLLM_CPU_IMAGE


@dsl.component(base_image=VLLM_CPU_IMAGE, install_kfp_package=False)
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
        job_uri: Address of the job, from split_dataset.
        shard_parallelism: Most pods at a time.
        shard_attempts: Pods for one shard that may fail; those that were evicted do not count.
        storage_secret_name: Kubernetes secret with the keys accesskey and secretkey of the S3 store; it may be absent.
        storage_endpoint: Address of the S3 store, when it is not AWS.
        resources_cpu: Processors of each pod.
        resources_memory: Memory of each pod.
        resources_node_selector: Labels of the nodes for the pods, such as {"pool": "cpu-large"}.
        resources_tolerations: Taints that they bear, such as [{"key": "batch", "operator": "Exists"}].
        resources_queue_name: Queue of Kueue, which then starts the pods when there is room.
        resources_service_account: Of the pods, for stores that know them by it.
        runtime_image: Image of the pods.

    Returns:
        The address of the job, for merge_shards.
    """
    from kfp_llm_batch.cluster.manifest import PodConfig
    from kfp_llm_batch.cluster.running import generate_on_cluster as generate
    from kfp_llm_batch.sharding.job import JobAddress
    from kfp_llm_batch.steps import step, with_whole_numbers

    with step(storage_endpoint):
        pods = PodConfig(
            parallelism=shard_parallelism,
            attempts=shard_attempts,
            image=runtime_image,
            cpu=resources_cpu,
            memory=resources_memory,
            storage_endpoint=storage_endpoint,
            storage_secret_name=storage_secret_name,
            service_account=resources_service_account,
            node_selector=resources_node_selector,
            tolerations=with_whole_numbers(resources_tolerations),
            queue_name=resources_queue_name,
        )
        for name, value in generate(JobAddress.parse(job_uri), pods).items():
            metrics.log_metric(f"shards_{name}", float(value))
    return job_uri
