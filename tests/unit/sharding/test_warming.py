"""Whether the model is compiled once for all pods."""

import dataclasses
import json

import pytest

from kfp_llm_batch.machine import read_machine
from kfp_llm_batch.sharding.job import JobFolder
from kfp_llm_batch.sharding.warming import DECISION, compiled_in, reason_against, warm_job
from kfp_llm_batch.storage.object_store import open_store

DEMO = "demo://smollm2-135m-instruct"
ROWS = [{"id": f"q{index}", "question": "What is it?"} for index in range(8)]


where_it_could_be = pytest.mark.skipif(not read_machine().has_compiler, reason="there is no C++ compiler here")


@where_it_could_be
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"shards": 1}, "one shard compiles for itself"),
        ({}, "echo:// computes nothing"),
        ({"engine_options": {"enforce_eager": True}}, "engine_options sets enforce_eager"),
        ({"engine_options": {"url": "http://model:8000/v1"}}, "an endpoint answers"),
        ({"model_uri": DEMO}, "it takes 110 s and would save about 0 s of all pods together"),
    ],
)
def test_nothing_is_compiled_where_it_does_not_pay(make_job, tmp_path, changes, reason):
    address, _ = make_job(ROWS, **changes)
    assert warm_job(address, tmp_path / "cache") == {"reason": reason}
    assert json.loads((tmp_path / "cache" / DECISION).read_text()) == {"reason": reason}
    assert compiled_in(tmp_path / "cache") is None


def test_a_job_that_is_done_needs_nothing(make_job, tmp_path):
    address, _ = make_job(ROWS)
    JobFolder(open_store(address.uri)).store.delete("job.json")
    assert warm_job(address, tmp_path / "cache") == {"reason": "the job is done"}


@where_it_could_be
def test_a_long_job_is_worth_it(make_job):
    _, job = make_job(ROWS, model_uri=DEMO)
    long = dataclasses.replace(job, shards=tuple(dataclasses.replace(shard, tokens=20_000_000) for shard in job.shards))
    assert reason_against(long) == ""


def test_what_was_compiled_is_handed_on(tmp_path):
    (tmp_path / "engine-0123").mkdir()
    (tmp_path / DECISION).touch()
    assert compiled_in(tmp_path) == tmp_path
