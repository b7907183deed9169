"""`ContinuousBatchingPipeline` of OpenVINO GenAI on CPU, with a bf16 hint."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.protocol import Job, Outcome, serve, since_start, versions_of

_CACHE_GIB = 4
_MODEL_FILE = "openvino_model.xml"


def prepare(model: Path, folder: Path) -> None:
    """Convert the model's weights, unquantised, and its tokenizer."""
    if (folder / _MODEL_FILE).exists():
        return
    command = [str(Path(sys.executable).with_name("optimum-cli")), "export", "openvino", "--model", str(model)]
    subprocess.run(
        [*command, "--task", "text-generation-with-past", "--weight-format", "fp16", str(folder)], check=True
    )


def run(job: Job, work: Path, prepared: Path) -> Outcome:
    """See protocol.Run."""
    import numpy as np
    import openvino as ov
    import openvino_genai

    properties = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": job.threads}
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = _CACHE_GIB
    scheduler.enable_prefix_caching = job.shared_prefix_tokens > 0
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        str(prepared), scheduler_config=scheduler, device="CPU", properties=properties
    )
    loaded, started = since_start(), time.monotonic()
    config = openvino_genai.GenerationConfig(max_new_tokens=job.max_tokens, do_sample=False)
    prompts = [ov.Tensor(np.array([ids], dtype=np.int64)) for ids in job.prompts]
    results = pipeline.generate(prompts, [_with_end(config, pipeline)] * len(prompts))
    tokens = [list(result.m_generation_ids[0]) for result in results]
    texts = pipeline.get_tokenizer().decode(tokens)
    seconds = time.monotonic() - started
    return Outcome(
        versions=versions_of("openvino-genai", "openvino"),
        settings={**properties, "cache_size": _CACHE_GIB, "enable_prefix_caching": scheduler.enable_prefix_caching},
        load_seconds=loaded,
        generate_seconds=seconds,
        first_row_seconds=seconds,
        prompt_tokens=sum(map(len, job.prompts)),
        tokens=[len(ids) for ids in tokens],
        texts=texts,
    )


def _with_end(config: Any, pipeline: Any) -> Any:
    config.set_eos_token_id(pipeline.get_tokenizer().get_eos_token_id())
    return config


if __name__ == "__main__":
    serve(run, prepare)
