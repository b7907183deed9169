"""KFP step: everything after the generation that can fail at once is tried before it."""

from kfp import dsl
from kfp_llm_batch.components.step_component import step_component


@step_component
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
        prompts: Folder written by load_dataset, in which the named columns are looked for.

    Returns:
        Address of the run's folder.
    """
    parameters = dict(locals())
    from pathlib import Path

    from kfp_llm_batch.evaluation import runs
    from kfp_llm_batch.evaluation.comparing import ComparisonConfig
    from kfp_llm_batch.evaluation.config import EvaluationConfig
    from kfp_llm_batch.steps import step
    from kfp_llm_batch.storage.uris import join_uri

    with step(storage_endpoint):
        evaluation = EvaluationConfig.from_parameters(parameters)
        run_uri = join_uri(output_uri, run_id)
        comparison = ComparisonConfig.from_parameters(parameters | {"run_uri": run_uri})
        runs.prepare_run(evaluation, comparison, Path(prompts.path) if prompts else None)
        return run_uri
