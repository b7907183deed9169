"""`model.generate` of transformers in static batches, sorted by length so that little is padded."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.peers.protocol import Job, Outcome, serve, since_start, versions_of

_ROWS_PER_BATCH = 64


def run(job: Job, work: Path, prepared: Path) -> Outcome:
    """See protocol.Run."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(job.threads)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.bfloat16).eval()
    loaded, started = since_start(), time.monotonic()
    answers: dict[int, list[int]] = {}
    first = 0.0
    order = sorted(range(len(job.prompts)), key=lambda row: len(job.prompts[row]))
    for start in range(0, len(order), _ROWS_PER_BATCH):
        rows = order[start : start + _ROWS_PER_BATCH]
        answers.update(zip(rows, _answer(model, [job.prompts[row] for row in rows], job.max_tokens), strict=True))
        first = first or time.monotonic() - started
    tokens = [answers[row] for row in range(len(order))]
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return Outcome(
        versions=versions_of("transformers", "torch"),
        settings={"dtype": "bfloat16", "batch": _ROWS_PER_BATCH, "order": "by length", "threads": job.threads},
        load_seconds=loaded,
        generate_seconds=time.monotonic() - started,
        first_row_seconds=first,
        prompt_tokens=sum(map(len, job.prompts)),
        tokens=[len(ids) for ids in tokens],
        texts=texts,
    )


def _answer(model: Any, prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
    """Token ids of the answers, each up to the one that ended it."""
    import torch

    width, end = max(map(len, prompts)), model.generation_config.eos_token_id
    padded = torch.tensor([[end] * (width - len(ids)) + ids for ids in prompts])
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
    with torch.inference_mode():
        output = model.generate(padded, attention_mask=mask, max_new_tokens=max_tokens, do_sample=False)
    answers = output[:, width:].tolist()
    return [ids[: ids.index(end) + 1] if end in ids else ids for ids in answers]


if __name__ == "__main__":
    serve(run)
