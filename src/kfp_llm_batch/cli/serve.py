"""vLLM's OpenAI server with the settings that the plan makes for this machine or pod, started as KServe starts one."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from kfp_llm_batch.caches import set_hub_cache
from kfp_llm_batch.engine.decisions import EngineSettings, JobFacts
from kfp_llm_batch.engine.planning import plan_here
from kfp_llm_batch.engine.process_environment import check_engine_cache
from kfp_llm_batch.engine.settings import ENGINES_OPTION
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.machine import Machine, read_machine
from kfp_llm_batch.models.resolving import Model, resolve_model

_LOG = logging.getLogger("kfp_llm_batch")

FRONTEND_BYTES = 800 * 2**20
"""The server is a process of its own beside the engine: 0.65 GB with one request, and more with many."""
_SERVER = "vllm.entrypoints.openai.api_server"
_PATHS = "kfp_llm_batch.engine.kserve_paths.KServePaths"


def serve_model(
    model_uri: str, *, name: str, port: int, context_tokens: int, max_requests: int, engine_options: Mapping[str, Any]
) -> NoReturn:
    """Become vLLM's server; its signals and its exit code are then this process's.

    Raises:
        ConfigurationError: The model cannot be served here.
    """
    set_hub_cache()
    config = GenerationConfig(model_uri=model_uri, engine_options={**engine_options, ENGINES_OPTION: 1})
    machine, model = read_machine(), resolve_model(model_uri)
    check_engine_cache(machine)
    settings = plan_server(machine, model, context_tokens, max_requests, config.engine_options)
    threads = settings.environment_values().get("OMP_NUM_THREADS", "vLLM's own choice of")
    _LOG.info("Serving %s as %s on port %d with %s threads.", model.uri, name, port, threads)
    command = [sys.executable, "-m", _SERVER, *server_arguments(model.folder, name, port, settings)]
    os.execve(sys.executable, command, {**os.environ, **settings.environment_values()})


def read_options(text: str) -> dict[str, Any]:
    """The option --engine-options; a ConfigurationError if it is no object in JSON."""
    try:
        options = json.loads(text)
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise ConfigurationError(
            "--engine-options is no object in JSON", received=text, remedy="Write '{\"max_num_seqs\": 8}'."
        )
    return options


def plan_server(
    machine: Machine, model: Model, context_tokens: int, max_requests: int, options: Mapping[str, Any]
) -> EngineSettings:
    """The plan of a job that is always the same: as many requests as may run, a quarter of the context long each.

    Raises:
        ConfigurationError: The model does not fit into the memory left.
    """
    context = min(context_tokens, model.facts.max_model_len)
    job = JobFacts(
        requests=max_requests, longest_prompt_tokens=context - 1, mean_prompt_tokens=context / 4, max_tokens=0
    )
    beside = dataclasses.replace(machine, memory_available_bytes=machine.memory_available_bytes - FRONTEND_BYTES)
    return plan_here(beside, model, job, options)


def server_arguments(folder: Path, name: str, port: int, settings: EngineSettings) -> list[str]:
    """The command line of vLLM's server."""
    fixed = ["--model", str(folder), "--served-model-name", name, "--host", "0.0.0.0", "--port", str(port)]
    planned = [part for setting in settings.argument_values().items() for part in _option(*setting)]
    return [*fixed, "--middleware", _PATHS, "--disable-uvicorn-access-log", *planned]


def _option(name: str, value: Any) -> Iterator[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        yield f"--{flag}" if value else f"--no-{flag}"
    else:
        yield f"--{flag}"
        yield value if isinstance(value, str) else json.dumps(value)
