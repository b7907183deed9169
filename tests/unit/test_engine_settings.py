import dataclasses

import pytest

from kfp_llm_batch.engine.settings import JobFacts, answer_settings, choose_dtype, memory_for_kv, plan_settings
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.machine import Machine
from kfp_llm_batch.models.resolving import ModelFacts

GIB = 2**30
MACHINE = Machine(
    architecture="x86_64",
    cpu_model="test",
    instruction_set="AVX512-BF16",
    allowed_cpus=(0, 1, 2, 3),
    physical_cores=4,
    cpu_quota=2.5,
    memory_limit_bytes=8 * GIB,
    memory_available_bytes=8 * GIB,
    shared_memory_bytes=64 * 2**20,
    cache_folder="/cache",
)
MODEL = ModelFacts(
    max_model_len=8192,
    kv_bytes_per_token=23040,
    weight_bytes=269 * 10**6,
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    dtype="bfloat16",
)
JOB = JobFacts(requests=1000, longest_prompt_tokens=300, mean_prompt_tokens=100.0, max_tokens=128)


def plan(machine=MACHINE, job=JOB, options=None):
    return plan_settings(machine, MODEL, job, choose_dtype("auto", MODEL), options or {})


def test_threads_follow_the_quota_and_every_setting_has_a_reason():
    settings = plan()
    assert settings.environment_values()["OMP_NUM_THREADS"] == "2"
    assert all(setting.reason for setting in (*settings.arguments.values(), *settings.environment.values()))


def test_the_cache_is_sized_for_the_job_not_for_the_machine():
    arguments = plan().argument_values()
    assert arguments["max_model_len"] == 512, "300 + 128 + 1 in whole blocks of 128"
    assert arguments["kv_cache_memory_bytes"] == 256 * 256 * 23040, "256 requests of 125 + 128 tokens in whole blocks"


def test_a_small_job_takes_a_small_cache():
    job = dataclasses.replace(JOB, requests=1)
    arguments = plan(job=job).argument_values()
    assert arguments["max_num_seqs"] == 1
    assert arguments["kv_cache_memory_bytes"] == (512 + 128) * 23040


def test_little_memory_means_a_smaller_cache():
    small = dataclasses.replace(MACHINE, memory_limit_bytes=3 * GIB, memory_available_bytes=2 * GIB)
    settings = plan(machine=small)
    assert settings.argument_values()["kv_cache_memory_bytes"] == memory_for_kv(small, MODEL)
    assert "fewer requests" in settings.arguments["kv_cache_memory_bytes"].reason


def test_too_little_memory_is_refused_with_the_missing_amount():
    small = dataclasses.replace(MACHINE, memory_limit_bytes=GIB, memory_available_bytes=GIB // 2)
    with pytest.raises(ConfigurationError, match=r"Raise resources_memory by \d+ MiB"):
        plan(machine=small)


def test_engine_options_win():
    setting = plan(options={"max_num_seqs": 7}).arguments["max_num_seqs"]
    assert (setting.value, setting.reason) == (7, "set by engine_options")


def test_only_settings_that_change_answers_enter_the_key():
    dtype = choose_dtype("auto", MODEL)
    assert answer_settings(dtype, {"max_num_seqs": 7}) == {"dtype": "bfloat16"}
    assert answer_settings(dtype, {"quantization": "awq"}) == {"dtype": "bfloat16", "quantization": "awq"}
    assert answer_settings(dtype, {"an_option_of_tomorrow": 1}) == {"dtype": "bfloat16", "an_option_of_tomorrow": 1}
