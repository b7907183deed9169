"""KFP step: some rows answered a second time, so that chance can be told from change."""

from kfp import dsl

from kfp_llm_batch.images import VLLM_CPU_IMAGE


@dsl.component(base_image=VLLM_CPU_IMAGE, install_kfp_package=False)
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
        evaluation_canary_rows: Rows that are answered twice; 0 leaves the noise floor out.
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
        storage_endpoint: Address of the S3 store, when it is not AWS.
    """
    from pathlib import Path

    from kfp_llm_batch.evaluation import canary as canaries
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
        )
        canaries.answer_again(config, Path(prompts.path), evaluation_canary_rows, Path(canary.path))
