"""Continuous batching of transformers 5: `model.generate_batch` over a paged cache.

By default cache and mask take 90 % of the memory, whatever the job; here they are sized for a number of rows at a time.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

from benchmarks.peers.protocol import Job, Outcome, serve, since_start, versions_of

_ROWS_AT_A_TIME = 64
_PAGE_TOKENS = 256
_BATCH_TOKENS = 1024
"""The mask for SDPA has this many rows, and a column for each token in the cache."""


def run(job: Job, work: Path, prepared: Path) -> Outcome:
    """See protocol.Run."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig

    torch.set_num_threads(job.threads)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
    end = model.generation_config.eos_token_id
    pages = math.ceil((max(map(len, job.prompts)) + job.max_tokens) / _PAGE_TOKENS)
    settings = {
        "page_size": _PAGE_TOKENS,
        "num_blocks": pages * min(_ROWS_AT_A_TIME, len(job.prompts)) + 1,
        "max_batch_tokens": _BATCH_TOKENS,
    }
    config = GenerationConfig(max_new_tokens=job.max_tokens, do_sample=False, eos_token_id=end, pad_token_id=end)
    loaded, started = since_start(), time.monotonic()
    outputs = model.generate_batch(
        job.prompts, generation_config=config, continuous_batching_config=ContinuousBatchingConfig(**settings)
    )
    seconds = time.monotonic() - started
    answers = sorted(outputs.values(), key=lambda output: int(output.request_id.rpartition("_")[2]))
    if errors := [output.error for output in answers if output.error]:
        raise SystemExit(f"generate_batch failed for {len(errors)} rows: {errors[0]}")
    if [list(output.prompt_ids) for output in answers] != job.prompts:
        raise SystemExit("generate_batch lost rows or gives them in an order that is not understood")
    tokens = [list(output.generated_tokens) for output in answers]
    return Outcome(
        versions=versions_of("transformers", "torch"),
        settings={"dtype": "bfloat16", "attn_implementation": "sdpa", **settings, "threads": job.threads},
        load_seconds=loaded,
        generate_seconds=seconds,
        first_row_seconds=seconds,
        prompt_tokens=sum(map(len, job.prompts)),
        tokens=[len(ids) for ids in tokens],
        texts=tokenizer.batch_decode(tokens, skip_special_tokens=True),
    )


if __name__ == "__main__":
    serve(run)
