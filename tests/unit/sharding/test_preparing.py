"""A dataset becomes shards and a job."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.engine.compiling import eager_seconds
from kfp_llm_batch.errors import ConfigurationError, DataError
from kfp_llm_batch.generation.config import GenerationConfig, generation_fields
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.sharding.answering import fetch_prompts
from kfp_llm_batch.sharding.job import Job, JobAddress, JobFolder
from kfp_llm_batch.sharding.sizing import MOST_AUTO_SHARDS, ShardingConfig, parse_cpus
from kfp_llm_batch.storage.object_store import open_store


def rows(count: int) -> list[dict[str, object]]:
    return [
        {"id": f"q{index}", "question": f"question {index} " * (1 + index % 9), "n": index} for index in range(count)
    ]


def folder_of(address: JobAddress) -> JobFolder:
    return JobFolder(open_store(address.uri))


def shard_rows(address: JobAddress, job: Job, tmp_path: Path) -> list[list[dict[str, Any]]]:
    found = []
    for number in range(len(job.shards)):
        folder = tmp_path / f"fetched-{number}"
        fetch_prompts(folder_of(address), job, number, folder)
        prompts = Prompts(folder)
        found.append([row for _, batch in prompts.batches() for row in batch.to_pylist()])
    return found


@pytest.mark.parametrize(("count", "shards"), [(2_500, 1), (2_500, 2), (2_500, 20), (2_500, 64), (3, 3)])
def test_the_shards_are_the_dataset(make_job, tmp_path, count, shards):
    address, job = make_job(rows(count), shards)
    parts = shard_rows(address, job, tmp_path)
    assert [len(part) for part in parts] == [shard.rows for shard in job.shards]
    together = sorted((row["n"], row["row_id"], row["messages"][0]["content"]) for part in parts for row in part)
    assert together == [(row["n"], row["id"], row["question"]) for row in rows(count)]
    assert job.rows == count
    assert len(job.shards) == shards


def test_there_are_never_more_shards_than_rows(make_job):
    assert len(make_job(rows(3), 64)[1].shards) == 3
    assert len(make_job([], 64)[1].shards) == 1


def test_the_same_job_is_the_same_bytes_and_another_is_not(make_job):
    first = make_job(rows(50))
    before = {entry.key: entry.size for entry in open_store(first[0].uri).list()}
    again = make_job(rows(50))
    assert again == first
    assert {entry.key: entry.size for entry in open_store(again[0].uri).list()} == before
    others = [make_job(rows(51)), make_job(rows(50), 5), make_job(rows(50), max_tokens=3)]
    assert len({first[0].uri, *(address.uri for address, _ in others)}) == 4


def test_whether_it_may_replace_another_result_is_no_part_of_its_identity(make_job):
    ids = {make_job(rows(5), **changes)[1].id for changes in ({}, {"output_overwrite": True}, {"max_error_rate": 0.5})}
    assert len(ids) == 1


def test_a_job_is_read_as_it_was_written(make_job):
    address, job = make_job(rows(5), 2, max_tokens=7, engine_options={"max_model_len": 128})
    read = folder_of(address).read_job()
    assert read == job
    assert read is not None
    assert read.id == address.id
    config = read.generation_config()
    assert (config.sampling.max_tokens, config.engine_options, config.rows_of_all_shards) == (
        7,
        {"max_model_len": 128},
        5,
    )


def test_every_setting_that_changes_answers_is_carried():
    config = GenerationConfig(
        model_uri="echo://",
        model_revision="r",
        sampling=SamplingConfig(
            max_tokens=3,
            temperature=0.5,
            top_p=0.9,
            n=2,
            seed=4,
            stop=("x",),
            json_schema={"type": "string"},
            options={"top_k": 5},
        ),
        context_policy="truncate_left",
        special_tokens="refuse",
        engine_dtype="float32",
        engine_options={"block_size": 64},
    )
    job = Job(
        dataset={},
        generation=generation_fields(config),
        output_format="jsonl",
        output_overwrite=False,
        max_error_rate=0.25,
        longest_prompt_tokens=1,
        shards=(),
    )
    assert job.generation_config() == dataclasses.replace(config, max_error_rate=0.25, rows_of_all_shards=0)


def test_another_result_at_the_output_is_refused_before_anything_is_stored(make_job, make_result, tmp_path):
    make_result("output")
    for name in ("parts", "errors"):
        for path in (tmp_path / "output" / name).iterdir():
            path.rename(path.with_name(f"{path.stem}-0123456789ab{path.suffix}"))
    with pytest.raises(ConfigurationError, match="Another result stands at the output: 25 rows"):
        make_job(rows(5))
    assert not (tmp_path / "output/shards").exists()
    make_job(rows(5), output_overwrite=True)


@pytest.mark.parametrize(
    ("text", "shards"),
    [
        ("s3://b/x/shards/0123456789abcdef", None),
        ("a b/shards/0123456789abcdef#0,12", (0, 12)),
        ("c#1/shards/" + "0" * 16, None),
    ],
)
def test_addresses(text, shards):
    address = JobAddress.parse(text)
    assert address.shards == shards
    assert address.uri == text.rpartition("#")[0] if shards else text
    assert address.uri == f"{address.output_uri}/shards/{address.id}"
    assert JobAddress.parse(address.with_shards(range(2, 9, 3))).shards == (2, 5, 8)


@pytest.mark.parametrize(
    "text", ["", "s3://b/x", "x/shards/abc", "x/shards/0123456789abcdef#", "x/shards/0123456789abcdef#a"]
)
def test_what_is_no_address_of_a_job(text):
    with pytest.raises(ConfigurationError, match="Not the address of a job"):
        JobAddress.parse(text)


def test_damaged_prompts_are_refused(make_job, tmp_path):
    address, job = make_job(rows(20), 2)
    path = Path(address.uri, "prompts/00001.arrow")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="The prompts of shard 1 are not what the job says"):
        fetch_prompts(folder_of(address), job, 1, tmp_path / "fetched")


def test_faulty_rows_are_counted_again(make_job, tmp_path):
    address, job = make_job([{"id": "a", "question": "x"}, {"id": "b", "question": " "}], 1)
    fetch_prompts(folder_of(address), job, 0, tmp_path / "fetched")
    assert Prompts(tmp_path / "fetched").manifest.rows_with_faults == 1


@pytest.mark.parametrize(
    ("wish", "rows", "seconds", "expected"),
    [
        ({"num_shards": "7"}, 100, None, 7),
        ({}, 10_000, 10.0, 1),
        ({}, 10_000, 3 * 3600.0, 3),
        ({"target_hours": 0.5}, 10_000, 3 * 3600.0, 6),
        ({}, 10_000, 1e9, MOST_AUTO_SHARDS),
        ({}, 2, 1e9, 2),
        ({}, 0, 0.0, 1),
    ],
)
def test_the_number_of_shards(wish, rows, seconds, expected):
    assert ShardingConfig(**wish).shards(rows, seconds) == expected


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"num_shards": "many"}, "num_shards is no number"),
        ({"num_shards": "0"}, "num_shards is no number"),
        ({"num_shards": "1001"}, "num_shards is no number"),
        ({"shard_parallelism": -1}, "shard_parallelism is negative"),
        ({"target_hours": 0.0}, "shard_target_hours is no positive number"),
        ({"cpu": "two"}, "resources_cpu is no amount"),
        ({"cpu": "0"}, "resources_cpu is no amount"),
    ],
)
def test_a_wish_that_cannot_be(wish, message):
    with pytest.raises(ConfigurationError, match=message):
        ShardingConfig(**wish)


def test_auto_without_the_model_s_size_asks_for_a_number():
    with pytest.raises(ConfigurationError, match="needs the model's size"):
        ShardingConfig().shards(10, None)


def test_the_shards_of_the_pods():
    assert ShardingConfig(shard_parallelism=3).pods(8) == [range(0, 8, 3), range(1, 8, 3), range(2, 8, 3)]
    assert ShardingConfig().pods(2) == [range(0, 2, 2), range(1, 2, 2)]
    assert len(ShardingConfig(shard_parallelism=9).pods(2)) == 2


def test_an_estimate_of_time():
    assert eager_seconds(1e6 * 270_000_000, "AVX512-BF16", parse_cpus("2")) == pytest.approx(1286, rel=0.01)
    assert eager_seconds(1e6 * 270_000_000, "AVX512-BF16", parse_cpus("500m")) == pytest.approx(4 * 1286, rel=0.01)


def test_auto_takes_the_model_s_size_and_this_machine(make_job, caplog):
    with caplog.at_level("INFO", "kfp_llm_batch"):
        assert len(make_job(rows(30), "auto")[1].shards) == 1
    assert "one pod of 2 processors would take about 0.00 hours" in caplog.text
