"""How long a run is expected to take, to be shown beside how long it took.

An estimate of this very job, made on this machine by `kfp-llm-batch estimate`, is found again in the cache folder.
Without one the plan's arithmetic has to do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp_llm_batch.disk import new_file
from kfp_llm_batch.engine.compiling import eager_seconds
from kfp_llm_batch.engine.decisions import JobFacts
from kfp_llm_batch.engine.planning import is_computed_here
from kfp_llm_batch.engine.shares import Placement
from kfp_llm_batch.engine.threads import engine_threads
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.machine import Machine
from kfp_llm_batch.manifests import PromptsManifest
from kfp_llm_batch.models.resolving import Model

_LOG = logging.getLogger("kfp_llm_batch")

PROBE, ARITHMETIC = "probe", "arithmetic"
"""What an expectation is based on."""


def expected(
    config: GenerationConfig, prompts: PromptsManifest, model: Model, placement: Placement, job: JobFacts
) -> dict[str, Any]:
    """The estimate of this job, as the manifest of its result keeps it; empty where nothing can be known."""
    path = estimate_path(config, prompts, model, placement.shares[0])
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        _LOG.warning("The estimate %s cannot be read: %s", path, error)
    return _by_arithmetic(config, model, placement, job)


def keep(estimate: Mapping[str, Any], path: Path) -> None:
    """Remember an estimate for the run of its job.

    Raises:
        StorageError: The cache folder cannot be written.
    """
    with new_file(path) as file:
        file.write_text(json.dumps(estimate, indent=2) + "\n", encoding="utf-8")


def estimate_path(config: GenerationConfig, prompts: PromptsManifest, model: Model, machine: Machine) -> Path:
    """Where the estimate of a job is kept: apart for everything that its time depends on."""
    job = [
        prompts.fingerprint,
        prompts.rows,
        model.digest,
        dataclasses.asdict(config.sampling),
        config.context_policy,
        config.engine_dtype,
        dict(config.engine_options),
        machine.usable_cpus,
    ]
    digest = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()
    return Path(machine.engine_cache) / "estimates" / f"{digest[:32]}.json"


def _by_arithmetic(config: GenerationConfig, model: Model, placement: Placement, job: JobFacts) -> dict[str, Any]:
    """Two operations for each parameter and token, answers as long as they may be."""
    if not job.requests or not is_computed_here(model, config.engine_options):
        return {}
    flops, machine = job.tokens * model.facts.weight_bytes / len(placement.shares), placement.shares[0]
    seconds = eager_seconds(flops, machine.instruction_set, engine_threads(machine))
    return {
        "basis": ARITHMETIC,
        "generate_seconds": {"expected": round(seconds, 1)},
        "prompt_tokens": {"expected": round(job.requests * job.mean_prompt_tokens)},
        "completion_tokens": {"expected": job.requests * job.max_tokens},
    }
