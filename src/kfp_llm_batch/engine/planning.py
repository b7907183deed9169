"""The plan that a job gets, with what was compiled before on this machine taken into account."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kfp_llm_batch.engine import endpoint
from kfp_llm_batch.engine.compiling import CompileRecord
from kfp_llm_batch.engine.decisions import EngineSettings, JobFacts, Setting
from kfp_llm_batch.engine.devices import choose_device, installed_build
from kfp_llm_batch.engine.settings import choose_dtype, plan_settings
from kfp_llm_batch.engine.shares import Placement, place
from kfp_llm_batch.machine import Machine
from kfp_llm_batch.models.resolving import Model


def is_computed_here(model: Model, options: Mapping[str, Any]) -> bool:
    """Whether an engine of this machine answers: neither the rule of echo:// nor an endpoint."""
    return model.engine != "echo" and endpoint.URL_OPTION not in options


def plan_job(
    placement: Placement, model: Model, job: JobFacts, dtype: Setting, options: Mapping[str, Any]
) -> EngineSettings:
    """Plan each engine's part as if all was compiled; if it was not, plan again without.

    Raises:
        ConfigurationError: The model does not fit into the memory left.
    """
    if endpoint.URL_OPTION in options:
        return endpoint.endpoint_settings(options)
    machine, part = placement.smallest, job.share(len(placement.shares))

    def plan(is_compiled: bool) -> EngineSettings:
        device = placement.device
        return plan_settings(machine, model.facts, part, dtype, options, device=device, is_compiled=is_compiled)

    settings = plan(is_compiled=True)
    if not CompileRecord(machine, model).holds(settings.argument_values()):
        settings = plan(is_compiled=False)
    return dataclasses.replace(settings, choices={**settings.choices, "engines": placement.engines})


def plan_here(machine: Machine, model: Model, job: JobFacts, options: Mapping[str, Any]) -> EngineSettings:
    """Plan a job with the device and the number format that are chosen without a word of the user.

    Raises:
        ConfigurationError: The model does not fit into the memory left.
    """
    device = choose_device("auto", machine, installed_build())
    placement = place(machine, model.facts, job.requests, device, options)
    return plan_job(placement, model, job, choose_dtype("auto", model.facts), options)
