"""How many shards a job should have, and which of them a pod takes."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass

from kfp_llm_batch.errors import ConfigurationError

_LOG = logging.getLogger("kfp_llm_batch")

AUTO = "auto"
MOST_SHARDS = 1_000
MOST_AUTO_SHARDS = 20
"""Kubeflow's server reads its whole graph again for every pod of a loop; with more it gets slow, and then fails."""

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m?)")


@dataclass(frozen=True, kw_only=True)
class ShardingConfig:
    """What is asked for; checks itself."""

    num_shards: str = AUTO
    """A number, or `auto`."""
    shard_parallelism: int = 0
    """Most pods at a time; 0 gives every shard its own."""
    target_hours: float = 1.0
    """How long the pods should take, with num_shards=auto."""
    cpu: str = "2"
    """Of each pod, as Kubernetes writes it."""

    def __post_init__(self) -> None:
        if self.num_shards != AUTO and not (self.num_shards.isdecimal() and 1 <= int(self.num_shards) <= MOST_SHARDS):
            raise ConfigurationError(
                "num_shards is no number of shards", received=self.num_shards, allowed=[AUTO, f"1 to {MOST_SHARDS}"]
            )
        if self.shard_parallelism < 0:
            raise ConfigurationError("shard_parallelism is negative", received=self.shard_parallelism)
        if not self.target_hours > 0:
            raise ConfigurationError("shard_target_hours is no positive number", received=self.target_hours)
        parse_cpus(self.cpu)

    def shards(self, rows: int, seconds: float | None) -> int:
        """How many shards there will be; never more than rows.

        Args:
            rows: Of the dataset.
            seconds: That one pod would take for all of them; None if the model's size is not known.

        Raises:
            ConfigurationError: The number is to be found out, and cannot be.
        """
        if self.num_shards != AUTO:
            return max(1, min(int(self.num_shards), rows))
        if seconds is None:
            raise ConfigurationError(
                "num_shards=auto needs the model's size, and it cannot be known here", remedy="Set num_shards."
            )
        wanted = max(1, math.ceil(seconds / (self.target_hours * 3600)))
        if wanted > MOST_AUTO_SHARDS:
            hours = seconds / MOST_AUTO_SHARDS / 3600
            _LOG.warning(
                "%d shards would take %.1f hours; %d are made, which take about %.1f. Set num_shards for more.",
                wanted,
                self.target_hours,
                MOST_AUTO_SHARDS,
                hours,
            )
        return max(1, min(wanted, MOST_AUTO_SHARDS, rows))

    def pods(self, shards: int) -> list[range]:
        """The shards of each pod."""
        pods = min(self.shard_parallelism or shards, shards)
        return [range(pod, shards, pods) for pod in range(pods)]


def parse_cpus(quantity: str) -> float:
    """Processors as Kubernetes writes them, such as 2, 1.5 or 500m.

    Raises:
        ConfigurationError: It is none, or zero.
    """
    match = _QUANTITY.fullmatch(quantity.strip())
    cpus = float(match[1]) / (1000 if match[2] else 1) if match else 0.0
    if not cpus:
        raise ConfigurationError("resources_cpu is no amount of processors", received=quantity, allowed=["2", "500m"])
    return cpus
