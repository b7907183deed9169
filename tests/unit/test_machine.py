import os
import shutil

import pytest

from kfp_llm_batch.machine import read_machine
from tests.unit import machine_trees as trees
from tests.unit.machine_trees import GIB, arm, group_v2, memory, topology, write_tree, x86


@pytest.fixture
def tree(tmp_path):
    """A 64-processor host: 32 cores with two threads each, AVX512 with bfloat16, 256 GiB."""
    host = {
        **x86("Large Host", trees.GENOA),
        **memory(256, 200),
        **topology(trees.pairs_apart(32), ["0-63"], "0-63"),
    }
    return write_tree(tmp_path, host)


def test_without_limits_every_core_counts_once(tree):
    machine = read_machine(tree)
    assert machine.physical_cores == machine.usable_cpus == 32
    assert machine.cores[:2] == ((0, 32), (1, 33))
    assert machine.cpu_quota is None
    assert machine.cpu_model == "Large Host"
    assert machine.memory_limit_bytes == 256 * GIB
    assert machine.memory_available_bytes == 200 * GIB
    assert not machine.is_cpuset


def test_cgroup_v2_takes_the_tightest_limit_up_the_hierarchy(tree):
    files = {
        "proc/self/cgroup": "0::/pod/container\n",
        **group_v2("pod/container", limit=str(8 * GIB), used=5 * GIB),
        "sys/fs/cgroup/pod/container/memory.stat": f"anon 7\nactive_file {GIB}\ninactive_file {3 * GIB}\n",
        **group_v2("pod", cpu="250000 100000"),
    }
    machine = read_machine(write_tree(tree, files))
    assert machine.cpu_quota == 2.5
    assert machine.usable_cpus == 2
    assert machine.memory_limit_bytes == 8 * GIB
    assert machine.memory_available_bytes == 7 * GIB, "page cache counts as free"


def test_memory_that_a_group_is_slowed_down_at_is_a_limit(tree):
    files = {"proc/self/cgroup": "0::/\n", **group_v2("", limit=str(8 * GIB)), "sys/fs/cgroup/memory.high": f"{GIB}\n"}
    assert read_machine(write_tree(tree, files)).memory_limit_bytes == GIB


def test_cgroup_v1_in_a_container_without_its_own_path(tree):
    files = {
        "proc/self/cgroup": "4:memory:/kubepods/pod1\n3:cpu,cpuacct:/kubepods/pod1\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{3 * GIB}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
        "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\ntotal_active_file 0\n",
    }
    machine = read_machine(write_tree(tree, files))
    assert machine.cpu_quota == 1.5
    assert machine.usable_cpus == 1
    assert machine.memory_available_bytes == 2 * GIB


@pytest.mark.parametrize("path", ["/kubepods/pod1/gone", "/../../sibling"], ids=["not-mounted", "outside-namespace"])
def test_cgroup_v2_in_a_container_without_its_own_path(tree, path):
    files = {"proc/self/cgroup": f"0::{path}\n", **group_v2("", cpu="300000 100000", limit=str(GIB), used=7)}
    machine = read_machine(write_tree(tree, files))
    assert (machine.cpu_quota, machine.memory_available_bytes) == (3.0, GIB - 7)


@pytest.mark.parametrize(
    ("group", "files"),
    [
        ("cpu", {"cpu/job/cpu.cfs_quota_us": "200000\n", "cpu/job/cpu.cfs_period_us": "100000\n"}),
        ("pids", {"unified/job/cpu.max": "200000 100000\n"}),
    ],
    ids=["controller-in-v1", "controller-in-v2"],
)
def test_both_versions_of_cgroups_side_by_side(tree, group, files):
    mounted = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    write_tree(tree, {"proc/self/cgroup": f"2:{group}:/job\n1:name=systemd:/job\n0::/job\n", **mounted})
    assert read_machine(tree).cpu_quota == 2.0


def test_an_unlimited_v1_group_is_no_limit(tree):
    files = {
        "proc/self/cgroup": "4:memory:/\n3:cpu:/\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    machine = read_machine(write_tree(tree, files))
    assert machine.cpu_quota is None
    assert machine.memory_limit_bytes == 256 * GIB


@pytest.mark.parametrize(
    ("siblings", "allowed", "cores"),
    [
        (trees.pairs_apart(32), "0-1,32-33", ((0, 32), (1, 33))),
        (trees.pairs_apart(32), "0,33", ((0,), (1 + 32,))),
        (trees.pairs_adjacent(4), "1-4", ((1,), (2, 3), (4,))),
        (["0", "1", "2", "3"], "2-3", ((2,), (3,))),
        (["garbage", "", "0-"], "0-2", ((0,), (1,), (2,))),
    ],
    ids=["both-threads", "one-thread-each", "cut-by-the-mask", "no-siblings", "malformed"],
)
def test_siblings_in_the_affinity_mask_are_one_core(tmp_path, siblings, allowed, cores):
    machine = read_machine(write_tree(tmp_path, topology(siblings, ["0-63"], allowed)))
    assert machine.cores == cores
    assert machine.usable_cpus == len(cores)


def test_processors_that_could_be_plugged_in_are_not_allowed_ones(tmp_path):
    machine = read_machine(write_tree(tmp_path, topology(["0", "1"], ["0-1"], "0-127")))
    assert (machine.allowed_cpus, machine.is_cpuset) == ((0, 1), False)


def test_a_mask_that_leaves_processors_out_is_a_cpuset(tmp_path):
    machine = read_machine(trees.cpuset_of_siblings(tmp_path))
    assert machine.is_cpuset
    assert machine.allowed_cpus == (4, 5, 36, 37)


def test_memory_nodes_are_those_of_the_allowed_processors(tmp_path):
    nodes = read_machine(trees.two_memory_nodes(tmp_path / "both")).numa_nodes
    assert nodes == {0: tuple(range(16)), 1: tuple(range(16, 32))}
    one = topology([str(cpu) for cpu in range(32)], ["0-15", "16-31"], "20-23")
    assert read_machine(write_tree(tmp_path / "one", one)).numa_nodes == {1: (20, 21, 22, 23)}


def test_without_memory_nodes_all_processors_are_on_one(tmp_path):
    files = topology(["0", "1"], ["0-1"], "0-1")
    del files["sys/devices/system/node/node0/cpulist"]
    machine = read_machine(write_tree(tmp_path, files))
    assert (machine.numa_nodes, machine.node_memory_bytes) == ({0: (0, 1)}, {})


def test_memory_left_on_a_node_counts_page_cache_as_free(tmp_path):
    assert read_machine(trees.two_memory_nodes(tmp_path)).node_memory_bytes == {0: 40 * GIB, 1: 20 * GIB}


@pytest.mark.parametrize(
    ("cpuinfo", "best", "features"),
    [
        (x86("x", trees.SAPPHIRE_RAPIDS), "AMX-BF16", "AMX-BF16 AVX512-BF16 AVX512-VNNI AVX512 AVX2 AMX-INT8"),
        (x86("x", trees.GENOA), "AVX512-BF16", "AVX512-BF16 AVX512-VNNI AVX512 AVX2"),
        (x86("x", "avx2 avx512f avx512_vnni"), "AVX512-VNNI", "AVX512-VNNI AVX512 AVX2"),
        (x86("x", "avx2 avx512f"), "AVX512", "AVX512 AVX2"),
        (x86("x", "avx avx2"), "AVX2", "AVX2"),
        (x86("x", "sse4_2"), "generic", ""),
        (arm(trees.NEOVERSE_V1, "0x41", "0xd40"), "ARM-BF16", "ARM-BF16 SVE NEON I8MM"),
        (arm("fp asimd asimddp", "0x41", "0xd0c"), "NEON", "NEON"),
        (arm("fp asimd i8mm", "0x61", "0x022"), "NEON", "NEON I8MM"),
    ],
)
def test_instructions(tmp_path, cpuinfo, best, features):
    machine = read_machine(write_tree(tmp_path, cpuinfo))
    assert machine.instruction_set == best
    assert " ".join(machine.instruction_features) == features


@pytest.mark.parametrize(
    ("implementer", "part", "name"),
    [
        ("0x41", "0xd0c", "Neoverse N1"),
        ("0x41", "0xd40", "Neoverse V1"),
        ("0x41", "0xd49", "Neoverse N2"),
        ("0x41", "0xd4f", "Neoverse V2"),
        ("0x61", "0x022", "Apple"),
        ("0xc0", "0xac3", "implementer 0xc0, part 0xac3"),
    ],
)
def test_arm_processors_are_named_by_their_numbers(tmp_path, implementer, part, name):
    machine = read_machine(write_tree(tmp_path, arm("asimd", implementer, part)))
    assert (machine.architecture, machine.cpu_model) == ("aarch64", name)


def test_libraries_that_are_loaded_and_that_could_be(tmp_path, monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "/opt/libjemalloc.so.2 /opt/libother.so:")
    maps = "7f00-7f01 r-xp 00000000 fe:00 12 /opt/libjemalloc.so.2\n7f02-7f03 rw-p 00000000 fe:00 12 /x/libgomp.so.1\n"
    machine = read_machine(
        write_tree(trees.laptop(tmp_path), {"proc/self/maps": maps + "7f04-7f05 rw-p 0 0 0 [heap]\n"})
    )
    libraries = machine.libraries
    assert libraries.mapped == ("libgomp.so.1", "libjemalloc.so.2")
    assert libraries.preloaded == ("/opt/libjemalloc.so.2", "/opt/libother.so")
    assert libraries.allocator_path is None
    assert libraries.openmp_path == f"/{trees.INTEL_OPENMP}"


def test_an_allocator_of_another_architecture_is_none(tmp_path):
    arm_machine = read_machine(trees.graviton3(tmp_path))
    assert arm_machine.libraries.allocator_path == "/usr/lib/aarch64-linux-gnu/libtcmalloc_minimal.so.4"
    (tmp_path / trees.TCMALLOC).parent.mkdir(parents=True)
    (tmp_path / "usr/lib/aarch64-linux-gnu/libtcmalloc_minimal.so.4").rename(tmp_path / trees.TCMALLOC)
    assert read_machine(tmp_path).libraries.allocator_path is None


def test_gpus_have_names_where_the_driver_tells_them(tmp_path):
    assert read_machine(trees.gpu_node(tmp_path)).accelerators == ("NVIDIA A10G",)
    shutil.rmtree(tmp_path / "proc/driver")
    assert read_machine(tmp_path).accelerators == ("NVIDIA GPU",)
    (tmp_path / "dev/nvidia0").unlink()
    assert read_machine(tmp_path).accelerators == (), "nvidiactl is none"


def test_an_empty_tree_is_read_without_an_error(tmp_path):
    machine = read_machine(tmp_path)
    assert machine.allowed_cpus == tuple(sorted(os.sched_getaffinity(0)))
    assert machine.instruction_set == "generic"
    assert machine.memory_limit_bytes > 0
    assert machine.shared_memory_bytes == 0


GARBAGE = {
    "proc/cpuinfo": "\0\xff flags\n: :\n",
    "proc/meminfo": "MemTotal: many kB\nMemAvailable:\n",
    "proc/self/cgroup": "nonsense\n1:cpu\n:::\n0::/\n2:memory:/x\n",
    "proc/self/status": "Cpus_allowed_list:\t3-1-2\nMems_allowed_list:\tall\n",
    "proc/self/maps": "no columns\n",
    "proc/driver/nvidia/gpus/0/information": "",
    "sys/devices/system/cpu/online": "0-\n",
    "sys/devices/system/node/node0/cpulist": "zero\n",
    "sys/fs/cgroup/cpu.max": "100000 0\n",
    "sys/fs/cgroup/memory.max": "1e9\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "12345678\n",
    "sys/fs/cgroup/memory/memory.stat": "one\ntwo three four\ntotal_active_file -1\n",
}


def test_malformed_files_are_read_as_nothing(tmp_path):
    machine = read_machine(write_tree(tmp_path, GARBAGE))
    assert machine.cpu_quota is None
    assert machine.memory_limit_bytes == machine.memory_available_bytes == 12345678
    assert machine.accelerators == ("NVIDIA GPU",)


def test_a_recorded_machine(tmp_path):
    machine = read_machine(trees.recorded("firecracker-2-cores", tmp_path))
    assert (machine.cpu_model, machine.instruction_set) == ("AMD EPYC", "AVX512-BF16")
    assert machine.cores == ((0,), (1,))
    assert (machine.numa_nodes, machine.is_cpuset) == ({0: (0, 1)}, False)
    assert machine.cpu_quota is None, "its groups of version 1 have none"
    assert machine.memory_limit_bytes == 24_684_092 * 1024
    assert 0 < machine.memory_available_bytes < machine.memory_limit_bytes
    assert machine.node_memory_bytes.keys() == {0}


def test_this_machine_can_be_read():
    machine = read_machine()
    assert machine.allowed_cpus == tuple(sorted(os.sched_getaffinity(0)))
    assert machine.usable_cpus >= 1
    assert 0 < machine.memory_available_bytes <= machine.memory_limit_bytes
    assert machine.as_dict()["physical_cores"] == machine.physical_cores
