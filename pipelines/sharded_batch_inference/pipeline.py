"""Many pods generate: dataset -> shards -> a loop over pods -> repair -> one result in object storage."""

from typing import Any

from kfp import dsl
from kfp_llm_batch.components import generate_shards, merge_shards, split_dataset, warm_shards
from kfp_llm_batch.components.parameters import documented
from kfp_llm_batch.pipelines.pod_settings import (
    STORAGE_SECRET_NAME,
    apply_engine_settings,
    apply_pod_settings,
)
from kfp_llm_batch.pipelines.wiring import run_step

from kfp_llm_batch.images import VLLM_CPU_IMAGE


def _run_steps(parameters: dict[str, Any]) -> Any:
    """Each step with the pipeline's parameters of its names; the result's address."""
    splitting = run_step(split_dataset, parameters)
    job_uri = splitting.outputs["job_uri"]
    warming = run_step(warm_shards, parameters, job_uri=job_uri)
    engine_cache = warming.outputs["engine_cache"]
    with dsl.ParallelFor(items=splitting.outputs["Output"], name="pods") as shards_uri:
        generating = run_step(generate_shards, parameters, shards_uri=shards_uri, engine_cache=engine_cache)
    repairing = run_step(generate_shards, parameters, shards_uri=job_uri, engine_cache=engine_cache).after(generating)
    merging = run_step(merge_shards, parameters, job_uri=job_uri).after(repairing)
    for task in (splitting, warming, generating, repairing, merging):
        apply_pod_settings(task, parameters)
    for task in (warming, generating, repairing):
        apply_engine_settings(task, parameters)
    return merging.outputs["Output"]


@dsl.pipeline(
    name="sharded-batch-inference",
    description="Answer a large dataset with a language model on many pods at once, and merge the answers exactly.",
)
@documented
def sharded_batch_inference(
    dataset_uri: str,
    output_uri: str,
    dataset_format: str = "auto",
    dataset_config: str = "",
    dataset_split: str = "",
    dataset_revision: str = "",
    dataset_limit: int = 0,
    dataset_id_column: str = "",
    dataset_cache_salt: str = "",
    prompt_template: str = "",
    prompt_system: str = "",
    prompt_messages_column: str = "",
    prompt_examples: list = [],
    model_uri: str = "demo://smollm2-135m-instruct",
    model_revision: str = "",
    generation_max_tokens: int = 256,
    generation_temperature: float = 0.0,
    generation_top_p: float = 1.0,
    generation_n: int = 1,
    generation_seed: int = 0,
    generation_stop: list = [],
    generation_json_schema: dict = {},
    generation_options: dict = {},
    generation_context_policy: str = "error",
    generation_special_tokens: str = "text",
    engine_device: str = "auto",
    engine_dtype: str = "auto",
    engine_options: dict = {},
    output_format: str = "parquet",
    output_overwrite: bool = False,
    reuse_uri: str = "",
    max_error_rate: float = 1.0,
    num_shards: str = "auto",
    shard_parallelism: int = 0,
    shard_target_hours: float = 1.0,
    storage_secret_name: str = STORAGE_SECRET_NAME,
    storage_endpoint: str = "",
    resources_cpu: str = "2",
    resources_memory: str = "8Gi",
    resources_node_selector: dict = {},
    resources_tolerations: list = [],
    runtime_image: str = VLLM_CPU_IMAGE,
) -> str:
    """Answer every row of a dataset on many pods and publish the result.

    Args:
        output_uri: Folder path, s3:// or gs:// address for the result; the shards lie beside it until it stands.

    Returns:
        The address of the result.
    """
    return _run_steps(dict(locals()))
