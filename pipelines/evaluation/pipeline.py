"""Generate, score, compare with the baseline, gate: the pipeline to schedule."""

from typing import Any

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
from kfp_llm_batch.components.parameters import documented
from kfp_llm_batch.pipelines.pod_settings import (
    STORAGE_SECRET_NAME,
    apply_engine_settings,
    apply_pod_settings,
    pass_webhook,
)
from kfp_llm_batch.pipelines.wiring import run_step

from kfp_llm_batch.images import VLLM_CPU_IMAGE


def _run_steps(parameters: dict[str, Any]) -> None:
    """Each step with the pipeline's parameters of its names; the summary at the end, however they end."""
    parameters["run_id"] = dsl.PIPELINE_JOB_ID_PLACEHOLDER
    summarizing = run_step(summarize_evaluation, parameters)
    with dsl.ExitHandler(summarizing):
        loading = run_step(load_dataset, parameters)
        prompts = loading.outputs["prompts"]
        preparing = run_step(prepare_evaluation, parameters, prompts=prompts)
        run_uri = preparing.output
        generating = run_step(generate_completions, parameters, prompts=prompts, output_uri=run_uri)
        repeating = run_step(answer_again, parameters, prompts=prompts).after(generating)
        completions = generating.outputs["completions"]
        writing = run_step(write_results, parameters, completions=completions, output_uri=run_uri)
        canary = repeating.outputs["canary"]
        scoring = run_step(evaluate_completions, parameters, completions=completions, canary=canary)
        scores = scoring.outputs["scores"]
        comparing = run_step(
            compare_evaluations, parameters, scores=scores, history_uri=parameters["output_uri"], run_uri=writing.output
        )
        gating = run_step(enforce_gate, parameters, outcome=comparing.outputs["Output"], run_uri=writing.output)
    for task in (loading, preparing, generating, repeating, writing, scoring, comparing, gating, summarizing):
        apply_pod_settings(task, parameters)
    pass_webhook(summarizing, parameters)
    # The scoring pod too, for a judge is an engine as well.
    for task in (generating, repeating, scoring):
        apply_engine_settings(task, parameters)


@dsl.pipeline(
    name="evaluation",
    description="Answer a dataset with a language model on CPU, score the answers, and hold them against a baseline.",
)
@documented
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
        output_uri: Folder path, s3:// or gs:// address; each run gets a folder below it.
        storage_secret_name: Kubernetes secret with the keys accesskey, secretkey and webhook; it may be absent.
    """
    _run_steps(dict(locals()))
