"""What is decided for an engine, and what it is decided from; each decision carries its reason."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_MOST_DEFAULT_SEQUENCES = 1024
"""vLLM's own offline default on large GPUs, where it chooses the number by itself."""


@dataclass(frozen=True, kw_only=True)
class JobFacts:
    """What is known of the work once every row has been tokenized."""

    requests: int
    longest_prompt_tokens: int
    mean_prompt_tokens: float
    max_tokens: int

    @property
    def tokens(self) -> float:
        """Of all prompts and of answers as long as they may be."""
        return self.requests * (self.mean_prompt_tokens + self.max_tokens)

    def share(self, engines: int) -> JobFacts:
        """The part of each engine."""
        return dataclasses.replace(self, requests=math.ceil(self.requests / engines))

    @property
    def longest_request_tokens(self) -> int:
        """The longest prompt with its longest answer."""
        return self.longest_prompt_tokens + self.max_tokens


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A value and why it was chosen."""

    value: Any
    reason: str


def chosen_by_user(value: Any) -> Setting:
    """A setting that stands in `engine_options`."""
    return Setting(value=value, reason="set by engine_options")


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Arguments of the engine and variables of its process."""

    arguments: Mapping[str, Setting]
    environment: Mapping[str, Setting]
    choices: Mapping[str, Setting] = field(default_factory=dict)
    """What the others follow from, and what the engine finds out by itself."""

    @property
    def max_in_flight(self) -> int:
        """Most requests handed over at one time: twice what the engine runs, so that it never waits for more."""
        sequences = self.arguments.get("max_num_seqs")
        return 2 * (sequences.value if sequences else _MOST_DEFAULT_SEQUENCES)

    def argument_values(self) -> dict[str, Any]:
        """Keyword arguments for the engine."""
        return {name: setting.value for name, setting in self.arguments.items()}

    def environment_values(self) -> dict[str, str]:
        """Variables for the engine's process."""
        return {name: setting.value for name, setting in self.environment.items()}

    def as_dict(self) -> dict[str, Any]:
        """For the manifest and `doctor --json`."""
        groups = {"choices": self.choices, "arguments": self.arguments, "environment": self.environment}
        return {
            group: {name: dataclasses.asdict(setting) for name, setting in settings.items()}
            for group, settings in groups.items()
        }
