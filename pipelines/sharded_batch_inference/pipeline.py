"""Many pods generate: dataset -> shards -> a loop over pods -> repair -> one result in object storage."""

from kfp import dsl
from kfp_llm_batch.components import generate_shards, merge_shards, split_dataset, warm_shards
from kfp_llm_batch.pipelines.pod_settings import (
    STORAGE_SECRET_NAME,
    apply_pod_settings,
    choose_nodes,
    limit_resources,
    mount_shared_memory,
)

from kfp_llm_batch.images import VLLM_CPU_IMAGE


@dsl.pipeline(
    name="sharded-batch-inference",
    description="Answer a large dataset with a language model on many pods at once, and merge the answers exactly.",
)
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
        dataset_uri: Path, s3://, gs://, hf://org/name or http(s):// address; a file, a folder or a wildcard.
        output_uri: Folder path, s3:// or gs:// address for the result; the shards lie beside it until it stands.
        dataset_format: auto, jsonl, json, csv, tsv, parquet, arrow, saved (a datasets folder) or openai (batch lines).
        dataset_config: Configuration of a hub dataset.
        dataset_split: Split of a hub dataset or of a saved one.
        dataset_revision: Branch, tag or commit of a hub dataset.
        dataset_limit: Take this many rows from the start; 0 takes all.
        dataset_id_column: Column with a unique identity per row; without it the row's number.
        dataset_cache_salt: Any text; another one makes Kubeflow read the dataset again although caching is on.
        prompt_template: Jinja2 template over the row's columns, for example "{{ question }}".
        prompt_system: System message put before every prompt.
        prompt_messages_column: Column with ready chat messages, instead of a template.
        prompt_examples: Examples for the model, each {"user": ..., "assistant": ...}.
        model_uri: demo://, a folder with safetensors, a .gguf file, hf://org/name, s3:// or gs:// address, or echo://.
        model_revision: Branch, tag or commit of a hub model.
        generation_max_tokens: Most new tokens per answer.
        generation_temperature: 0 is greedy.
        generation_top_p: Share of probability that is sampled from.
        generation_n: Samples per row; more than one needs a temperature above 0.
        generation_seed: Start of every row's own seed.
        generation_stop: Texts that end an answer.
        generation_json_schema: JSON schema that every answer follows.
        generation_options: Further sampling parameters by their vLLM names.
        generation_context_policy: For prompts too long for the context: error, or truncate_left, _right or _middle.
        generation_special_tokens: Special tokens in the dataset: text takes them for plain text, refuse for a fault.
        engine_device: auto, cpu or cuda.
        engine_dtype: auto, bfloat16, float16 or float32.
        engine_options: Arguments of vLLM's engine; they win over the planned ones.
        output_format: parquet, jsonl or openai (batch output lines).
        output_overwrite: Whether a different result at output_uri may be replaced.
        reuse_uri: Where runs share answers: those of the same requests are not generated again; empty shares none.
        max_error_rate: Share of rows that may stay without an answer; past it the run fails.
        num_shards: A number, or auto for as many as reach shard_target_hours.
        shard_parallelism: Most pods at a time; 0 gives every shard a pod of its own.
        shard_target_hours: How long the pods should take, with num_shards=auto.
        storage_secret_name: Kubernetes secret with the keys accesskey and secretkey of the S3 store; it may be absent.
        storage_endpoint: Address of the S3 store, when it is not AWS.
        resources_cpu: Processors of each generating pod.
        resources_memory: Memory of each generating pod.
        resources_node_selector: Labels of the nodes for the generating pods, such as {"pool": "cpu-large"}.
        resources_tolerations: Taints that they bear, such as [{"key": "batch", "operator": "Exists"}].
        runtime_image: Image of all steps.

    Returns:
        The address of the result.
    """
    splitting = split_dataset(
        dataset_uri=dataset_uri,
        output_uri=output_uri,
        dataset_format=dataset_format,
        dataset_config=dataset_config,
        dataset_split=dataset_split,
        dataset_revision=dataset_revision,
        dataset_limit=dataset_limit,
        dataset_id_column=dataset_id_column,
        dataset_cache_salt=dataset_cache_salt,
        prompt_template=prompt_template,
        prompt_system=prompt_system,
        prompt_messages_column=prompt_messages_column,
        prompt_examples=prompt_examples,
        model_uri=model_uri,
        model_revision=model_revision,
        generation_max_tokens=generation_max_tokens,
        generation_temperature=generation_temperature,
        generation_top_p=generation_top_p,
        generation_n=generation_n,
        generation_seed=generation_seed,
        generation_stop=generation_stop,
        generation_json_schema=generation_json_schema,
        generation_options=generation_options,
        generation_context_policy=generation_context_policy,
        generation_special_tokens=generation_special_tokens,
        engine_device=engine_device,
        engine_dtype=engine_dtype,
        engine_options=engine_options,
        output_format=output_format,
        output_overwrite=output_overwrite,
        reuse_uri=reuse_uri,
        max_error_rate=max_error_rate,
        num_shards=num_shards,
        shard_parallelism=shard_parallelism,
        shard_target_hours=shard_target_hours,
        storage_endpoint=storage_endpoint,
        resources_cpu=resources_cpu,
    )
    job_uri = splitting.outputs["job_uri"]
    warming = warm_shards(job_uri=job_uri, storage_endpoint=storage_endpoint)
    engine_cache = warming.outputs["engine_cache"]
    with dsl.ParallelFor(items=splitting.outputs["Output"], name="pods") as shards_uri:
        generating = generate_shards(
            shards_uri=shards_uri, storage_endpoint=storage_endpoint, engine_cache=engine_cache
        )
    repairing = generate_shards(shards_uri=job_uri, storage_endpoint=storage_endpoint, engine_cache=engine_cache).after(
        generating
    )
    merging = merge_shards(job_uri=job_uri, storage_endpoint=storage_endpoint).after(repairing)
    for task in (splitting, warming, generating, repairing, merging):
        apply_pod_settings(task, image=runtime_image, secret_name=storage_secret_name)
    for task in (warming, generating, repairing):
        limit_resources(task, cpu=resources_cpu, memory=resources_memory)
        choose_nodes(task, node_selector=resources_node_selector, tolerations=resources_tolerations)
        mount_shared_memory(task)
    # Within a loop KFP does not find these by itself.
    generating.register_pipeline_channels(
        [resources_cpu, resources_memory, resources_node_selector, resources_tolerations]
    )
    return merging.outputs["Output"]
