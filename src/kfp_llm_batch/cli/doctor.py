"""What this machine or pod is, and which engine settings follow."""

from __future__ import annotations

import dataclasses
import json

from rich.console import Console
from rich.table import Table

from kfp_llm_batch.engine.settings import EngineSettings, JobFacts, choose_dtype, plan_settings
from kfp_llm_batch.machine import Machine, read_machine
from kfp_llm_batch.models.resolving import resolve_model


def print_report(model_uri: str, *, rows: int, prompt_tokens: int, max_tokens: int, as_json: bool) -> None:
    """Print the machine's facts and the plan for a job of this size."""
    machine = read_machine()
    facts = resolve_model(model_uri).facts
    job = JobFacts(
        requests=rows, longest_prompt_tokens=prompt_tokens, mean_prompt_tokens=prompt_tokens, max_tokens=max_tokens
    )
    settings = plan_settings(machine, facts, job, choose_dtype("auto", facts), {})
    if as_json:
        report = {"machine": dataclasses.asdict(machine), "model": dataclasses.asdict(facts), **settings.as_dict()}
        print(json.dumps({**report, "usable_cpus": machine.usable_cpus}, indent=2))
        return
    _print_tables(machine, settings)


def _print_tables(machine: Machine, settings: EngineSettings) -> None:
    console = Console()
    machine_table = Table("fact", "value", title="This machine or pod")
    for name, value in {**dataclasses.asdict(machine), "usable_cpus": machine.usable_cpus}.items():
        machine_table.add_row(name, f"{value / 2**30:,.1f} GiB" if name.endswith("_bytes") else str(value))
    console.print(machine_table)
    plan = Table("setting", "value", "why", title="What follows for the engine")
    for name, setting in {**settings.environment, **settings.arguments}.items():
        plan.add_row(name, str(setting.value), setting.reason)
    console.print(plan)
