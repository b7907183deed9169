"""What the parameters mean that several components and pipelines have: one text for each, wherever it is shown."""

import inspect
from collections.abc import Callable
from typing import TypeVar

_Function = TypeVar("_Function", bound=Callable)

PARAMETERS = {
    "dataset_uri": "Path, s3://, gs://, hf://org/name or http(s):// address; a file, a folder or a wildcard.",
    "output_uri": "Folder path, s3:// or gs:// address for the result.",
    "dataset_format": "auto, jsonl, json, csv, tsv, parquet, arrow, saved (a datasets folder) or openai (batch lines).",
    "dataset_config": "Configuration of a hub dataset.",
    "dataset_split": "Split of a hub dataset or of a saved one.",
    "dataset_revision": "Branch, tag or commit of a hub dataset.",
    "dataset_limit": "Take this many rows from the start; 0 takes all.",
    "dataset_id_column": "Column with a unique identity per row; without it the row's number.",
    "dataset_cache_salt": "Any text; another one makes Kubeflow read the dataset again although caching is on.",
    "prompt_template": 'Jinja2 template over the row\'s columns, for example "{{ question }}".',
    "prompt_system": "System message put before every prompt.",
    "prompt_messages_column": "Column with ready chat messages, instead of a template.",
    "prompt_examples": 'Examples for the model, each {"user": ..., "assistant": ...}.',
    "model_uri": "demo://, a folder with safetensors, a .gguf file, hf://org/name, s3:// or gs:// address, or echo://.",
    "model_revision": "Branch, tag or commit of a hub model.",
    "generation_max_tokens": "Most new tokens per answer.",
    "generation_temperature": "0 is greedy.",
    "generation_top_p": "Share of probability that is sampled from.",
    "generation_n": "Samples per row; more than one needs a temperature above 0.",
    "generation_seed": "Start of every row's own seed.",
    "generation_stop": "Texts that end an answer.",
    "generation_json_schema": "JSON schema that every answer follows.",
    "generation_options": "Further sampling parameters by their vLLM names.",
    "generation_context_policy": "For prompts too long for the context: error, or truncate_left, _right or _middle.",
    "generation_special_tokens": "Special tokens in the dataset: text takes them for plain text, refuse for a fault.",
    "engine_device": "auto, cpu or cuda.",
    "engine_dtype": "auto, bfloat16, float16 or float32.",
    "engine_options": "Arguments of vLLM's engine; they win over the planned ones.",
    "output_format": "parquet, jsonl or openai (batch output lines).",
    "output_overwrite": "Whether a different result at output_uri may be replaced.",
    "checkpoint_uri": "Where finished rows are kept while the run goes on; beside the output if empty.",
    "reuse_uri": "Where runs share answers: those of the same requests are not generated again; empty shares none.",
    "retry_of": "Address of an earlier result; only its rows with an error are answered, the others are taken over.",
    "retry_error_codes": "Which of them: error codes, or statuses such as truncated; empty takes all with an error.",
    "max_error_rate": "Share of rows that may stay without an answer; past it the run fails.",
    "max_duration_seconds": "Ends the generating step in time with a partial result; 0 sets no limit.",
    "storage_secret_name": "Kubernetes secret with the keys accesskey and secretkey of the S3 store; it may be absent.",
    "storage_endpoint": "Address of the S3 store, when it is not AWS.",
    "resources_cpu": "Processors of each pod with an engine.",
    "resources_memory": "Memory of each pod with an engine.",
    "resources_node_selector": 'Labels of the nodes for these pods, such as {"pool": "cpu-large"}.',
    "resources_tolerations": 'Taints that these pods bear, such as [{"key": "batch", "operator": "Exists"}].',
    "runtime_image": "Image of all steps.",
    "num_shards": "A number, or auto for as many as reach shard_target_hours.",
    "shard_parallelism": "Most pods at a time; 0 gives every shard a pod of its own.",
    "shard_target_hours": "How long the pods should take, with num_shards=auto.",
    "evaluation_scorers": 'Names of scorers, or objects such as {"name": "numeric_match", "tolerance": 0.01}.',
    "evaluation_target_column": "Column with the right answer; a list in it is several accepted ones.",
    "evaluation_slice_columns": "Columns by whose values the metrics are shown apart.",
    "evaluation_cluster_column": "Column that tells which rows hang together, such as questions about one text.",
    "evaluation_missing": "What a row without an answer is: wrong, or exclude.",
    "evaluation_canary_rows": "Rows that are answered twice for the noise floor; 0 leaves it out.",
    "baseline_uri": "Address of the pointer to the baseline, such as s3://bucket/baselines/gsm8k.json.",
    "baseline_promote": "Whether a run that passes, or is the first, becomes the baseline.",
    "gate_margin": "Largest accepted loss; 0.02 is two points.",
    "gate_action": "fail ends the run when the gate fails, strict also when it is inconclusive, mark never.",
    "job_uri": "Address of the job, from split_dataset.",
    "run_id": "Of this run, which names its folder below output_uri.",
}


def documented(function: _Function) -> _Function:
    """Let the docstring of `function` describe all of its parameters: its own ones first, then those of PARAMETERS."""
    summary, *sections = (inspect.getdoc(function) or "").split("\n\n")
    own = sections.pop(0) if sections and sections[0].startswith("Args:") else "Args:"
    names = [name for name in inspect.signature(function).parameters if f"\n    {name}: " not in own]
    shared = [f"    {name}: {PARAMETERS[name]}" for name in names if name in PARAMETERS]
    function.__doc__ = "\n\n".join([summary, "\n".join([own, *shared]), *sections])
    return function
