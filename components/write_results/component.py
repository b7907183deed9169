"""KFP step: completions become a result in object storage, its manifest written last."""

from kfp import dsl

from kfp_llm_batch.images import VLLM_CPU_IMAGE


@dsl.component(base_image=VLLM_CPU_IMAGE, install_kfp_package=False)
def write_results(
    completions: dsl.Input[dsl.Dataset],
    output_uri: str,
    output_format: str = "parquet",
    output_overwrite: bool = False,
    storage_endpoint: str = "",
) -> str:
    """Publish completions at an address; the same result written twice is one result.

    Args:
        completions: Folder written by generate_completions.
        output_uri: Folder path, s3:// or gs:// address.
        output_format: parquet, jsonl or openai (batch output lines).
        output_overwrite: Whether a different result there may be replaced.
        storage_endpoint: Address of the S3 store, when it is not AWS.

    Returns:
        The address of the result.
    """
    from pathlib import Path

    from kfp_llm_batch.results.publishing import publish_result
    from kfp_llm_batch.steps import step

    with step(storage_endpoint):
        publish_result(Path(completions.path), output_uri, output_format=output_format, overwrite=output_overwrite)
    return output_uri
