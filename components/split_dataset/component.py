"""KFP step: a dataset becomes shards in object storage, and a job that says how they are answered."""

from kfp import dsl

from kfp_llm_batch.images import VLLM_CPU_IMAGE


@dsl.component(base_image=VLLM_CPU_IMAGE, install_kfp_package=False)
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
        job_uri: Address of the job.
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
        resources_cpu: Processors of each generating pod.
        storage_endpoint: Address of the S3 store, when it is not AWS.

    Returns:
        The address of the shards of each pod.
    """
    from pathlib import Path

    from kfp_llm_batch.dataset.config import DatasetConfig
    from kfp_llm_batch.generation.config import GenerationConfig
    from kfp_llm_batch.generation.sampling import SamplingConfig
    from kfp_llm_batch.sharding.preparing import prepare_job
    from kfp_llm_batch.sharding.sizing import ShardingConfig
    from kfp_llm_batch.steps import step, with_whole_numbers

    with step(storage_endpoint):
        dataset = DatasetConfig(
            uri=dataset_uri,
            format=dataset_format,
            config=dataset_config or None,
            split=dataset_split or None,
            revision=dataset_revision or None,
            limit=dataset_limit or None,
            id_column=dataset_id_column or None,
            prompt_template=prompt_template or None,
            system=prompt_system or None,
            messages_column=prompt_messages_column or None,
            examples=prompt_examples,
        )
        generation = GenerationConfig(
            model_uri=model_uri,
            model_revision=model_revision or None,
            sampling=SamplingConfig(
                max_tokens=generation_max_tokens,
                temperature=generation_temperature,
                top_p=generation_top_p,
                n=generation_n,
                seed=generation_seed,
                stop=tuple(generation_stop),
                json_schema=with_whole_numbers(generation_json_schema) or None,
                options=with_whole_numbers(generation_options),
            ),
            context_policy=generation_context_policy,
            special_tokens=generation_special_tokens,
            engine_device=engine_device,
            engine_dtype=engine_dtype,
            engine_options=with_whole_numbers(engine_options),
            output_uri=output_uri,
            output_format=output_format,
            output_overwrite=output_overwrite,
            reuse_uri=reuse_uri or None,
            max_error_rate=max_error_rate,
        )
        sharding = ShardingConfig(
            num_shards=num_shards,
            shard_parallelism=shard_parallelism,
            target_hours=shard_target_hours,
            pod_cpus=resources_cpu,
        )
        address, made = prepare_job(dataset, generation, sharding)
        job.metadata.update(rows=made.rows, shards=len(made.shards), tokens=made.tokens)
        Path(job.path).write_text(made.to_json(), encoding="utf-8")
        Path(job_uri).parent.mkdir(parents=True, exist_ok=True)
        Path(job_uri).write_text(address.uri, encoding="utf-8")
        return [address.with_shards(pod) for pod in sharding.pods(len(made.shards))]
