"""The step `warm_engine`: a model is compiled before the work begins, and the outcome carried to where it is done."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kfp_llm_batch.disk import writing
from kfp_llm_batch.engine.compiling import CompileRecord
from kfp_llm_batch.engine.decisions import JobFacts
from kfp_llm_batch.engine.group import EngineGroup
from kfp_llm_batch.engine.messages import EngineSpecification
from kfp_llm_batch.engine.settings import choose_dtype, plan_settings
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.machine import Machine, read_machine
from kfp_llm_batch.models.resolving import resolve_model

_LOG = logging.getLogger("kfp_llm_batch")


@dataclass(frozen=True, kw_only=True)
class WarmingConfig:
    """What is compiled; checks itself."""

    model_uri: str
    model_revision: str | None = None
    engine_dtype: str = "auto"
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    longest_request_tokens: int = 500

    def __post_init__(self) -> None:
        if self.longest_request_tokens < 2:
            raise ConfigurationError("longest_request_tokens is below 2", received=self.longest_request_tokens)
        if self.engine_options.get("enforce_eager"):
            raise ConfigurationError("engine_options: enforce_eager leaves nothing to compile")


def warm(config: WarmingConfig, folder: Path) -> dict[str, str]:
    """Compile into `folder`, and load the engine once to prove it.

    Returns:
        What the outcome is for, for the artifact's metadata.

    Raises:
        ConfigurationError: There is no compiler here, or the model cannot be used.
        EngineError: The engine does not start.
    """
    machine = dataclasses.replace(read_machine(), cache_folder=str(folder))
    if not machine.has_compiler:
        raise ConfigurationError("There is no C++ compiler here, and without one nothing can be compiled")
    model = resolve_model(config.model_uri, config.model_revision)
    longest = config.longest_request_tokens - 1
    job = JobFacts(requests=1, longest_prompt_tokens=longest, mean_prompt_tokens=longest, max_tokens=1)
    options = {**config.engine_options, "enforce_eager": False}
    settings = plan_settings(machine, model.facts, job, choose_dtype(config.engine_dtype, model.facts), options)
    arguments = settings.argument_values()
    _LOG.info("Compiling %s for %s; this takes some minutes.", model.uri, machine.instruction_set)
    with EngineGroup(model.engine, [settings.environment_values()]) as engine:
        ready = engine.load(EngineSpecification(model_path=str(model.folder), arguments=arguments))
    _LOG.info("Compiled in %.0f s.", ready.load_seconds)
    CompileRecord(machine, model).add(arguments)
    return {"model": model.uri, "instruction_set": machine.instruction_set, **ready.versions}


def take_engine_cache(artifact: Path, machine: Machine) -> None:
    """Copy what `warm_engine` compiled for such a machine to where the engine looks for it.

    Raises:
        StorageError: The machine's cache folder cannot be written.
    """
    source = artifact / Path(machine.engine_cache).name
    if not source.is_dir():
        _LOG.warning("The engine cache was made on a processor with other features; it is not used.")
        return
    with writing(Path(machine.engine_cache)):
        shutil.copytree(source, machine.engine_cache, dirs_exist_ok=True)
