"""KFP step: the model compiled once, for all pods of a run."""

from kfp import dsl

from kfp_llm_batch.images import VLLM_CPU_IMAGE


@dsl.component(base_image=VLLM_CPU_IMAGE, install_kfp_package=False)
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
        model_uri: As for generate_completions.
        model_revision: Branch, tag or commit of a hub model.
        engine_dtype: As for generate_completions.
        engine_options: As for generate_completions; other options are compiled anew.
        longest_request_tokens: Of the longest prompt with its answer; compiled code serves up to the next power of two.
        storage_endpoint: Address of the S3 store, when it is not AWS.
    """
    from pathlib import Path

    from kfp_llm_batch.engine.warming import WarmingConfig, warm
    from kfp_llm_batch.steps import step, with_whole_numbers

    with step(storage_endpoint):
        config = WarmingConfig(
            model_uri=model_uri,
            model_revision=model_revision or None,
            engine_dtype=engine_dtype,
            engine_options=with_whole_numbers(engine_options),
            longest_request_tokens=longest_request_tokens,
        )
        engine_cache.metadata.update(warm(config, Path(engine_cache.path)))
