"""KFP step: completions become a result in object storage, its manifest written last."""

from kfp import dsl
from kfp_llm_batch.components.step_component import step_component


@step_component
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

    Returns:
        The address of the result.
    """
    from pathlib import Path

    from kfp_llm_batch.results.publishing import publish_result
    from kfp_llm_batch.steps import step

    with step(storage_endpoint):
        publish_result(Path(completions.path), output_uri, output_format=output_format, overwrite=output_overwrite)
    return output_uri
