"""What this machine or pod is, and which engine settings follow."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kfp_llm_batch.engine.decisions import EngineSettings, JobFacts
from kfp_llm_batch.engine.devices import vllm_version
from kfp_llm_batch.engine.planning import plan_here
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.machine import Machine, read_machine
from kfp_llm_batch.models.resolving import Model, resolve_model

_DEMO = "demo://smollm2-135m-instruct"


def print_report(model_uri: str | None, *, rows: int, prompt_tokens: int, max_tokens: int, as_json: bool) -> None:
    """Print the machine's facts and the plan for a job of this size, by default of the demo model if it is installed.

    Raises:
        ConfigurationError: Such a job cannot run here; the facts have been printed.
    """
    machine = read_machine()
    job = JobFacts(
        requests=rows, longest_prompt_tokens=prompt_tokens, mean_prompt_tokens=prompt_tokens, max_tokens=max_tokens
    )
    model = None
    try:
        model = resolve_model(model_uri or _DEMO)
        _print(machine, model, plan_here(machine, model, job, {}), None, as_json=as_json)
    except ConfigurationError as error:
        _print(machine, model, None, str(error), as_json=as_json)
        if model_uri or model:
            raise
        if not as_json:
            print(f"No plan without a model. {error}")


def _print(
    machine: Machine, model: Model | None, plan: EngineSettings | None, refusal: str | None, *, as_json: bool
) -> None:
    if as_json:
        facts = {"machine": machine.as_dict(), "model": dataclasses.asdict(model.facts) if model else None}
        outcome = plan.as_dict() if plan else {"refusal": refusal}
        print(json.dumps({**facts, "versions": vllm_version(), **outcome}, indent=2))
        return
    console = Console()
    console.print(_machine_table(machine))
    if plan:
        console.print(_plan_table(plan))


def _machine_table(machine: Machine) -> Table:
    table = _table("fact", "value", title="This machine or pod")
    for name, value in {**machine.as_dict(), **vllm_version()}.items():
        table.add_row(name, Text(_shown(name, value)))
    return table


def _plan_table(plan: EngineSettings) -> Table:
    """Values and reasons in one column: beside the longest name nothing else fits into 80 columns."""
    table = _table("setting", "value, and why", title="What follows for the engine")
    for settings in (plan.choices, plan.arguments, plan.environment):
        for name, setting in settings.items():
            shown = Text.assemble((_shown(name, setting.value), "bold"), "\n", (setting.reason, "dim"))
            table.add_row(name, shown)
        table.add_section()
    return table


def _table(*columns: str, title: str) -> Table:
    table = Table(title=title)
    table.add_column(columns[0], no_wrap=True)
    table.add_column(columns[1], overflow="fold")
    return table


def _shown(name: str, value: Any) -> str:
    """A value for people: bytes with a unit, processors as ranges."""
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {_shown(name, entry)}" for key, entry in value.items()) or "-"
    if name.endswith("_bytes"):
        return f"{value / 2**30:,.1f} GiB" if value >= 2**30 else f"{value / 2**20:,.0f} MiB"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _list(value)
    return "-" if value is None or value == "" else str(value)


def _list(values: Sequence[Any]) -> str:
    if values and all(isinstance(value, int) for value in values):
        return _ranges(values)
    return ", ".join(f"({_list(value)})" if isinstance(value, tuple) else str(value) for value in values) or "-"


def _ranges(numbers: Sequence[int]) -> str:
    """As the kernel writes lists of processors: 0-3,8."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
