"""KFP step: the model compiled once, for all pods of a run."""

from kfp import dsl
from kfp_llm_batch.components.step_component import step_component


@step_component
def warm_engine(
    engine_cache: dsl.Output[dsl.Artifact],
    model_uri: str = "demo://smollm2-135m-instruct",
    model_revision: str = "",
    engine_dtype: str = "auto",
    engine_options: dict = {},
    longest_request_tokens: int = 500,
    storage_endpoint: str = "",
) -> None:
    """Compile a model and keep what the engine's later starts load in seconds.

    Args:
        engine_cache: Folder for the input engine_cache of generate_completions.
        engine_options: As for generate_completions; other options are compiled anew.
        longest_request_tokens: Of the longest prompt with its answer; compiled code serves up to the next power of two.
    """
    parameters = dict(locals())
    from pathlib import Path

    from kfp_llm_batch.engine.warming import WarmingConfig, warm
    from kfp_llm_batch.steps import from_parameters, step

    with step(storage_endpoint):
        config = from_parameters(WarmingConfig, parameters)
        engine_cache.metadata.update(warm(config, Path(engine_cache.path)))
