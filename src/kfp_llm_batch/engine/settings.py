"""Engine settings from the facts, by one pure function; each setting carries its reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kfp_llm_batch.engine.compiling import reason_to_compile
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.machine import Machine
from kfp_llm_batch.models.resolving import ModelFacts

MAX_SEQUENCES = 256
"""vLLM's own offline default on CPU."""
MAX_BATCHED_TOKENS = 4096
BLOCK_TOKENS = 128
KV_HEADROOM = 1.25
"""Over the average request, since the requests running at one time are longer than the average."""
BASE_BYTES = 900 * 2**20
"""Interpreter, torch and vLLM in one process before any weights."""
SPARE_SHARE = 0.08
"""Of the memory limit, left to this parent process and to page cache."""
_LEAST_STANDARD_LEN = 512

_CACHES = {
    "VLLM_CACHE_ROOT": "vllm",
    "VLLM_CONFIG_ROOT": "vllm-config",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TRITON_CACHE_DIR": "triton",
    "NUMBA_CACHE_DIR": "numba",
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
    }
)
"""Engine arguments that do not change what is answered; every other one is part of a request's identity."""


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

    @property
    def longest_request_tokens(self) -> int:
        """The longest prompt with its longest answer."""
        return self.longest_prompt_tokens + self.max_tokens


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A value and why it was chosen."""

    value: Any
    reason: str


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Arguments of the engine and variables of its process."""

    arguments: Mapping[str, Setting]
    environment: Mapping[str, Setting]

    def argument_values(self) -> dict[str, Any]:
        """Keyword arguments for the engine."""
        return {name: setting.value for name, setting in self.arguments.items()}

    def environment_values(self) -> dict[str, str]:
        """Variables for the engine's process."""
        return {name: setting.value for name, setting in self.environment.items()}

    def as_dict(self) -> dict[str, Any]:
        """For the manifest and `doctor --json`."""
        return {
            "arguments": {name: dataclasses.asdict(setting) for name, setting in self.arguments.items()},
            "environment": {name: dataclasses.asdict(setting) for name, setting in self.environment.items()},
        }


def choose_dtype(dtype: str, model: ModelFacts) -> Setting:
    """The type of weights and activations; known before the job is, since it is part of every request's identity."""
    if dtype != "auto":
        return Setting(value=dtype, reason="set by engine_dtype")
    return Setting(
        value="bfloat16",
        reason=f"half the memory traffic of float32; the checkpoint says {model.dtype}, float16 is slow on CPU",
    )


def answer_settings(dtype: Setting, options: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the settings that changes answers, for the request key."""
    return {"dtype": dtype.value, **{name: value for name, value in options.items() if name not in _SPEED_ONLY}}


def plan_settings(
    machine: Machine,
    model: ModelFacts,
    job: JobFacts,
    dtype: Setting,
    options: Mapping[str, Any],
    *,
    is_compiled: bool = False,
) -> EngineSettings:
    """Decide everything that vLLM would otherwise guess from the host instead of the pod.

    Args:
        machine: What the process may use.
        model: Sizes from the model's configuration.
        job: Sizes of the work.
        dtype: From `choose_dtype`.
        options: The user's `engine_options`, which win.
        is_compiled: Whether these settings were compiled before on such a machine.

    Raises:
        ConfigurationError: Weights and the smallest key-value cache do not fit into the memory left.
    """
    max_len = min(model.max_model_len, _round_up(job.longest_request_tokens + 1, BLOCK_TOKENS))
    sequences = max(1, min(MAX_SEQUENCES, job.requests))
    cache = _kv_cache(machine, model, job, sequences, max_len)
    does_compile, why = reason_to_compile(
        machine,
        job.tokens * model.weight_bytes,
        is_compiled=is_compiled,
        free_bytes=memory_for_kv(machine, model) - cache.value,
    )
    own = {
        "dtype": dtype,
        "max_model_len": Setting(value=max_len, reason="the longest prompt with its answer, in whole blocks"),
        "max_num_seqs": Setting(value=sequences, reason=f"at most {MAX_SEQUENCES}, at most one per request"),
        "max_num_batched_tokens": Setting(
            value=max(MAX_BATCHED_TOKENS, max_len), reason="vLLM's offline default on CPU, or one whole prompt"
        ),
        "kv_cache_memory_bytes": cache,
        "enforce_eager": Setting(value=not does_compile, reason=why),
        "enable_prefix_caching": Setting(value=True, reason="rows of one template share their first tokens"),
        "seed": Setting(value=0, reason="every sampled row has its own seed"),
        "trust_remote_code": Setting(value=False, reason="code from a model's folder is never run"),
        "load_format": Setting(value="safetensors", reason="pickle files can run code"),
    }
    chosen = {name: Setting(value=value, reason="set by engine_options") for name, value in options.items()}
    arguments = {**own, **chosen}
    if not arguments["enforce_eager"].value:
        arguments |= _standard_sizes(machine, model, job, options)
    return EngineSettings(arguments=arguments, environment=plan_environment(machine))


def _standard_sizes(
    machine: Machine, model: ModelFacts, job: JobFacts, options: Mapping[str, Any]
) -> dict[str, Setting]:
    """Few different sizes, since vLLM compiles anew for each: those of one job serve the next.

    A longer context costs memory only in that the cache must hold one such request.
    """
    wanted = max(_LEAST_STANDARD_LEN, 1 << job.longest_request_tokens.bit_length())
    max_len = min(model.max_model_len, wanted)
    sizes = {"max_num_seqs": MAX_SEQUENCES, "max_model_len": max_len}
    sizes["max_num_batched_tokens"] = max(MAX_BATCHED_TOKENS, max_len)
    least = (max_len + BLOCK_TOKENS) * model.kv_bytes_per_token
    if least > memory_for_kv(machine, model):
        return {}
    standard = {
        name: Setting(value=value, reason="a size that compiled code is shared by") for name, value in sizes.items()
    }
    cache = _kv_cache(machine, model, job, min(MAX_SEQUENCES, job.requests), max_len)
    return {
        name: setting for name, setting in {**standard, "kv_cache_memory_bytes": cache}.items() if name not in options
    }


def plan_environment(machine: Machine) -> dict[str, Setting]:
    """Variables of the engine's process, which depend on the machine alone."""
    quota = "no quota" if machine.cpu_quota is None else f"a quota of {machine.cpu_quota:g} processors"
    threads = f"{machine.physical_cores} cores in the affinity mask, {quota}"
    return {
        "OMP_NUM_THREADS": Setting(value=str(machine.usable_cpus), reason=threads),
        "VLLM_ENABLE_V1_MULTIPROCESSING": Setting(
            value="0", reason="one process: no copies through /dev/shm, which is 64 MiB in a pod"
        ),
        "VLLM_NO_USAGE_STATS": Setting(value="1", reason="nothing is sent anywhere"),
        "HF_HUB_OFFLINE": Setting(value="1", reason="the model is a local folder by now"),
        **{
            name: Setting(value=f"{machine.engine_cache}/{folder}", reason="a pod's home cannot be written")
            for name, folder in _CACHES.items()
        },
    }


def engine_environment(machine: Machine) -> dict[str, str]:
    """The values of `plan_environment`, for a process that starts before the job is known."""
    return {name: setting.value for name, setting in plan_environment(machine).items()}


def _kv_cache(machine: Machine, model: ModelFacts, job: JobFacts, sequences: int, max_len: int) -> Setting:
    per_request = _round_up(round(job.mean_prompt_tokens * KV_HEADROOM) + job.max_tokens, BLOCK_TOKENS)
    tokens_wanted = max(max_len + BLOCK_TOKENS, sequences * per_request)
    wanted = tokens_wanted * model.kv_bytes_per_token
    least = (max_len + BLOCK_TOKENS) * model.kv_bytes_per_token
    free = memory_for_kv(machine, model)
    if free < least:
        raise ConfigurationError(
            f"Not enough memory: the longest request needs a key-value cache of {_mib(least)}, and {_mib(free)} are "
            f"left of {_mib(machine.memory_limit_bytes)} beside weights of {_mib(model.weight_bytes)}",
            remedy=f"Raise resources_memory by {_mib(least - free)}, or lower generation_max_tokens.",
        )
    if wanted <= free:
        return Setting(value=wanted, reason=f"{sequences} requests of {per_request} tokens at a time")
    return Setting(value=free, reason="all that the memory limit leaves; fewer requests run at a time")


def memory_for_kv(machine: Machine, model: ModelFacts) -> int:
    """Bytes left for the key-value cache beside weights, activations and the processes themselves."""
    activations = MAX_BATCHED_TOKENS * (model.hidden_size + 2 * model.intermediate_size) * 2
    logits = MAX_SEQUENCES * model.vocab_size * 4
    embeddings = model.vocab_size * model.hidden_size * 2  # vLLM keeps a packed copy for the output layer
    taken = BASE_BYTES + model.weight_bytes + embeddings + activations + logits
    return max(0, machine.memory_available_bytes - round(machine.memory_limit_bytes * SPARE_SHARE) - taken)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _mib(number: int) -> str:
    return f"{number / 2**20:,.0f} MiB"
