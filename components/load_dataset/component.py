"""KFP step: a dataset becomes rendered prompts in Arrow."""

from kfp import dsl
from kfp_llm_batch.components.step_component import step_component


@step_component
def load_dataset(
    prompts: dsl.Output[dsl.Dataset],
    dataset_uri: str,
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
    storage_endpoint: str = "",
) -> None:
    """Load a dataset, render one prompt per row and write them as Arrow.

    Args:
        prompts: Folder with the prompts, their manifest and a preview.
    """
    parameters = dict(locals())
    from pathlib import Path

    from kfp_llm_batch.dataset import loading
    from kfp_llm_batch.steps import step

    with step(storage_endpoint):
        config = loading.DatasetConfig.from_parameters(parameters)
        manifest = loading.load_dataset(config, Path(prompts.path))
        prompts.metadata.update(rows=manifest.rows, fingerprint=manifest.fingerprint)
