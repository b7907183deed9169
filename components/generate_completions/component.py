"""KFP step: one completion per prompt, offline vLLM on CPU."""

from kfp import dsl
from kfp_llm_batch.components.step_component import step_component


@step_component
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
        output_uri: Where the result will be written; checked before the model loads.
        engine_cache: What warm_engine compiled.
    """
    parameters = dict(locals())
    from pathlib import Path

    from kfp_llm_batch.generation import generating
    from kfp_llm_batch.generation import report as reports
    from kfp_llm_batch.generation.config import GenerationConfig
    from kfp_llm_batch.steps import step, write_outputs

    with step(storage_endpoint):
        cache = Path(engine_cache.path) if engine_cache else None
        config = GenerationConfig.from_parameters(parameters | {"engine_cache": cache})
        manifest = generating.generate(config, Path(prompts.path), Path(completions.path))
        for name, value in reports.metrics(manifest).items():
            metrics.log_metric(name, value)
        write_outputs({report.path: reports.markdown_report(manifest, Path(completions.path))})
