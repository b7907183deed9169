"""Trees of the kernel's files, as machines and pods of different kinds show them."""

from __future__ import annotations

import json
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

RECORDINGS = Path(__file__).parents[1] / "machines"
GIB = 2**30
KIB_PER_GIB = 2**20

SAPPHIRE_RAPIDS = "fpu sse4_2 avx2 fma avx512f avx512bw avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8"
GENOA = "fpu sse4_2 avx2 fma avx512f avx512bw avx512_vnni avx512_bf16"
TIGER_LAKE_WITHOUT_AVX512 = "fpu sse4_2 avx avx2 fma f16c avx_vnni"
NEOVERSE_V1 = "fp asimd evtstrm aes atomics fphp asimdhp asimddp sve asimdfhm svei8mm svebf16 i8mm bf16 rng"

TCMALLOC = "usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4"
INTEL_OPENMP = f"{sys.prefix.lstrip('/')}/lib/libiomp5.so"
TORCH_OPENMP = f"{sysconfig.get_path('purelib').lstrip('/')}/torch/lib/libgomp.so.1"


def write_tree(root: Path, files: Mapping[str, str]) -> Path:
    """Write the files, folders included, and give back the root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def recorded(name: str, root: Path) -> Path:
    """A tree from the recording `tests/machines/<name>.json`: path to content."""
    return write_tree(root, json.loads((RECORDINGS / f"{name}.json").read_text()))


def x86(model: str, flags: str) -> dict[str, str]:
    """One processor of /proc/cpuinfo; the others say the same."""
    return {"proc/cpuinfo": f"processor\t: 0\nmodel\t\t: 143\nmodel name\t: {model}\nflags\t\t: {flags}\nbugs\t\t:\n\n"}


def arm(features: str, implementer: str, part: str) -> dict[str, str]:
    """The same on Arm, which writes numbers in place of a name."""
    lines = f"processor\t: 0\nFeatures\t: {features}\nCPU implementer\t: {implementer}\nCPU part\t: {part}\n\n"
    return {"proc/cpuinfo": lines}


def memory(total_gib: float, available_gib: float) -> dict[str, str]:
    """The machine's memory, all of it on node 0."""
    total, available = (round(number * KIB_PER_GIB) for number in (total_gib, available_gib))
    return {"proc/meminfo": f"MemTotal:       {total} kB\nMemFree:        1 kB\nMemAvailable:   {available} kB\n"}


def topology(siblings: Sequence[str], nodes: Sequence[str], allowed: str) -> dict[str, str]:
    """Siblings of each processor, processors of each node, and the affinity mask."""
    files = {
        f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": f"{names}\n"
        for cpu, names in enumerate(siblings)
    }
    files |= {f"sys/devices/system/node/node{node}/cpulist": f"{cpus}\n" for node, cpus in enumerate(nodes)}
    files["sys/devices/system/cpu/online"] = f"0-{len(siblings) - 1}\n"
    memory_nodes = f"0-{len(nodes) - 1}" if len(nodes) > 1 else "0"
    # The kernel counts processors in that could be plugged in.
    files["proc/self/status"] = f"Name:\tpython\nCpus_allowed_list:\t{allowed}\nMems_allowed_list:\t{memory_nodes}\n"
    return files


def node_memory(node: int, free_gib: float, cached_gib: float) -> dict[str, str]:
    """What a memory node says of itself."""
    values = {"MemFree": free_gib, "Active(file)": cached_gib, "Inactive(file)": 0, "SReclaimable": 0}
    lines = [f"Node {node} {name}:  {round(gib * KIB_PER_GIB)} kB\n" for name, gib in values.items()]
    return {f"sys/devices/system/node/node{node}/meminfo": "".join(lines)}


def group_v2(
    folder: str, *, cpu: str = "max 100000", limit: str = "max", used: int = 0, cache: int = 0
) -> dict[str, str]:
    """One group of cgroup version 2; `folder` is below /sys/fs/cgroup and empty for the mount itself."""
    return {
        f"sys/fs/cgroup/{folder}/cpu.max": f"{cpu}\n",
        f"sys/fs/cgroup/{folder}/memory.max": f"{limit}\n",
        f"sys/fs/cgroup/{folder}/memory.current": f"{used}\n",
        f"sys/fs/cgroup/{folder}/memory.stat": f"anon {used - cache}\nactive_file 0\ninactive_file {cache}\n",
    }


def pairs_apart(cores: int) -> list[str]:
    """Siblings as servers number them: processor n and processor n + cores."""
    return [f"{cpu % cores},{cpu % cores + cores}" for cpu in range(2 * cores)]


def pairs_adjacent(cores: int) -> list[str]:
    """Siblings as many laptops number them: 0 and 1, 2 and 3."""
    return [f"{cpu - cpu % 2}-{cpu - cpu % 2 + 1}" for cpu in range(2 * cores)]


def large_node_with_quota(root: Path) -> Path:
    """A pod with 2 processors and 8 GiB on a server with 64 cores, 128 threads and 512 GiB."""
    files = {
        **x86("AMD EPYC 9554P 64-Core Processor", GENOA),
        **memory(512, 400),
        **topology(pairs_apart(64), ["0-127"], "0-127"),
        "proc/self/cgroup": "0::/\n",
        **group_v2("", cpu="200000 100000", limit=str(8 * GIB), used=GIB // 4),
        TCMALLOC: "",
        INTEL_OPENMP: "",
    }
    return write_tree(root, files)


def cpuset_of_siblings(root: Path) -> Path:
    """A pod with four processors of its own, two cores with both threads, on a server with 32 cores."""
    files = {
        **x86("AMD EPYC 9334 32-Core Processor", GENOA),
        **memory(256, 200),
        **topology(pairs_apart(32), ["0-63"], "4-5,36-37"),
        "proc/self/cgroup": "0::/\n",
        **group_v2("", cpu="400000 100000", limit=str(16 * GIB), used=GIB // 4),
        TCMALLOC: "",
        INTEL_OPENMP: "",
    }
    return write_tree(root, files)


def two_memory_nodes(root: Path) -> Path:
    """A server with two processors of 16 cores, nothing limited; the second node has less memory left."""
    files = {
        **x86("AMD EPYC 9124 16-Core Processor", GENOA),
        **memory(128, 60),
        **topology([str(cpu) for cpu in range(32)], ["0-15", "16-31"], "0-31"),
        **node_memory(0, free_gib=3, cached_gib=37),
        **node_memory(1, free_gib=20, cached_gib=0),
        "proc/self/cgroup": "0::/user.slice\n",
        TCMALLOC: "",
        INTEL_OPENMP: "",
    }
    return write_tree(root, files)


def laptop(root: Path) -> Path:
    """Four cores with two threads each, AVX2 at best, 16 GiB, no limits, no allocator to preload."""
    files = {
        **x86("11th Gen Intel(R) Core(TM) i5-1135G7", TIGER_LAKE_WITHOUT_AVX512),
        **memory(16, 9),
        **topology(pairs_adjacent(4), ["0-7"], "0-127"),
        "proc/self/cgroup": "0::/user.slice/user-1000.slice/session-2.scope\n",
        **group_v2("user.slice"),
        INTEL_OPENMP: "",
    }
    return write_tree(root, files)


def graviton3(root: Path) -> Path:
    """A pod that may use all eight cores of an Arm machine; the memory limit stands above it in the hierarchy."""
    files = {
        **arm(NEOVERSE_V1, "0x41", "0xd40"),
        **memory(16, 14),
        **topology([str(cpu) for cpu in range(8)], ["0-7"], "0-7"),
        "proc/self/cgroup": "0::/kubepods.slice/pod1/container\n",
        **group_v2("kubepods.slice/pod1", limit=str(12 * GIB), used=GIB),
        **group_v2("kubepods.slice/pod1/container", used=GIB),
        TCMALLOC.replace("x86_64", "aarch64"): "",
        TORCH_OPENMP: "",
    }
    return write_tree(root, files)


def docker_v1(root: Path) -> Path:
    """`docker run --cpus 1.5 --memory 3g` on two cores with cgroup version 1, whose mounts show the own group."""
    group = "/docker/4f5e"
    files = {
        **x86("Intel Xeon Processor (Icelake)", GENOA.replace(" avx512_bf16", "")),
        **memory(24, 20),
        **topology(["0", "1"], ["0-1"], "0-1"),
        "proc/self/cgroup": f"5:memory:{group}\n4:cpu,cpuacct:{group}\n1:name=systemd:{group}\n0::/\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{3 * GIB}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
        "sys/fs/cgroup/memory/memory.stat": f"cache 1\ntotal_inactive_file {GIB // 2}\ntotal_active_file {GIB // 4}\n",
        TCMALLOC: "",
        INTEL_OPENMP: "",
    }
    return write_tree(root, files)


def amx_pod(root: Path) -> Path:
    """A pod with 4 processors and 8 GiB on Sapphire Rapids; 6 of the 7 GiB in use are files just downloaded."""
    files = {
        **x86("Intel(R) Xeon(R) Platinum 8488C", SAPPHIRE_RAPIDS),
        **memory(64, 50),
        **topology(pairs_apart(16), ["0-31"], "0-31"),
        "proc/self/cgroup": "0::/\n",
        **group_v2("", cpu="400000 100000", limit=str(8 * GIB), used=7 * GIB, cache=6 * GIB),
        TCMALLOC: "",
        INTEL_OPENMP: "",
    }
    return write_tree(root, files)


def gpu_node(root: Path) -> Path:
    """Eight cores and one GPU."""
    files = {
        **x86("AMD EPYC 7R32", "fpu avx avx2 fma"),
        **memory(32, 30),
        **topology(pairs_apart(4), ["0-7"], "0-7"),
        "proc/driver/nvidia/gpus/0000:00:1e.0/information": "Model: \t\t NVIDIA A10G\nIRQ:   \t\t 34\n",
        "dev/nvidia0": "",
        "dev/nvidiactl": "",
        TCMALLOC: "",
        INTEL_OPENMP: "",
    }
    return write_tree(root, files)
