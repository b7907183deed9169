"""Each kind of machine with the plan that is right for it, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kfp_llm_batch.engine.decisions import EngineSettings, JobFacts
from kfp_llm_batch.engine.devices import CPU, CUDA, choose_device
from kfp_llm_batch.engine.settings import choose_dtype, plan_settings
from kfp_llm_batch.engine.shares import place
from kfp_llm_batch.machine import read_machine
from kfp_llm_batch.models.resolving import ModelFacts
from tests.unit import machine_trees as trees
from tests.unit.demo_facts import MODEL

MIB = 2**20
LARGE_MODEL = ModelFacts(
    max_model_len=32768,
    kv_bytes_per_token=28672,
    weight_bytes=3_087 * 10**6,
    vocab_size=151936,
    hidden_size=1536,
    intermediate_size=8960,
    dtype="bfloat16",
)
JOB = JobFacts(requests=1000, longest_prompt_tokens=300, mean_prompt_tokens=100.0, max_tokens=128)
LONG_JOB = JobFacts(requests=100_000, longest_prompt_tokens=300, mean_prompt_tokens=100.0, max_tokens=128)

WHOLE_JOB = 256 * 256 * 23040
"""Bytes for 256 requests of 125 + 128 tokens in whole blocks."""
_PACKED_EMBEDDINGS, _ACTIVATIONS, _LOGITS = 49152 * 576 * 2, 4096 * (576 + 2 * 1536) * 2, 256 * 49152 * 4 * 5
LEFT_IN_3_GIB = (3072 - 256 - 256 - 900) * MIB - 269 * 10**6 - _PACKED_EMBEDDINGS - _ACTIVATIONS - _LOGITS
"""The limit without what is used, spared, and taken by the processes, the model and a step."""
LEFT_IN_8_GIB = 1_394_236_337
"""7 GiB are free; 655 MiB are spared; 900, 2,944, 445, 152 and 742 MiB are taken by the same in the large model."""
SECOND_16 = ",".join(map(str, range(16, 32)))
ARM_TCMALLOC = "usr/lib/aarch64-linux-gnu/libtcmalloc_minimal.so.4"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A machine, a job, and what must be planned: the value and words of the reason by name; None is not set at all."""

    tree: Callable[[Path], Path]
    expected: Mapping[str, tuple[Any, str] | None]
    why: str
    job: JobFacts = JOB
    model: ModelFacts = MODEL
    build: str = CPU
    options: Mapping[str, Any] = field(default_factory=dict)
    is_compiled: bool = False


def recorded_machine(root: Path) -> Path:
    return trees.recorded("firecracker-2-cores", root)


ROWS = {
    "64-cores-with-a-quota-of-2": Row(
        tree=trees.large_node_with_quota,
        why="63 threads too many would spin away the quota, and bound ones would wait for cores that others use",
        expected={
            "device": ("cpu", "no NVIDIA GPU"),
            "engines": (2, "one for each processor"),
            "OMP_NUM_THREADS": ("1", "64 cores in the affinity mask, siblings counted once, a quota of 1 processors"),
            "OMP_PROC_BIND": ("false", "a quota of 1 on 64 cores: the kernel must be free to move threads"),
            "OMP_PLACES": None,
            "KMP_AFFINITY": None,
            "KMP_BLOCKTIME": ("1", "burns the quota"),
            "CPU_VISIBLE_MEMORY_NODES": None,
            "LD_PRELOAD": (f"/{trees.TCMALLOC}:/{trees.INTEL_OPENMP}", "tcmalloc hands out memory faster"),
            "dtype": ("bfloat16", "half the memory traffic"),
            "kv_cache_memory_bytes": (WHOLE_JOB, "256 requests of 256 tokens at a time"),
            "max_num_seqs": (256, "at most 256"),
            "block_size": (32, "more of a shared beginning is found"),
            "enforce_eager": (True, "compiling takes 110 s and would save about"),
        },
    ),
    "a-cpuset-of-4-siblings": Row(
        tree=trees.cpuset_of_siblings,
        why="two threads of one core share its matrix units, and nobody else runs on these",
        expected={
            "engines": (2, "one for each processor"),
            "OMP_NUM_THREADS": ("1", "1 cores in the affinity mask, siblings counted once, a quota of 2 processors"),
            "KMP_AFFINITY": ("granularity=fine,explicit,proclist=[4]", "the pod has these cores to itself"),
            "OMP_PLACES": None,
            "OMP_PROC_BIND": None,
            "KMP_BLOCKTIME": None,
        },
    ),
    "2-memory-nodes": Row(
        tree=trees.two_memory_nodes,
        why="each engine computes beside its memory; the settings of all follow from the node with the least",
        expected={
            "engines": (2, "one for each memory node"),
            "OMP_NUM_THREADS": ("16", "16 cores in the affinity mask, no quota"),
            "KMP_AFFINITY": (f"granularity=fine,explicit,proclist=[{SECOND_16}]", "no quota limits the threads"),
            "CPU_VISIBLE_MEMORY_NODES": ("1", "memory beside the cores"),
            "KMP_BLOCKTIME": None,
            "kv_cache_memory_bytes": (WHOLE_JOB, "256 requests of 256 tokens"),
        },
    ),
    "an-avx2-laptop": Row(
        tree=trees.laptop,
        why="slow kernels without bfloat16 units, where bfloat16 still halves what is read from memory",
        expected={
            "OMP_NUM_THREADS": ("4", "4 cores in the affinity mask, siblings counted once, no quota"),
            "KMP_AFFINITY": ("granularity=fine,explicit,proclist=[0,2,4,6]", "stays where its data is cached"),
            "LD_PRELOAD": (f"/{trees.INTEL_OPENMP}", "tcmalloc is not installed: Debian's libtcmalloc-minimal4"),
            "dtype": ("bfloat16", "half the memory traffic"),
            "quantization": ("none", "config.json declares plain weights"),
            "kv_cache_memory_bytes": (WHOLE_JOB, "256 requests"),
        },
    ),
    "an-avx2-laptop-with-compiled-code": Row(
        tree=trees.laptop,
        job=LONG_JOB,
        is_compiled=True,
        why="what was compiled is there, and the job is long",
        expected={
            "enforce_eager": (False, "loading compiled code takes 4 s and saves about"),
            "max_model_len": (512, "compiled code is shared by"),
            "max_num_seqs": (256, "compiled code is shared by"),
        },
    ),
    "graviton3": Row(
        tree=trees.graviton3,
        why="no siblings on Arm; Intel's OpenMP is not for it, and two copies of GNU's would bind to the same cores",
        expected={
            "OMP_NUM_THREADS": ("8", "8 cores in the affinity mask, no quota"),
            "OMP_PLACES": (",".join(f"{{{cpu}}}" for cpu in range(8)), "one logical processor of each core"),
            "OMP_PROC_BIND": ("close", "no quota limits the threads"),
            "KMP_AFFINITY": None,
            "KMP_BLOCKTIME": None,
            "LD_PRELOAD": (f"/{ARM_TCMALLOC}:/{trees.TORCH_OPENMP}", "one OpenMP runtime for torch and the engine's"),
        },
    ),
    "docker-with-1.5-processors-and-3-gib": Row(
        tree=trees.docker_v1,
        why="a second thread would be throttled half of the time, and the first would wait for it",
        expected={
            "OMP_NUM_THREADS": ("1", "2 cores in the affinity mask, a quota of 1.5 processors"),
            "OMP_PROC_BIND": ("false", "a quota of 1.5 on 2 cores"),
            "KMP_BLOCKTIME": ("1", "burns the quota"),
            "kv_cache_memory_bytes": (LEFT_IN_3_GIB, "fewer requests run at a time"),
        },
    ),
    "amx-pod-full-of-page-cache": Row(
        tree=trees.amx_pod,
        model=LARGE_MODEL,
        why="6 of the 7 GiB in use are dropped by the kernel when the engine needs them",
        expected={
            "OMP_NUM_THREADS": ("4", "16 cores in the affinity mask, siblings counted once, a quota of 4"),
            "kv_cache_memory_bytes": (LEFT_IN_8_GIB, "all that the memory limit leaves"),
            "enforce_eager": (True, "the compiler needs 2 GiB more memory"),
        },
    ),
    "amx-pod-with-one-row": Row(
        tree=trees.amx_pod,
        job=JobFacts(requests=1, longest_prompt_tokens=300, mean_prompt_tokens=300.0, max_tokens=128),
        why="a cache for more than this row would only be zeroed",
        expected={
            "max_num_seqs": (1, "at most one per request"),
            "engines": (1, "4 threads"),
            "kv_cache_memory_bytes": (512 * 23040, "1 requests of 512 tokens"),
            "enforce_eager": (True, "compiling takes 110 s and would save about 0 s"),
        },
    ),
    "gpu-node-with-a-cpu-build": Row(
        tree=trees.gpu_node,
        why="the GPU is of no use to a vLLM that was built without it",
        expected={
            "device": ("cpu", "there is a GPU (NVIDIA A10G), but the installed vLLM is a CPU build"),
            "OMP_NUM_THREADS": ("4", "4 cores"),
            "kv_cache_memory_bytes": (WHOLE_JOB, "256 requests"),
        },
    ),
    "gpu-node": Row(
        tree=trees.gpu_node,
        build=CUDA,
        why="vLLM is at home on a GPU; what is planned for a CPU would be in its way",
        expected={
            "device": ("cuda", "there is a GPU (NVIDIA A10G), and the installed vLLM can use it"),
            "dtype": ("bfloat16", "half the memory traffic"),
            "max_model_len": (448, "longest prompt with its answer"),
            "enable_prefix_caching": (True, "share their first tokens"),
            "VLLM_ENABLE_V1_MULTIPROCESSING": ("0", "one process"),
            **dict.fromkeys(("OMP_NUM_THREADS", "OMP_PLACES", "OMP_PROC_BIND", "LD_PRELOAD")),
            **dict.fromkeys(("KMP_AFFINITY", "KMP_BLOCKTIME")),
            **dict.fromkeys(("kv_cache_memory_bytes", "enforce_eager", "max_num_seqs", "max_num_batched_tokens")),
        },
    ),
    "the-recorded-machine": Row(
        tree=recorded_machine,
        why="nothing limits it, and a recording holds no libraries",
        expected={
            "engines": (2, "two threads of one engine often wait for each other"),
            "OMP_NUM_THREADS": ("1", "1 cores in the affinity mask, no quota"),
            "OMP_PROC_BIND": ("false", "no OpenMP runtime to preload"),
            "kv_cache_memory_bytes": (WHOLE_JOB, "256 requests"),
        },
    ),
    "set-by-the-user": Row(
        tree=trees.cpuset_of_siblings,
        why="the user knows better",
        options={"OMP_NUM_THREADS": 4, "KMP_AFFINITY": "none", "LD_PRELOAD": "", "block_size": 32, "max_num_seqs": 8},
        expected={
            "OMP_NUM_THREADS": ("4", "set by engine_options"),
            "KMP_AFFINITY": ("none", "set by engine_options"),
            "LD_PRELOAD": ("", "set by engine_options"),
            "block_size": (32, "set by engine_options"),
            "max_num_seqs": (8, "set by engine_options"),
            "kv_cache_memory_bytes": (8 * 256 * 23040, "8 requests of 256 tokens"),
            "max_model_len": (448, "in whole blocks"),
        },
    ),
}


def plan(row: Row, root: Path) -> EngineSettings:
    machine = read_machine(row.tree(root))
    device = choose_device("auto", machine, row.build)
    placement = place(machine, row.model, row.job.requests, device, row.options)
    settings = plan_settings(
        placement.smallest,
        row.model,
        row.job.share(len(placement.shares)),
        choose_dtype("auto", row.model),
        row.options,
        device=device,
        is_compiled=row.is_compiled,
    )
    return dataclasses.replace(settings, choices={**settings.choices, "engines": placement.engines})


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_the_plan_is_right(row, tmp_path, monkeypatch):
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    settings = plan(row, tmp_path)
    planned = {**settings.choices, **settings.arguments, **settings.environment}
    for name, expected in row.expected.items():
        if expected is None:
            assert name not in planned, row.why
        else:
            value, words = expected
            assert planned[name].value == value, f"{name}: {row.why}"
            assert words in planned[name].reason
    assert all(setting.reason for setting in planned.values())
    assert set(settings.as_dict()) == {"choices", "arguments", "environment"}
