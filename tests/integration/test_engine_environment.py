"""What the planned variables do to a real process: where threads run, what is loaded, what vLLM sees of the memory."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kfp_llm_batch.engine.devices import ON_CPU
from kfp_llm_batch.engine.process_environment import engine_environment
from kfp_llm_batch.machine import Machine, read_machine

THREADS = """
import json, os, re, time, torch

def ticks(thread):
    return sum(map(int, open(f"/proc/self/task/{thread}/stat").read().rsplit(")", 1)[1].split()[11:13]))

def mask(thread):
    return re.search(r"Cpus_allowed_list:\\s*(\\S+)", open(f"/proc/self/task/{thread}/status").read()).group(1)

numbers, ended = torch.rand(3000, 3000), time.process_time() + 1.0
before = {thread: ticks(thread) for thread in os.listdir("/proc/self/task")}
while time.process_time() < ended:
    torch.exp(numbers)
busy = [thread for thread in os.listdir("/proc/self/task") if ticks(thread) > before.get(thread, 0) + 2]
libraries = {line.split("/")[-1].strip() for line in open("/proc/self/maps") if "/lib" in line}
print(json.dumps({"masks": sorted(map(mask, busy)), "libraries": sorted(libraries)}))
"""

MEMORY = """
from pathlib import Path
from kfp_llm_batch.engine import vllm_engine
from kfp_llm_batch.machine.memory import memory_bytes
from vllm.utils import cpu_resource_utils

limit = 2**60
cpu_resource_utils.get_cgroup_memory_limit = lambda: limit
cpu_resource_utils.get_cgroup_memory_usage = lambda: limit
assert limit - cpu_resource_utils.get_cgroup_memory_usage() == 0
vllm_engine._count_page_cache_as_free()
seen, planned = limit - cpu_resource_utils.get_cgroup_memory_usage(), memory_bytes(Path("/"))[1]
assert abs(seen - planned) < 0.1 * planned, (seen, planned)
"""


def runtimes() -> dict[str, Path]:
    """The OpenMP runtimes that could be preloaded here."""
    torch = importlib.util.find_spec("torch")
    folder = Path(torch.origin or "").parent if torch else Path()
    return {"libiomp5": Path(sys.prefix, "lib/libiomp5.so"), "libgomp": folder / "lib/libgomp.so.1"}


def machine_with(runtime: str) -> Machine:
    """Two cores of this machine without a quota, which have threads bound, and a runtime to preload."""
    machine, path = read_machine(), runtimes()[runtime]
    if not path.is_file() or machine.physical_cores < 2:
        pytest.skip(f"without {path} and two cores nothing is bound")
    return dataclasses.replace(
        machine,
        cores=machine.cores[:2],
        numa_nodes={0: tuple(core[0] for core in machine.cores[:2])},
        cpu_quota=None,
        libraries=dataclasses.replace(machine.libraries, preloaded=(), openmp_path=str(path)),
    )


def run(code: str, environment: dict[str, str]) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("runtime", ["libiomp5", "libgomp"])
def test_each_thread_has_a_core_of_its_own(runtime):
    machine = machine_with(runtime)
    found = json.loads(run(THREADS, engine_environment(machine, ON_CPU, {})))
    assert found["masks"] == sorted(str(core[0]) for core in machine.cores)


def test_threads_below_a_quota_may_run_everywhere():
    machine = machine_with("libiomp5")
    found = json.loads(run(THREADS, engine_environment(dataclasses.replace(machine, cpu_quota=1.5), ON_CPU, {})))
    (mask,) = set(found["masks"])
    assert mask != str(machine.cores[0][0])


def test_what_is_preloaded_is_loaded():
    machine = read_machine()
    wanted = [path for path in (machine.libraries.allocator_path, machine.libraries.openmp_path) if path]
    loaded = json.loads(run(THREADS, engine_environment(machine, ON_CPU, {})))["libraries"]
    assert {Path(path).resolve().name for path in wanted} <= set(loaded)


@pytest.mark.vllm
def test_vllm_does_not_take_page_cache_for_used_memory():
    run(MEMORY, engine_environment(read_machine(), ON_CPU, {}))
