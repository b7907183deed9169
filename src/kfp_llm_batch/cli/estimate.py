"""What the command `estimate` takes and shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kfp_llm_batch.caches import set_hub_cache
from kfp_llm_batch.dataset.config import DatasetConfig
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.estimation.estimating import Estimate, EstimateConfig, estimate
from kfp_llm_batch.estimation.forecast import LEVEL, Interval
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.parameters import read_parameters
from kfp_llm_batch.shipped import load_pipeline

_PIPELINE = "batch_inference"
_NOWHERE = "output_uri=nowhere"
"""The pipeline wants an output, and an estimate has none."""


def read_arguments(options: Sequence[str], assignments: Sequence[str], params: Path | None) -> dict[str, Any]:
    """Arguments of the pipeline from options such as `--dataset-uri questions.jsonl`, from `-p` and from a file.

    Raises:
        ConfigurationError: A name is unknown, or a value is missing or has the wrong type.
    """
    pipeline = load_pipeline(_PIPELINE)
    given = [_NOWHERE, *assignments, *_assignments(options)]
    arguments = read_parameters(pipeline, given, params)
    defaults = {
        # The compiled YAML writes 3 as 3.0.
        name: int(entry["defaultValue"]) if entry["parameterType"] == "NUMBER_INTEGER" else entry["defaultValue"]
        for name, entry in pipeline.inputs.items()
        if "defaultValue" in entry
    }
    return {**defaults, **arguments, "output_uri": ""}


def print_estimate(arguments: Mapping[str, Any], config: EstimateConfig, *, as_json: bool) -> None:
    """Estimate a job, and print what was found."""
    set_hub_cache()
    dataset, generation = DatasetConfig.from_parameters(arguments), GenerationConfig.from_parameters(arguments)
    made = estimate(dataset, generation, config)
    if as_json:
        print(json.dumps(made.as_dict(), indent=2))
    else:
        _print_table(made, config)


def _print_table(made: Estimate, config: EstimateConfig) -> None:
    table = Table("", "expected", f"{LEVEL:.0%} interval", title="Estimate for a machine as this one")
    looked_at = "all" if made.rows_sampled == made.rows else f"{made.rows_sampled:,} looked at"
    table.add_row("rows", f"{made.rows:,}", looked_at)
    table.add_row("rows that cannot be answered", f"{made.rows_invalid:,.0f}", "")
    table.add_row("tokens of prompts", *_counts(made.prompt_tokens))
    table.add_row("of them computed", f"{made.computed_prompt_tokens:,.0f}", "")
    table.add_row("tokens of answers", *_counts(made.completion_tokens))
    table.add_row("prompt tokens/s", f"{made.prompt_tokens_per_second:,.0f}", "")
    table.add_row(f"new tokens/s, {made.requests_at_a_time} at a time", f"{made.new_tokens_per_second:,.0f}", "")
    table.add_row("start", _time(made.start_seconds), "")
    table.add_row("generation", *_times(made.generate_seconds))
    table.add_row("whole step", *_times(made.seconds))
    table.add_row("processor hours", *_counts(made.cpu_hours, ",.3f"))
    table.add_row(f"num_shards for {config.hours:g} hours", str(made.num_shards), "")
    Console(width=None if Console().is_terminal else 100).print(table)
    if made.are_answers_cut:
        print("The probe had no time for whole answers; those it cut are counted as long as they may be.")


def _counts(value: Interval, form: str = ",.0f") -> tuple[str, str]:
    return format(value.expected, form), f"{value.low:{form}} to {value.high:{form}}"


def _times(value: Interval) -> tuple[str, str]:
    return _time(value.expected), f"{_time(value.low)} to {_time(value.high)}"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _assignments(options: Sequence[str]) -> list[str]:
    """Options as NAME=VALUE."""
    found, waiting = [], iter(options)
    for option in waiting:
        if not option.startswith("--"):
            raise ConfigurationError("estimate takes options alone", received=option, remedy="Write --name value.")
        name, equals, value = option[2:].partition("=")
        given = value if equals else next(waiting, None)
        if given is None:
            raise ConfigurationError("An option needs a value", received=option, remedy=f"Write {option} value.")
        found.append(f"{name.replace('-', '_')}={given}")
    return found
