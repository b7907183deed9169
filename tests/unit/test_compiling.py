"""Whether compiling pays, and what is remembered of it."""

import dataclasses
import io
from pathlib import Path

import pytest

from kfp_llm_batch.engine.aot_loading import register
from kfp_llm_batch.engine.compiling import CompileRecord, reason_to_compile
from kfp_llm_batch.engine.decisions import JobFacts
from kfp_llm_batch.engine.devices import ON_CPU
from kfp_llm_batch.engine.kv_cache import BatchSizes, memory_for_kv
from kfp_llm_batch.engine.planning import plan_job
from kfp_llm_batch.engine.settings import choose_dtype, plan_settings
from kfp_llm_batch.engine.shares import place
from kfp_llm_batch.errors import StorageError
from kfp_llm_batch.machine import Machine
from kfp_llm_batch.models.resolving import Model
from tests.unit.demo_facts import MODEL

GIB = 2**30
MACHINE = Machine(
    architecture="x86_64",
    cpu_model="test",
    instruction_set="AVX512-BF16",
    cores=((0,), (1,)),
    numa_nodes={0: tuple(range(64))},
    cpu_quota=None,
    memory_limit_bytes=16 * GIB,
    memory_available_bytes=16 * GIB,
    shared_memory_bytes=64 * 2**20,
    cache_folder="/cache",
    instruction_digest="abc",
    has_compiler=True,
)
STANDARD = BatchSizes(max_model_len=8192, max_num_seqs=256, max_num_batched_tokens=8192, block_size=128)
SIXTY_FOUR_CORES = tuple((cpu,) for cpu in range(64))
TEN_SECONDS, AN_HOUR = 10 * 2 * 105e9, 3600 * 2 * 105e9
"""Floating-point operations that take this long without compiling."""


@pytest.mark.parametrize(
    ("flops", "is_compiled", "changes", "free", "expected", "why"),
    [
        (TEN_SECONDS, True, {}, 8 * GIB, False, "takes 4 s and would save about 2 s"),
        (12 * TEN_SECONDS, True, {}, 0, True, "takes 4 s and saves about 20 s"),
        (3 * TEN_SECONDS, True, {"cores": ((0,),)}, 8 * GIB, False, "takes 4 s and would save about 3 s"),
        (12 * TEN_SECONDS, False, {}, 8 * GIB, False, "takes 110 s and would save about 20 s"),
        (AN_HOUR, False, {}, 8 * GIB, True, "takes 110 s and saves about 612 s"),
        (AN_HOUR, False, {"has_compiler": False}, 8 * GIB, False, "no C++ compiler"),
        (AN_HOUR, True, {"has_compiler": False}, 8 * GIB, True, "saves about 612 s"),
        (AN_HOUR, False, {}, GIB, False, "2 GiB more memory"),
        (AN_HOUR, False, {"cpu_quota": 60.0, "cores": SIXTY_FOUR_CORES}, 8 * GIB, False, "save about 20 s"),
    ],
    ids=[
        "short-warm",
        "warm",
        "one-thread",
        "short-cold",
        "cold",
        "no-compiler",
        "warm-no-compiler",
        "no-memory",
        "many-cores",
    ],
)
def test_the_break_even(flops, is_compiled, changes, free, expected, why):
    machine = dataclasses.replace(MACHINE, **changes)
    found, reason = reason_to_compile(machine, flops, is_compiled=is_compiled, free_bytes=free)
    assert found == expected
    assert why in reason


def plan(requests, options=None, *, is_compiled=False, machine=MACHINE, longest=300):
    job = JobFacts(requests=requests, longest_prompt_tokens=longest, mean_prompt_tokens=100.0, max_tokens=128)
    settings = plan_settings(machine, MODEL, job, choose_dtype("auto", MODEL), options or {}, is_compiled=is_compiled)
    return settings.argument_values()


def a_model(folder):
    return Model(uri="m", engine="vllm", folder=folder, revision=None, digest="digest", facts=MODEL)


def test_a_short_job_does_not_compile_and_a_long_one_does():
    assert plan(50)["enforce_eager"]
    assert not plan(100_000)["enforce_eager"]


def test_jobs_of_like_size_share_what_is_compiled(tmp_path):
    machine, model = dataclasses.replace(MACHINE, cache_folder=str(tmp_path)), a_model(Path("/model"))
    record = CompileRecord(machine, model)
    first = plan(300, is_compiled=True)
    assert not first["enforce_eager"]
    assert not record.holds(first)
    record.add(first)
    assert record.holds(plan(1_000, is_compiled=True, longest=200))
    assert not record.holds(plan(1_000, is_compiled=True, longest=600))
    assert not record.holds(plan(1_000, {"dtype": "float32"}, is_compiled=True))
    for other in ({"digest": "other"}, {"folder": Path("/elsewhere")}):
        assert not CompileRecord(machine, dataclasses.replace(model, **other)).holds(first)
    assert not CompileRecord(dataclasses.replace(machine, instruction_digest="def"), model).holds(first)


def test_options_win_over_the_break_even_and_over_standard_sizes():
    assert plan(100_000, {"enforce_eager": True})["enforce_eager"]
    arguments = plan(10, {"enforce_eager": False, "max_num_seqs": 7})
    assert (arguments["enforce_eager"], arguments["max_num_seqs"]) == (False, 7)
    assert arguments["max_model_len"] == 512


def test_standard_sizes_are_not_taken_where_their_cache_does_not_fit():
    # A request of 4,448 tokens needs 106 MB, and the standard size of 8,192 tokens 192 MB.
    available = MACHINE.memory_available_bytes - memory_for_kv(MACHINE, MODEL, "bfloat16", STANDARD) + 150 * 10**6
    small = dataclasses.replace(MACHINE, memory_available_bytes=available)
    long = plan(100_000, is_compiled=True, machine=small, longest=4_300)
    assert (long["enforce_eager"], long["max_model_len"]) == (False, 4448)
    assert plan(100_000, is_compiled=True, longest=4_300)["max_model_len"] == 8192


def test_a_job_gets_the_plan_for_what_is_compiled_here(tmp_path):
    machine = dataclasses.replace(MACHINE, cache_folder=str(tmp_path))
    model = a_model(tmp_path)
    job = JobFacts(requests=1_000, longest_prompt_tokens=300, mean_prompt_tokens=100.0, max_tokens=128)
    placement = place(machine, MODEL, job.requests, ON_CPU, {"engines": 1})

    def plan_it():
        return plan_job(placement, model, job, choose_dtype("auto", MODEL), {}).arguments["enforce_eager"]

    before = plan_it()
    assert (before.value, before.reason.split(" and ")[0]) == (True, "compiling takes 110 s")
    CompileRecord(machine, model).add(plan(1_000, is_compiled=True))
    after = plan_it()
    assert (after.value, after.reason.split(" and ")[0]) == (False, "loading compiled code takes 4 s")


def test_a_record_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").touch()
    record = CompileRecord(dataclasses.replace(MACHINE, cache_folder=str(tmp_path / "file")), a_model(tmp_path))
    with pytest.raises(StorageError, match="Could not write"):
        record.add({})


def test_functions_of_torch_get_what_vllm_calls(monkeypatch):
    torch = pytest.importorskip("torch")

    class Loaded:
        class _artifacts:  # noqa: N801
            @staticmethod
            def compiled_fn() -> None: ...

    monkeypatch.setattr(torch.compiler, "load_compiled_function", lambda file, **_: Loaded)
    register()
    register()
    loaded = torch.compiler.load_compiled_function(io.BytesIO(), f_globals={})
    assert loaded._artifacts.compiled_fn.finalize_loading(None) is None
