"""Who takes part, in which environment, and what a reader of the numbers must know of each."""

from __future__ import annotations

from dataclasses import dataclass

REFERENCE = "vllm_default"
"""Ratios are against this one."""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One row of the table; its script is benchmarks/peers/<name>.py."""

    name: str
    environment: str | None
    """Name of its virtual environment; None is that of the package itself."""
    has_cache: bool = False
    """Whether it keeps what it compiled: then one round with an empty cache is measured as well."""
    note: str = ""


CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        Contestant(
            name="ours_step",
            environment=None,
            has_cache=True,
            note="generate_completions with its checkpoint",
        ),
        Contestant(
            name="ours_pipeline",
            environment=None,
            has_cache=True,
            note="kfp-llm-batch run batch_inference, then verify; shares the cache's form with ours_step",
        ),
        Contestant(
            name="vllm_default",
            environment="vllm",
            has_cache=True,
            note="LLM.generate, 4 GiB of cache set since it does not start otherwise on every machine",
        ),
        Contestant(
            name="vllm_run_batch",
            environment="vllm",
            has_cache=True,
            note="the module of vllm run-batch; renders and tokenizes by itself, writes a file",
        ),
        Contestant(name="transformers_generate", environment="transformers", note="static batches of 64, by length"),
        Contestant(
            name="transformers_continuous",
            environment="transformers",
            note="continuous batching, generate_batch with SDPA",
        ),
        Contestant(
            name="openvino_genai",
            environment="openvino_genai",
            note="ContinuousBatchingPipeline, bf16 hint, 4 GB of cache; prefix caching in the shared-prefix job",
        ),
        Contestant(
            name="llama_cpp",
            environment="transformers",
            note="llama-server of llama-cpp-python's sources, bf16 weights, 64 slots",
        ),
        Contestant(
            name="ray_data_llm",
            environment="ray_data_llm",
            has_cache=True,
            note="one vLLM actor, 4 GiB of cache; generation holds the start of the engine",
        ),
    )
}
