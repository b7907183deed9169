"""One pod generates: dataset -> prompts -> completions -> result in object storage."""

from kfp import dsl
from kfp_llm_batch.components import generate_completions, load_dataset, write_results
from kfp_llm_batch.components.parameters import documented
from kfp_llm_batch.pipelines.pod_settings import (
    STORAGE_SECRET_NAME,
    apply_engine_settings,
    apply_pod_settings,
)
from kfp_llm_batch.pipelines.wiring import run_step

from kfp_llm_batch.images import VLLM_CPU_IMAGE


@dsl.pipeline(
    name="batch-inference",
    description="Answer every row of a dataset with a language model on CPU and write the answers to object storage.",
)
@documented
def batch_inference(
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
    checkpoint_uri: str = "",
    reuse_uri: str = "",
    retry_of: str = "",
    retry_error_codes: list = [],
    max_error_rate: float = 1.0,
    max_duration_seconds: int = 0,
    storage_secret_name: str = STORAGE_SECRET_NAME,
    storage_endpoint: str = "",
    resources_cpu: str = "2",
    resources_memory: str = "8Gi",
    resources_node_selector: dict = {},
    resources_tolerations: list = [],
    runtime_image: str = VLLM_CPU_IMAGE,
) -> str:
    """Answer every row of a dataset with a language model on CPU.

    Returns:
        The address of the result.
    """
    parameters = dict(locals())
    loading = run_step(load_dataset, parameters)
    generating = run_step(generate_completions, parameters, prompts=loading.outputs["prompts"])
    writing = run_step(write_results, parameters, completions=generating.outputs["completions"])
    for task in (loading, generating, writing):
        apply_pod_settings(task, parameters)
    apply_engine_settings(generating, parameters)
    return writing.output
