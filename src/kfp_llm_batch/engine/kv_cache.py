"""Memory: what the engine takes before its key-value cache, and how large that cache should be for a job."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kfp_llm_batch.engine.decisions import JobFacts, Setting
from kfp_llm_batch.engine.threads import memory_node
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.machine import Machine
from kfp_llm_batch.models.resolving import ModelFacts

KV_HEADROOM = 1.25
"""Over the average request, since the requests running at one time are longer than the average."""
BASE_BYTES = 900 * 2**20
"""The engine's process before any weights, 717 MiB as measured with two threads, and the parent's, 147 MiB."""
LOGIT_COPIES = 5
"""Most bytes for a step's logits, in their own: sampled ones are sorted, with indices of twice their size."""
SPARE_SHARE = 0.08
"""Of the memory limit, left to page cache."""
LEAST_SPARE_BYTES = 256 * 2**20
"""Code mapped from files is 270 MiB in both processes; without room for it the kernel reads it again and again."""


@dataclass(frozen=True, kw_only=True)
class BatchSizes:
    """What the engine works on at one time."""

    max_model_len: int
    """Tokens of the longest request."""
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int
    """Tokens that the key-value cache hands out at once."""


def plan_kv_cache(machine: Machine, model: ModelFacts, job: JobFacts, dtype: str, sizes: BatchSizes) -> Setting:
    """Bytes for the cache: what the job's requests need, at most what is free.

    Raises:
        ConfigurationError: Weights and the smallest cache do not fit into the memory.
    """
    per_request = round_up(round(job.mean_prompt_tokens * KV_HEADROOM) + job.max_tokens, sizes.block_size)
    least = least_kv_bytes(model, dtype, sizes)
    running = min(sizes.max_num_seqs, job.requests)
    wanted = max(least, running * per_request * kv_bytes_per_token(model, dtype))
    free = memory_for_kv(machine, model, dtype, sizes)
    if free < least:
        raise _too_little_memory(machine, model, dtype, sizes)
    if wanted <= free:
        return Setting(value=wanted, reason=f"{running} requests of {per_request} tokens at a time")
    return Setting(value=free, reason="all that the memory limit leaves; fewer requests run at a time")


def memory_for_kv(machine: Machine, model: ModelFacts, dtype: str, sizes: BatchSizes) -> int:
    """Bytes left for the cache beside weights, activations and the processes themselves; negative if they are more."""
    return available_bytes(machine) - _spare_bytes(machine) - _taken_bytes(model, dtype, sizes)


def least_kv_bytes(model: ModelFacts, dtype: str, sizes: BatchSizes) -> int:
    """A cache for the longest request alone; vLLM keeps one block for itself."""
    return (round_up(sizes.max_model_len, sizes.block_size) + sizes.block_size) * kv_bytes_per_token(model, dtype)


def kv_bytes_per_token(model: ModelFacts, dtype: str) -> int:
    """In the type that the engine computes in, which may not be the checkpoint's."""
    return model.kv_bytes_per_token * _element_bytes(dtype) // _element_bytes(model.dtype)


def _element_bytes(dtype: str) -> int:
    return 4 if dtype == "float32" else 2


def available_bytes(machine: Machine) -> int:
    """What is left of the limits, and on the one node that vLLM takes its memory from."""
    node = memory_node(machine)
    if node is None:
        return machine.memory_available_bytes
    return min(machine.memory_available_bytes, machine.node_memory_bytes[node])


def _spare_bytes(machine: Machine) -> int:
    return max(LEAST_SPARE_BYTES, round(machine.memory_limit_bytes * SPARE_SHARE))


def _taken_bytes(model: ModelFacts, dtype: str, sizes: BatchSizes) -> int:
    element = _element_bytes(dtype)
    activations = sizes.max_num_batched_tokens * (model.hidden_size + 2 * model.intermediate_size) * element
    logits = sizes.max_num_seqs * model.vocab_size * 4 * LOGIT_COPIES
    embeddings = model.vocab_size * model.hidden_size * element  # vLLM keeps a packed copy for the output layer
    return BASE_BYTES + _weight_bytes(model, dtype) + embeddings + activations + logits


def _weight_bytes(model: ModelFacts, dtype: str) -> int:
    """In memory: plain weights are converted as they are loaded, quantized ones are not."""
    if model.quantized_formats:
        return model.weight_bytes
    return model.weight_bytes * _element_bytes(dtype) // _element_bytes(model.dtype)


def _too_little_memory(machine: Machine, model: ModelFacts, dtype: str, sizes: BatchSizes) -> ConfigurationError:
    least, available = least_kv_bytes(model, dtype, sizes), available_bytes(machine)
    required = _taken_bytes(model, dtype, sizes) + least
    needed = required + _spare_bytes(machine)
    short = required - available
    # Of what a higher limit adds, a share is spare again.
    by_share = math.ceil((short + machine.memory_limit_bytes * SPARE_SHARE) / (1 - SPARE_SHARE))
    missing = max(short + LEAST_SPARE_BYTES, by_share)
    return ConfigurationError(
        f"Not enough memory: the engine needs {needed:,} bytes ({_mib(needed)}: weights of "
        f"{_mib(_weight_bytes(model, dtype))}, a key-value cache of {_mib(least)} for the longest request), and "
        f"{_mib(available)} are free below the limit of {_mib(machine.memory_limit_bytes)}",
        remedy=f"Raise resources_memory by {_mib(missing)}, or lower generation_max_tokens.",
    )


def round_up(number: int, multiple: int) -> int:
    """The next number that is a whole multiple."""
    return -(-number // multiple) * multiple


def _mib(number: int) -> str:
    return f"{math.ceil(number / 2**20):,} MiB"
