"""How many engines a pod runs, and which part of it each gets."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kfp_llm_batch.engine.decisions import Setting, chosen_by_user
from kfp_llm_batch.engine.devices import CPU
from kfp_llm_batch.engine.kv_cache import available_bytes, kv_bytes_per_token, memory_for_kv
from kfp_llm_batch.engine.settings import ENGINES_OPTION, default_sizes
from kfp_llm_batch.engine.threads import engine_cores
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.machine import Machine
from kfp_llm_batch.models.resolving import ModelFacts

SMALL_MODEL_BYTES = 2**30
"""Weights that each engine may well read for itself: benchmarks/results/settings.txt was measured with 0.3 GB."""
LEAST_REQUESTS = 32
"""For each engine: with fewer, reading the weights takes longer than computing."""
LEAST_CACHE_TOKENS = 64 * 512
"""That the key-value cache of each engine should hold."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the engines of a pod run."""

    device: Setting
    engines: Setting
    shares: tuple[Machine, ...]
    """The machine as each engine sees it."""

    @property
    def smallest(self) -> Machine:
        """The share with the least memory, which the settings of all are planned for."""
        return min(self.shares, key=available_bytes)


def place(machine: Machine, model: ModelFacts, requests: int, device: Setting, options: Mapping[str, Any]) -> Placement:
    """Decide how many engines there are, and divide the machine among them.

    Raises:
        ConfigurationError: The user wants more engines than there are processors.
    """
    engines = Setting(value=1, reason="one for all GPUs")
    if device.value == CPU:
        engines = choose_engines(machine, model, requests, options)
    return Placement(device=device, engines=engines, shares=tuple(divide(machine, engines.value)))


def choose_engines(machine: Machine, model: ModelFacts, requests: int, options: Mapping[str, Any]) -> Setting:
    """How many engines answer together; they start before the rows are counted, so that `requests` is about right.

    Raises:
        ConfigurationError: The user wants more engines than there are processors.
    """
    if wanted := options.get(ENGINES_OPTION):
        if wanted > machine.usable_cpus:
            raise ConfigurationError(
                "engine_options: more engines than processors", received=wanted, allowed=[f"1 to {machine.usable_cpus}"]
            )
        return chosen_by_user(wanted)
    number, why = _most_engines(machine, model)
    if number > 1 and requests < number * LEAST_REQUESTS:
        return Setting(value=1, reason=f"{requests} requests are too few for {number} engines")
    if number > 1 and not all(_fits(share, model) for share in divide(machine, number)):
        return Setting(value=1, reason=f"too little memory for the weights of {number} engines")
    return Setting(value=number, reason=why)


def divide(machine: Machine, engines: int) -> list[Machine]:
    """The machine as each engine sees it: with its own cores, or its own part of the quota, and of the memory."""
    if engines == 1:
        return [machine]
    on_one_node = math.ceil(engines / len(machine.numa_nodes))
    part = dataclasses.replace(
        machine,
        memory_limit_bytes=machine.memory_limit_bytes // engines,
        memory_available_bytes=machine.memory_available_bytes // engines,
        node_memory_bytes={node: left // on_one_node for node, left in machine.node_memory_bytes.items()},
    )
    if machine.usable_cpus < machine.physical_cores and machine.cpu_quota:
        return [dataclasses.replace(part, cpu_quota=machine.cpu_quota / engines)] * engines
    cores = [core for cpus in machine.numa_nodes.values() for core in machine.cores if core[0] in cpus]
    bounds = [len(cores) * engine // engines for engine in range(engines + 1)]
    return [_on_cores(part, tuple(cores[start:end])) for start, end in itertools.pairwise(bounds)]


def _most_engines(machine: Machine, model: ModelFacts) -> tuple[int, str]:
    is_limited = machine.usable_cpus < machine.physical_cores
    if len(machine.numa_nodes) > 1 and not is_limited:
        return len(machine.numa_nodes), "one for each memory node: no engine waits for memory of another"
    threads = min(machine.usable_cpus, len(engine_cores(machine)))
    if threads == 2 and model.weight_bytes <= SMALL_MODEL_BYTES:
        return 2, "one for each processor: two threads of one engine often wait for each other"
    return 1, f"{threads} threads and weights of {model.weight_bytes / 2**20:,.0f} MiB"


def _on_cores(machine: Machine, cores: tuple[tuple[int, ...], ...]) -> Machine:
    firsts = {core[0] for core in cores}
    nodes = {node: cpus for node, cpus in machine.numa_nodes.items() if firsts & set(cpus)}
    quota = machine.cpu_quota and machine.cpu_quota * len(cores) / machine.physical_cores
    return dataclasses.replace(machine, cores=cores, numa_nodes=nodes, cpu_quota=quota)


def _fits(machine: Machine, model: ModelFacts) -> bool:
    """Whether an engine in bfloat16 has room for some requests beside its weights."""
    free = memory_for_kv(machine, model, "bfloat16", default_sizes(model))
    return free >= LEAST_CACHE_TOKENS * kv_bytes_per_token(model, "bfloat16")
