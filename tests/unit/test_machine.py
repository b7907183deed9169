from pathlib import Path

import pytest

from kfp_llm_batch.machine import read_machine

GIB = 2**30


def write_tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def tree(tmp_path):
    """A 64-processor host: 32 cores with two threads each, AVX512 with bfloat16, 256 GiB."""
    files = {
        "proc/cpuinfo": "model name\t: Large Host\nflags\t\t: fpu avx2 avx512f avx512_bf16\n",
        "proc/meminfo": f"MemTotal: {256 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {200 * 2**20} kB\n",
    }
    for cpu in range(64):
        core = cpu % 32
        files[f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"] = f"{core},{core + 32}\n"
    write_tree(tmp_path, files)
    return tmp_path


def test_without_limits_every_core_counts_once(tree):
    machine = read_machine(tree, frozenset(range(64)))
    assert machine.physical_cores == machine.usable_cpus == 32
    assert machine.cpu_quota is None
    assert machine.instruction_set == "AVX512-BF16"
    assert machine.memory_limit_bytes == 256 * GIB
    assert machine.memory_available_bytes == 200 * GIB


def test_cgroup_v2_takes_the_tightest_limit_up_the_hierarchy(tree):
    write_tree(
        tree,
        {
            "proc/self/cgroup": "0::/pod/container\n",
            "sys/fs/cgroup/pod/container/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pod/cpu.max": "250000 100000\n",
            "sys/fs/cgroup/pod/container/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/pod/container/memory.current": f"{5 * GIB}\n",
            "sys/fs/cgroup/pod/container/memory.stat": f"anon 7\nactive_file {GIB}\ninactive_file {3 * GIB}\n",
            "sys/fs/cgroup/pod/memory.max": "max\n",
        },
    )
    machine = read_machine(tree, frozenset(range(64)))
    assert machine.cpu_quota == 2.5
    assert machine.usable_cpus == 2
    assert machine.memory_limit_bytes == 8 * GIB
    assert machine.memory_available_bytes == 7 * GIB, "page cache counts as free"


def test_cgroup_v1_in_a_container_without_its_own_path(tree):
    write_tree(
        tree,
        {
            "proc/self/cgroup": "4:memory:/kubepods/pod1\n3:cpu,cpuacct:/kubepods/pod1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{3 * GIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
            "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\ntotal_active_file 0\n",
        },
    )
    machine = read_machine(tree, frozenset(range(64)))
    assert machine.cpu_quota == 1.5
    assert machine.usable_cpus == 1
    assert machine.memory_available_bytes == 2 * GIB


def test_siblings_in_the_affinity_mask_are_one_core(tree):
    assert read_machine(tree, frozenset({0, 1, 32, 33})).usable_cpus == 2


def test_an_unlimited_v1_group_is_no_limit(tree):
    write_tree(
        tree,
        {
            "proc/self/cgroup": "4:memory:/\n3:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    machine = read_machine(tree, frozenset(range(64)))
    assert machine.cpu_quota is None
    assert machine.memory_limit_bytes == 256 * GIB


def test_this_machine_can_be_read():
    assert read_machine().usable_cpus >= 1
