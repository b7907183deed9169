"""Engine settings from the facts, by one pure function; each setting carries its reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kfp_llm_batch.engine import endpoint
from kfp_llm_batch.engine.compiling import reason_to_compile
from kfp_llm_batch.engine.decisions import EngineSettings, JobFacts, Setting, chosen_by_user
from kfp_llm_batch.engine.devices import CPU, ON_CPU
from kfp_llm_batch.engine.kv_cache import BatchSizes, least_kv_bytes, memory_for_kv, plan_kv_cache, round_up
from kfp_llm_batch.engine.process_environment import VARIABLES, plan_environment
from kfp_llm_batch.machine import Machine
from kfp_llm_batch.models.resolving import ModelFacts

MAX_SEQUENCES = 256
"""vLLM's own offline default on CPU."""
MAX_BATCHED_TOKENS = 4096
BLOCK_TOKENS = 32
"""The least that the kernels take; no slower than 64 and 128: benchmarks/results/settings.txt."""
ENGINES_OPTION = "engines"
"""In `engine_options`; the others are vLLM's. See shares.py."""
_LEAST_STANDARD_LEN = 512

_ON_EVERY_DEVICE = {
    "enable_prefix_caching": Setting(value=True, reason="rows of one template share their first tokens"),
    "seed": Setting(value=0, reason="every sampled row has its own seed"),
    "trust_remote_code": Setting(value=False, reason="code from a model's folder is never run"),
    "load_format": Setting(value="safetensors", reason="pickle files can run code"),
}

_SPEED_ONLY = frozenset(
    {
        "async_scheduling",
        "block_size",
        "compilation_config",
        "disable_log_stats",
        "enable_chunked_prefill",
        "enable_prefix_caching",
        "enforce_eager",
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "max_model_len",  # enters the key where it shortens an answer
        "max_num_batched_tokens",
        "max_num_seqs",
        "performance_mode",
        "safetensors_load_strategy",
        ENGINES_OPTION,
        *VARIABLES,
    }
)
"""Options that do not change what is answered; every other one is part of a request's identity."""

_NOT_ARGUMENTS = frozenset({ENGINES_OPTION, *VARIABLES})


def choose_dtype(dtype: str, model: ModelFacts) -> Setting:
    """The type of weights and activations; known before the job is, since it is part of every request's identity."""
    if dtype != "auto":
        return Setting(value=dtype, reason="set by engine_dtype")
    return Setting(
        value="bfloat16",
        reason=f"half the memory traffic of float32; the checkpoint says {model.dtype}, float16 is slow on CPU",
    )


def answer_settings(dtype: Setting, options: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the settings that changes answers, for the request key.

    An endpoint may move to another address, and answers as the model that it serves under a name.
    """
    if endpoint.URL_OPTION in options:
        return {"endpoint": options.get(endpoint.NAME_OPTION)}
    return {"dtype": dtype.value, **{name: value for name, value in options.items() if name not in _SPEED_ONLY}}


def plan_settings(
    machine: Machine,
    model: ModelFacts,
    job: JobFacts,
    dtype: Setting,
    options: Mapping[str, Any],
    *,
    device: Setting = ON_CPU,
    is_compiled: bool = False,
) -> EngineSettings:
    """Decide everything that vLLM would otherwise guess from the host instead of the pod.

    On a GPU memory, batch sizes, compiling and threads are left to vLLM, which is at home there.

    Args:
        machine: What the process may use.
        model: Sizes from the model's configuration.
        job: Sizes of the work.
        dtype: From `choose_dtype`.
        options: The user's `engine_options`, which win.
        device: From `choose_device`.
        is_compiled: Whether these settings were compiled before on such a machine.

    Raises:
        ConfigurationError: Weights and the smallest key-value cache do not fit into the memory left.
    """
    sizes = _needed_sizes(model, job, options)
    longest = Setting(value=sizes.max_model_len, reason="the longest prompt with its answer, in whole blocks")
    arguments = {"dtype": dtype, "max_model_len": longest, **_ON_EVERY_DEVICE}
    if device.value == CPU:
        arguments |= _cpu_arguments(machine, model, job, dtype.value, sizes, options, is_compiled=is_compiled)
    chosen = {name: chosen_by_user(value) for name, value in options.items() if name not in _NOT_ARGUMENTS}
    return EngineSettings(
        choices={"device": device, "quantization": _quantization(model)},
        arguments={**arguments, **chosen},
        environment=plan_environment(machine, device, options),
    )


def default_sizes(model: ModelFacts) -> BatchSizes:
    """For a job that is not known yet."""
    return _sizes(min(model.max_model_len, _LEAST_STANDARD_LEN), MAX_SEQUENCES, BLOCK_TOKENS, {})


def _needed_sizes(model: ModelFacts, job: JobFacts, options: Mapping[str, Any]) -> BatchSizes:
    """As small as the job allows, where the user has not set them."""
    block = options.get("block_size", BLOCK_TOKENS)
    longest = min(model.max_model_len, round_up(job.longest_request_tokens + 1, block))
    return _sizes(longest, max(1, min(MAX_SEQUENCES, job.requests)), block, options)


def _standard_sizes(model: ModelFacts, job: JobFacts, options: Mapping[str, Any]) -> BatchSizes:
    """Few different sizes, since vLLM compiles anew for each: those of one job serve the next.

    A longer context costs memory only in that the cache must hold one such request.
    """
    longest = min(model.max_model_len, max(_LEAST_STANDARD_LEN, 1 << job.longest_request_tokens.bit_length()))
    return _sizes(longest, MAX_SEQUENCES, options.get("block_size", BLOCK_TOKENS), options)


def _sizes(longest: int, sequences: int, block: int, options: Mapping[str, Any]) -> BatchSizes:
    longest = options.get("max_model_len", longest)
    return BatchSizes(
        max_model_len=longest,
        max_num_seqs=options.get("max_num_seqs", sequences),
        max_num_batched_tokens=options.get("max_num_batched_tokens", max(MAX_BATCHED_TOKENS, longest)),
        block_size=block,
    )


def _cpu_arguments(
    machine: Machine,
    model: ModelFacts,
    job: JobFacts,
    dtype: str,
    sizes: BatchSizes,
    options: Mapping[str, Any],
    *,
    is_compiled: bool,
) -> dict[str, Setting]:
    cache = _kv_cache(machine, model, job, dtype, sizes, options)
    does_compile, why = reason_to_compile(
        machine,
        job.tokens * model.weight_bytes,
        is_compiled=is_compiled,
        free_bytes=memory_for_kv(machine, model, dtype, sizes) - cache.value,
    )
    eager = {"enforce_eager": Setting(value=not does_compile, reason=why)}
    standard = _standard_sizes(model, job, options)
    has_room = least_kv_bytes(model, dtype, standard) <= memory_for_kv(machine, model, dtype, standard)
    if options.get("enforce_eager", not does_compile) or not has_room:
        return {**_needed(sizes), "kv_cache_memory_bytes": cache, **eager}
    cache = _kv_cache(machine, model, job, dtype, standard, options)
    return {**_shared(standard), "kv_cache_memory_bytes": cache, **eager}


def _kv_cache(
    machine: Machine, model: ModelFacts, job: JobFacts, dtype: str, sizes: BatchSizes, options: Mapping[str, Any]
) -> Setting:
    if chosen := options.get("kv_cache_memory_bytes"):
        return chosen_by_user(chosen)
    return plan_kv_cache(machine, model, job, dtype, sizes)


def _needed(sizes: BatchSizes) -> dict[str, Setting]:
    reasons = {
        "max_num_seqs": f"at most {MAX_SEQUENCES}, at most one per request",
        "max_num_batched_tokens": "vLLM's offline default on CPU, or one whole prompt",
        "block_size": "the smallest: more of a shared beginning is found, at the same speed",
    }
    values = dataclasses.asdict(sizes)
    return {name: Setting(value=values[name], reason=reason) for name, reason in reasons.items()}


def _shared(sizes: BatchSizes) -> dict[str, Setting]:
    reason = "a size that compiled code is shared by"
    return {name: Setting(value=value, reason=reason) for name, value in dataclasses.asdict(sizes).items()}


def _quantization(model: ModelFacts) -> Setting:
    if not model.quantized_formats:
        return Setting(value="none", reason="config.json declares plain weights; quantize_model makes smaller ones")
    return Setting(value=", ".join(model.quantized_formats), reason="config.json declares it, and there is a kernel")
