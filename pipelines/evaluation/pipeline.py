"""Generate, score, compare with the baseline, gate: the pipeline to schedule."""

from kfp import dsl
from kfp_llm_batch.components import (
    answer_again,
    compare_evaluations,
    enforce_gate,
    evaluate_completions,
    generate_completions,
    load_dataset,
    prepare_evaluation,
    summarize_evaluation,
    write_results,
)
from kfp_llm_batch.pipelines.pod_settings import (
    STORAGE_SECRET_NAME,
    apply_pod_settings,
    choose_nodes,
    limit_resources,
    mount_shared_memory,
    pass_webhook,
)

from kfp_llm_batch.images import VLLM_CPU_IMAGE


@dsl.pipeline(
    name="evaluation",
    description="Answer a dataset with a language model on CPU, score the answers, and hold them against a baseline.",
)
def evaluation(
    dataset_uri: str,
    output_uri: str,
    dataset_format: str = "auto",
    dataset_config: str = "",
    dataset_split: str = "",
    dataset_revision: str = "",
    dataset_limit: int = 0,
    dataset_id_column: str = "",
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
    evaluation_scorers: list = ["truncation", "empty", "refusal", "repetition", "length"],
    evaluation_target_column: str = "",
    evaluation_slice_columns: list = [],
    evaluation_cluster_column: str = "",
    evaluation_missing: str = "wrong",
    evaluation_canary_rows: int = 32,
    baseline_uri: str = "",
    baseline_promote: bool = False,
    gate_margin: float = 0.02,
    gate_action: str = "fail",
    max_error_rate: float = 1.0,
    max_duration_seconds: int = 0,
    storage_secret_name: str = STORAGE_SECRET_NAME,
    storage_endpoint: str = "",
    resources_cpu: str = "2",
    resources_memory: str = "8Gi",
    resources_node_selector: dict = {},
    resources_tolerations: list = [],
    runtime_image: str = VLLM_CPU_IMAGE,
) -> None:
    """Answer a dataset, score the answers, and hold them against a pinned baseline.

    Args:
        dataset_uri: Path, s3://, gs://, hf://org/name or http(s):// address; a file, a folder or a wildcard.
        output_uri: Folder path, s3:// or gs:// address; each run gets a folder below it.
        dataset_format: auto, jsonl, json, csv, tsv, parquet, arrow, saved (a datasets folder) or openai (batch lines).
        dataset_config: Configuration of a hub dataset.
        dataset_split: Split of a hub dataset or of a saved one.
        dataset_revision: Branch, tag or commit of a hub dataset.
        dataset_limit: Take this many rows from the start; 0 takes all.
        dataset_id_column: Column with a unique identity per row; without it the row's number.
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
        evaluation_scorers: Names of scorers, or objects such as {"name": "numeric_match", "tolerance": 0.01}.
        evaluation_target_column: Column with the right answer; a list in it is several accepted ones.
        evaluation_slice_columns: Columns by whose values the metrics are shown apart.
        evaluation_cluster_column: Column that tells which rows hang together, such as questions about one text.
        evaluation_missing: What a row without an answer is: wrong, or exclude.
        evaluation_canary_rows: Rows that are answered twice for the noise floor; 0 leaves it out.
        baseline_uri: Address of the pointer to the baseline, such as s3://bucket/baselines/gsm8k.json.
        baseline_promote: Whether a run that passes, or is the first, becomes the baseline.
        gate_margin: Largest accepted loss; 0.02 is two points.
        gate_action: fail ends the run when the gate fails, strict also when it is inconclusive, mark never.
        max_error_rate: Share of rows that may stay without an answer; past it the step fails early.
        max_duration_seconds: Ends the generating step in time with a partial result; 0 sets no limit.
        storage_secret_name: Kubernetes secret with the keys accesskey, secretkey and webhook; it may be absent.
        storage_endpoint: Address of the S3 store, when it is not AWS.
        resources_cpu: Processors of the pods with an engine: the generating ones and the scoring one.
        resources_memory: Memory of each of them.
        resources_node_selector: Labels of the nodes for these pods, such as {"pool": "cpu-large"}.
        resources_tolerations: Taints that they bear, such as [{"key": "batch", "operator": "Exists"}].
        runtime_image: Image of all steps.
    """
    run_id = dsl.PIPELINE_JOB_ID_PLACEHOLDER
    summarizing = summarize_evaluation(output_uri=output_uri, run_id=run_id, storage_endpoint=storage_endpoint)
    with dsl.ExitHandler(summarizing):
        loading = load_dataset(
            dataset_uri=dataset_uri,
            dataset_format=dataset_format,
            dataset_config=dataset_config,
            dataset_split=dataset_split,
            dataset_revision=dataset_revision,
            dataset_limit=dataset_limit,
            dataset_id_column=dataset_id_column,
            prompt_template=prompt_template,
            prompt_system=prompt_system,
            prompt_messages_column=prompt_messages_column,
            prompt_examples=prompt_examples,
            storage_endpoint=storage_endpoint,
        )
        preparing = prepare_evaluation(
            prompts=loading.outputs["prompts"],
            output_uri=output_uri,
            run_id=run_id,
            evaluation_scorers=evaluation_scorers,
            evaluation_target_column=evaluation_target_column,
            evaluation_slice_columns=evaluation_slice_columns,
            evaluation_cluster_column=evaluation_cluster_column,
            evaluation_missing=evaluation_missing,
            baseline_uri=baseline_uri,
            baseline_promote=baseline_promote,
            gate_margin=gate_margin,
            gate_action=gate_action,
            storage_endpoint=storage_endpoint,
        )
        generating = generate_completions(
            prompts=loading.outputs["prompts"],
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
            output_uri=preparing.output,
            max_error_rate=max_error_rate,
            max_duration_seconds=max_duration_seconds,
            storage_endpoint=storage_endpoint,
        )
        repeating = answer_again(
            prompts=loading.outputs["prompts"],
            evaluation_canary_rows=evaluation_canary_rows,
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
            storage_endpoint=storage_endpoint,
        ).after(generating)
        writing = write_results(
            completions=generating.outputs["completions"],
            output_uri=preparing.output,
            storage_endpoint=storage_endpoint,
        )
        scoring = evaluate_completions(
            completions=generating.outputs["completions"],
            canary=repeating.outputs["canary"],
            evaluation_scorers=evaluation_scorers,
            evaluation_target_column=evaluation_target_column,
            evaluation_slice_columns=evaluation_slice_columns,
            evaluation_cluster_column=evaluation_cluster_column,
            evaluation_missing=evaluation_missing,
            storage_endpoint=storage_endpoint,
        )
        comparing = compare_evaluations(
            scores=scoring.outputs["scores"],
            baseline_uri=baseline_uri,
            baseline_promote=baseline_promote,
            gate_margin=gate_margin,
            run_uri=writing.output,
            history_uri=output_uri,
            storage_endpoint=storage_endpoint,
        )
        gating = enforce_gate(
            outcome=comparing.outputs["Output"],
            gate_action=gate_action,
            run_uri=writing.output,
        )
    for task in (loading, preparing, generating, repeating, writing, scoring, comparing, gating, summarizing):
        apply_pod_settings(task, image=runtime_image, secret_name=storage_secret_name)
    pass_webhook(summarizing, secret_name=storage_secret_name)
    # The scoring pod too, for a judge is an engine as well.
    for task in (generating, repeating, scoring):
        limit_resources(task, cpu=resources_cpu, memory=resources_memory)
        mount_shared_memory(task)
        choose_nodes(task, node_selector=resources_node_selector, tolerations=resources_tolerations)
        # Within an exit handler KFP does not find these by itself.
        task.register_pipeline_channels(
            [resources_cpu, resources_memory, resources_node_selector, resources_tolerations]
        )
