"""Our step `generate_completions`, with its checkpoint, on prompts that are ready."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.ours_result import outcome_of
from benchmarks.peers.protocol import Job, Outcome, serve, since_start
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.generation.sampling import SamplingConfig


def run(job: Job, work: Path, prepared: Path) -> Outcome:
    """See protocol.Run."""
    config = GenerationConfig(
        model_uri=job.model,
        sampling=SamplingConfig(max_tokens=job.max_tokens),
        checkpoint_uri=str(work / "checkpoint"),
    )
    manifest = generate(config, Path(job.prompts_folder), work / "completions")
    return outcome_of(job, work / "completions", manifest, since_start())


if __name__ == "__main__":
    serve(run)
