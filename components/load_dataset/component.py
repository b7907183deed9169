"""KFP step: a dataset becomes rendered prompts in Arrow."""

from kfp import dsl

from kfp_llm_batch.images import VLLM_CPU_IMAGE


@dsl.component(base_image=VLLM_CPU_IMAGE, install_kfp_package=False)
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
        dataset_uri: Path, s3://, gs://, hf://org/name or http(s):// address; a file, a folder or a wildcard.
        dataset_format: auto, jsonl, json, csv, tsv, parquet, arrow, saved (a datasets folder) or openai (batch lines).
        dataset_config: Configuration of a hub dataset.
        dataset_split: Split of a hub dataset or of a saved one.
        dataset_revision: Branch, tag or commit of a hub dataset.
        dataset_limit: Take this many rows from the start; 0 takes all.
        dataset_id_column: Column with a unique identity per row; without it the row's number.
        dataset_cache_salt: Any text; another one makes Kubeflow read the dataset again although caching is on.
        prompt_template: Jinja2 template over the row's columns, for example "{{ question }}".
        prompt_system: System message put before every prompt.
        prompt_messages_column: Column with ready chat messages, instead of a template.
        prompt_examples: Examples for the model, each {"user": ..., "assistant": ...}.
        storage_endpoint: Address of the S3 store, when it is not AWS.
    """
    from pathlib import Path

    from kfp_llm_batch.dataset import loading
    from kfp_llm_batch.steps import step

    with step(storage_endpoint):
        config = loading.DatasetConfig(
            uri=dataset_uri,
            format=dataset_format,
            config=dataset_config or None,
            split=dataset_split or None,
            revision=dataset_revision or None,
            limit=dataset_limit or None,
            id_column=dataset_id_column or None,
            prompt_template=prompt_template or None,
            system=prompt_system or None,
            messages_column=prompt_messages_column or None,
            examples=prompt_examples,
        )
        manifest = loading.load_dataset(config, Path(prompts.path))
        prompts.metadata.update(rows=manifest.rows, fingerprint=manifest.fingerprint)
