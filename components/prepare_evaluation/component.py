"""KFP step: everything after the generation that can fail at once is tried before it."""

from kfp import dsl

from kfp_llm_batch.images import VLLM_CPU_IMAGE


@dsl.component(base_image=VLLM_CPU_IMAGE, install_kfp_package=False)
def prepare_evaluation(
    output_uri: str,
    run_id: str,
    evaluation_scorers: list = ["truncation", "empty", "refusal", "repetition", "length"],
    evaluation_target_column: str = "",
    evaluation_slice_columns: list = [],
    evaluation_cluster_column: str = "",
    evaluation_missing: str = "wrong",
    baseline_uri: str = "",
    baseline_promote: bool = False,
    gate_margin: float = 0.02,
    gate_action: str = "fail",
    storage_endpoint: str = "",
    prompts: dsl.Input[dsl.Dataset] = None,
) -> str:
    """Check scorers, columns, gate, baseline and destination before hours of work, and name the run's folder.

    Args:
        output_uri: Folder of all runs.
        run_id: Names this one.
        evaluation_scorers: As evaluate_completions takes them.
        evaluation_target_column: As evaluate_completions takes it.
        evaluation_slice_columns: As evaluate_completions takes them.
        evaluation_cluster_column: As evaluate_completions takes it.
        evaluation_missing: As evaluate_completions takes it.
        baseline_uri: As compare_evaluations takes it.
        baseline_promote: As compare_evaluations takes it.
        gate_margin: As compare_evaluations takes it.
        gate_action: As enforce_gate takes it.
        storage_endpoint: Address of the S3 store, when it is not AWS.
        prompts: Folder written by load_dataset, in which the named columns are looked for.

    Returns:
        Address of the run's folder.
    """
    from pathlib import Path

    from kfp_llm_batch.evaluation import runs
    from kfp_llm_batch.evaluation.comparing import ComparisonConfig
    from kfp_llm_batch.evaluation.config import EvaluationConfig
    from kfp_llm_batch.evaluation.gate import GateConfig
    from kfp_llm_batch.steps import step, with_whole_numbers

    with step(storage_endpoint):
        evaluation = EvaluationConfig(
            scorers=with_whole_numbers(evaluation_scorers),
            target_column=evaluation_target_column or None,
            slice_columns=tuple(evaluation_slice_columns),
            cluster_column=evaluation_cluster_column or None,
            missing=evaluation_missing,
        )
        comparison = ComparisonConfig(
            gate=GateConfig(margin=gate_margin, action=gate_action),
            baseline_uri=baseline_uri or None,
            promote=baseline_promote,
            run_uri=runs.run_folder(output_uri, run_id),
        )
        folder = Path(prompts.path) if prompts else None
        return runs.prepare_run(evaluation, comparison, output_uri, run_id, folder)
