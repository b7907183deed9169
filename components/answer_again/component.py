"""KFP step: some rows answered a second time, so that chance can be told from change."""

from kfp import dsl
from kfp_llm_batch.components.step_component import step_component


@step_component
def answer_again(
    prompts: dsl.Input[dsl.Dataset],
    canary: dsl.Output[dsl.Dataset],
    evaluation_canary_rows: int = 32,
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
    storage_endpoint: str = "",
) -> None:
    """Answer a sample of the prompts in another order, with the settings of the first time.

    Args:
        prompts: Folder written by load_dataset.
        canary: Folder with Parquet parts and a manifest; without rows if none are wanted.
    """
    parameters = dict(locals())
    from pathlib import Path

    from kfp_llm_batch.evaluation import canary as canaries
    from kfp_llm_batch.generation.config import GenerationConfig
    from kfp_llm_batch.steps import step

    with step(storage_endpoint):
        config = GenerationConfig.from_parameters(parameters)
        canaries.answer_again(config, Path(prompts.path), evaluation_canary_rows, Path(canary.path))
