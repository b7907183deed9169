"""KFP step: a dataset becomes shards in object storage, and a job that says how they are answered."""

from kfp import dsl
from kfp_llm_batch.components.step_component import step_component


@step_component
def split_dataset(
    job: dsl.Output[dsl.Artifact],
    job_uri: dsl.OutputPath(str),  # type: ignore[valid-type]
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
    resources_cpu: str = "2",
    storage_endpoint: str = "",
) -> list[str]:
    """Load a dataset, render its prompts, and deal them out to shards of equal work.

    Args:
        job: What there is to answer and how, as JSON; the prompts are in the store.
        output_uri: Folder path, s3:// or gs:// address for the result; the shards lie beside it until it stands.

    Returns:
        The address of the shards of each pod.
    """
    parameters = dict(locals())
    from kfp_llm_batch.sharding.preparing import JobConfig, prepare_job
    from kfp_llm_batch.steps import step, write_outputs

    with step(storage_endpoint):
        config = JobConfig.from_parameters(parameters)
        address, made = prepare_job(config)
        job.metadata.update(rows=made.rows, shards=len(made.shards), tokens=made.tokens)
        write_outputs({job.path: made.to_json(), job_uri: address.uri})
        return [address.with_shards(pod) for pod in config.sharding.pods(len(made.shards))]
