"""KFP exit step: how an evaluation ended, however it ended."""

from kfp import dsl
from kfp_llm_batch.components.step_component import step_component


@step_component
def summarize_evaluation(
    output_uri: str,
    run_id: str,
    status: dsl.PipelineTaskFinalStatus,
    storage_endpoint: str = "",
) -> None:
    """Write summary.json into the run's folder, and post it where the environment names a webhook.

    Args:
        output_uri: Folder of all runs.
        status: How the pipeline ended.
    """
    from kfp_llm_batch.evaluation import runs
    from kfp_llm_batch.steps import step

    with step(storage_endpoint):
        ended = {"state": status.state, "error": status.error_message or None}
        runs.summarize_run(output_uri, run_id, ended)
