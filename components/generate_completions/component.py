"""KFP step: one completion per prompt, offline vLLM on CPU."""

from kfp import dsl

from kfp_llm_batch.images import VLLM_CPU_IMAGE


@dsl.component(base_image=VLLM_CPU_IMAGE, install_kfp_package=False)
def generate_completions(
    prompts: dsl.Input[dsl.Dataset],
    completions: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.Markdown],
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
    output_uri: str = "",
    output_format: str = "parquet",
    output_overwrite: bool = False,
    checkpoint_uri: str = "",
    reuse_uri: str = "",
    retry_of: str = "",
    retry_error_codes: list = [],
    max_error_rate: float = 1.0,
    max_duration_seconds: int = 0,
    storage_endpoint: str = "",
    engine_cache: dsl.Input[dsl.Artifact] = None,
) -> None:
    """Answer every prompt with vLLM and write the completions as Parquet.

    Args:
        prompts: Folder written by load_dataset.
        completions: Folder with Parquet parts and a manifest.
        metrics: Rows by status, tokens and tokens per second.
        report: The same for people, with the first answers.
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
        output_uri: Where the result will be written; checked before the model loads.
        output_format: In which format; checked as well.
        output_overwrite: Whether a different result there may be replaced.
        checkpoint_uri: Where finished rows are kept while the step runs; beside the output if empty.
        reuse_uri: Where runs share answers: those of the same requests are not generated again; empty shares none.
        retry_of: Address of an earlier result; only its rows with an error are answered, the others are taken over.
        retry_error_codes: Which of them: error codes, or statuses such as truncated; empty takes all with an error.
        max_error_rate: Share of rows that may stay without an answer; past it the step fails early.
        max_duration_seconds: Ends the step in time with a partial result; 0 sets no limit.
        storage_endpoint: Address of the S3 store, when it is not AWS.
        engine_cache: What warm_engine compiled.
    """
    from pathlib import Path

    from kfp_llm_batch.generation import generating
    from kfp_llm_batch.generation import report as reports
    from kfp_llm_batch.generation.config import GenerationConfig
    from kfp_llm_batch.generation.sampling import SamplingConfig
    from kfp_llm_batch.steps import step, with_whole_numbers

    with step(storage_endpoint):
        config = GenerationConfig(
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
            output_uri=output_uri or None,
            output_format=output_format,
            output_overwrite=output_overwrite,
            checkpoint_uri=checkpoint_uri or None,
            reuse_uri=reuse_uri or None,
            retry_of=retry_of or None,
            retry_error_codes=tuple(retry_error_codes),
            max_error_rate=max_error_rate,
            max_duration_seconds=max_duration_seconds or None,
            engine_cache=Path(engine_cache.path) if engine_cache else None,
        )
        manifest = generating.generate(config, Path(prompts.path), Path(completions.path))
        for name, value in reports.metrics(manifest).items():
            metrics.log_metric(name, value)
        Path(report.path).write_text(reports.markdown_report(manifest, Path(completions.path)), "utf-8")
