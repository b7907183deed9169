"""The step `warm_shards`: the model compiled once for all pods, if that saves more than it costs."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from kfp_llm_batch.disk import writing
from kfp_llm_batch.engine.compiling import COLD_SECONDS, WARM_SECONDS, saved_seconds
from kfp_llm_batch.engine.endpoint import URL_OPTION
from kfp_llm_batch.engine.warming import WarmingConfig, warm
from kfp_llm_batch.machine import read_machine
from kfp_llm_batch.models.resolving import resolve_model
from kfp_llm_batch.sharding.job import Job, JobAddress, JobFolder
from kfp_llm_batch.storage.object_store import open_store

_LOG = logging.getLogger("kfp_llm_batch")

DECISION = "decision.json"
"""Always in the artifact's folder, since Kubeflow keeps none that is empty."""
_MARGIN = 1.25
"""The longest prompt is only estimated, and code that is compiled for less serves no pod."""


def warm_job(address: JobAddress, folder: Path) -> dict[str, str]:
    """Compile for the pods of a job, or say why not; `folder` is the artifact.

    Returns:
        The decision, for the artifact's metadata.
    """
    job = JobFolder(open_store(address.uri)).read_job()
    reason = "the job is done" if job is None else reason_against(job)
    decision = {"reason": reason} if job is None or reason else _warmed(job, folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / DECISION).write_text(json.dumps(decision, indent=2) + "\n", encoding="utf-8")
    _LOG.info("%s", f"Nothing is compiled: {reason}." if reason else "The model is compiled for all pods.")
    return decision


def compiled_in(artifact: Path) -> Path | None:
    """The artifact's folder, if anything was compiled into it."""
    return artifact if any(path.is_dir() for path in artifact.glob("*")) else None


def reason_against(job: Job) -> str:
    """Why compiling once for all pods does not pay; empty if it does."""
    starts, options = len(job.shards), job.generation["engine_options"]
    if starts == 1:
        return "one shard compiles for itself"
    if URL_OPTION in options:
        return "an endpoint answers"
    if options.get("enforce_eager"):
        return "engine_options sets enforce_eager"
    machine = read_machine()
    model = resolve_model(job.generation["model_uri"], job.generation["model_revision"])
    if model.engine == "echo":
        return "echo:// computes nothing"
    if not machine.has_compiler:
        return "there is no C++ compiler here"
    saved = starts * (saved_seconds(machine, job.tokens / starts * model.facts.weight_bytes) - WARM_SECONDS)
    if saved <= COLD_SECONDS:
        return f"it takes {COLD_SECONDS:.0f} s and would save about {max(0, saved):.0f} s of all pods together"
    return ""


def _warmed(job: Job, folder: Path) -> dict[str, str]:
    generation = job.generation
    return warm(
        WarmingConfig(
            model_uri=generation["model_uri"],
            model_revision=generation["model_revision"],
            engine_dtype=generation["engine_dtype"],
            engine_options=generation["engine_options"],
            longest_request_tokens=int(job.longest_prompt_tokens * _MARGIN) + generation["sampling"]["max_tokens"],
        ),
        folder,
    )
