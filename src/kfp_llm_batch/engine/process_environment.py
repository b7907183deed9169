"""Variables of the engine's process.

Some must be there before a process starts. The engine is a child of ours and is started with them, so that nothing has
to start itself a second time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp_llm_batch.disk import writing
from kfp_llm_batch.engine.decisions import Setting, chosen_by_user
from kfp_llm_batch.engine.devices import CPU
from kfp_llm_batch.engine.preloads import preload_setting
from kfp_llm_batch.engine.threads import thread_settings
from kfp_llm_batch.machine import Machine

_CACHES = {
    "VLLM_CACHE_ROOT": "vllm",
    "VLLM_CONFIG_ROOT": "vllm-config",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TRITON_CACHE_DIR": "triton",
    "NUMBA_CACHE_DIR": "numba",
}

VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_PLACES",
    "OMP_PROC_BIND",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "CPU_VISIBLE_MEMORY_NODES",
    "LD_PRELOAD",
    "VLLM_ENABLE_V1_MULTIPROCESSING",
    "VLLM_NO_USAGE_STATS",
    "TORCHINDUCTOR_CPP_DYNAMIC_THREADS",
    "HF_HUB_OFFLINE",
    *_CACHES,
)
"""All that the plan may set; `engine_options` overrides them by these names."""


def plan_environment(machine: Machine, device: Setting, options: Mapping[str, Any]) -> dict[str, Setting]:
    """Variables that depend on the machine and not on the job; the user's options in capitals win."""
    planned: dict[str, Setting] = {}
    if device.value == CPU:
        planned |= {**thread_settings(machine), "LD_PRELOAD": preload_setting(machine.libraries)}
    planned |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": Setting(
            value="0", reason="one process: no copies through /dev/shm, which is 64 MiB in a pod"
        ),
        "VLLM_NO_USAGE_STATS": Setting(value="1", reason="nothing is sent anywhere"),
        "TORCHINDUCTOR_CPP_DYNAMIC_THREADS": Setting(
            value="1", reason="what is compiled serves engines with other numbers of threads"
        ),
        "HF_HUB_OFFLINE": Setting(value="1", reason="the model is a local folder by now"),
    }
    planned |= {
        name: Setting(value=f"{machine.engine_cache}/{folder}", reason="a pod's home cannot be written")
        for name, folder in _CACHES.items()
    }
    return planned | {name: chosen_by_user(str(value)) for name, value in options.items() if name in VARIABLES}


def engine_environment(machine: Machine, device: Setting, options: Mapping[str, Any]) -> dict[str, str]:
    """The values of `plan_environment`, for a process that starts before the job is known."""
    return {name: setting.value for name, setting in plan_environment(machine, device, options).items()}


def check_engine_cache(machine: Machine) -> None:
    """Find out before the engine does that its caches can be written.

    Raises:
        StorageError: They cannot, or the disk is full.
    """
    folder = Path(machine.engine_cache)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
