"""KFP exit step: how an evaluation ended, however it ended."""

from kfp import dsl

from kfp_llm_batch.images import VLLM_CPU_IMAGE


@dsl.component(base_image=VLLM_CPU_IMAGE, install_kfp_package=False)
def summarize_evaluation(
    output_uri: str,
    run_id: str,
    status: dsl.PipelineTaskFinalStatus,
    storage_endpoint: str = "",
) -> None:
    """Write summary.json into the run's folder, and post it where the environment names a webhook.

    Args:
        output_uri: Folder of all runs.
        run_id: Names this one.
        status: How the pipeline ended.
        storage_endpoint: Address of the S3 store, when it is not AWS.
    """
    from kfp_llm_batch.evaluation import runs
    from kfp_llm_batch.steps import step

    with step(storage_endpoint):
        ended = {"state": status.state, "error": status.error_message or None}
        runs.summarize_run(output_uri, run_id, ended)
