import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kfp_llm_batch.errors import ConfigurationError, DataError, StorageError
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.manifests import ResultManifest
from kfp_llm_batch.results.audit import audit_result
from kfp_llm_batch.results.publishing import publish_result

TOO_LONG = "q" * 9_000
"""More than the echo model takes."""


def run(prompts: Path, folder: Path, **changes: Any) -> ResultManifest:
    return generate(GenerationConfig(model_uri="echo://", **changes), prompts, folder)


def rows_of(folder: Path, manifest: ResultManifest) -> list[dict[str, Any]]:
    tables = [pq.read_table(folder / part.path) for part in manifest.parts]
    return pa.concat_tables(tables).sort_by("row_id").to_pylist() if tables else []


def assert_is_whole(folder: Path, manifest: ResultManifest, rows: int) -> None:
    assert manifest.rows_in == manifest.rows_out == rows
    report = audit_result(str(folder))
    assert report.problems == ()
    assert report.rows == rows


@pytest.mark.parametrize("count", [0, 1, 2_500], ids=["none", "one", "several-parts"])
def test_every_row_is_answered(make_prompts, tmp_path, count):
    questions = [f"question {index}" for index in range(count)]
    prompts = make_prompts(
        [{"id": f"{index:05d}", "question": text} for index, text in enumerate(questions)], id_column="id"
    )
    manifest = run(prompts, tmp_path / "result")
    assert_is_whole(tmp_path / "result", manifest, count)
    rows = rows_of(tmp_path / "result", manifest)
    assert [row["completion"] for row in rows] == questions
    assert [row["question"] for row in rows] == questions
    assert manifest.rows_by_status == {"ok": count, "truncated": 0, "invalid": 0, "failed": 0}
    assert manifest.num_completion_tokens == sum(map(len, questions))


def test_an_empty_dataset_starts_no_engine(make_prompts, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        manifest = run(make_prompts([]), tmp_path / "result")
    assert (manifest.parts, manifest.errors) == ((), ())
    assert "The engine is ready" not in caplog.text


def test_identical_requests_are_answered_once_and_written_for_each(make_prompts, tmp_path):
    prompts = make_prompts([{"question": "same", "n": index} for index in range(10)] + [{"question": "other"}])
    manifest = run(prompts, tmp_path / "result")
    assert_is_whole(tmp_path / "result", manifest, 11)
    rows = rows_of(tmp_path / "result", manifest)
    assert len({row["row_id"] for row in rows}) == 11
    assert len({row["request_key"] for row in rows}) == 2
    assert sorted(row["n"] for row in rows if row["completion"] == "same") == list(range(10))


def test_invalid_rows_are_recorded_beside_the_good_ones(make_prompts, tmp_path):
    rows = [
        {"question": "good", "tag": "a"},
        {"question": " ", "tag": "b"},
        {"question": TOO_LONG, "tag": "c"},
        {"question": "bad", "params": {"max_tokens": -1}, "tag": "d"},
        {"question": "cut", "params": {"max_tokens": 2}, "tag": "e"},
    ]
    manifest = run(make_prompts(rows), tmp_path / "result")
    assert_is_whole(tmp_path / "result", manifest, 5)
    assert manifest.rows_by_status == {"ok": 1, "truncated": 1, "invalid": 3, "failed": 0}
    found = rows_of(tmp_path / "result", manifest)
    assert [row["tag"] for row in found] == list("abcde")
    assert [row["error"] and row["error"]["code"] for row in found] == [
        None,
        "empty_prompt",
        "prompt_too_long",
        "bad_params",
        None,
    ]
    assert (found[4]["completion"], found[4]["truncated_by"]) == ("cu", "max_tokens")
    errors = pa.concat_tables(pq.read_table(tmp_path / "result" / file.path) for file in manifest.errors)
    assert sorted(errors.column("tag").to_pylist()) == ["b", "c", "d"]


def test_a_folder_that_is_written_again_keeps_nothing_of_the_first_run(make_prompts, tmp_path):
    run(make_prompts([{"question": "good"}, {"question": " "}]), tmp_path / "result")
    manifest = run(make_prompts([{"question": "other"}], "others"), tmp_path / "result")
    assert_is_whole(tmp_path / "result", manifest, 1)


def test_the_context_cuts_an_answer_and_says_so(make_prompts, tmp_path):
    prompts = make_prompts([{"question": "q" * 60}])
    manifest = run(prompts, tmp_path / "result", engine_options={"max_model_len": 100})
    (row,) = rows_of(tmp_path / "result", manifest)
    assert (row["status"], row["truncated_by"]) == ("truncated", "context")
    assert row["num_prompt_tokens"] + row["num_completion_tokens"] == 100


def test_a_dataset_without_any_answerable_row_is_an_error(make_prompts, tmp_path):
    prompts = make_prompts([{"question": TOO_LONG}, {"question": TOO_LONG}])
    with pytest.raises(
        DataError,
        match=r"2 of 2 rows have no answer \(max_error_rate is 1\): 2 prompt_too_long, the first row '0': The",
    ):
        run(prompts, tmp_path / "result")
    assert not (tmp_path / "result/manifest.json").exists()


def test_several_samples_per_row(make_prompts, tmp_path):
    prompts = make_prompts([{"question": "same"}, {"question": "same"}, {"question": "other"}])
    manifest = run(prompts, tmp_path / "result", sampling=SamplingConfig(n=3, temperature=0.8, seed=7))
    assert_is_whole(tmp_path / "result", manifest, 3)
    first, second, other = rows_of(tmp_path / "result", manifest)
    assert [len(row["outputs"]) for row in (first, second, other)] == [3, 3, 3]
    assert (first["completion"], first["outputs"][2]["text"]) == ("same", "same")
    assert first["num_completion_tokens"] == 3 * len("same")
    assert first["seed"] == second["seed"] != other["seed"]


def test_the_same_run_twice_gives_the_same_files(make_prompts, tmp_path):
    prompts = make_prompts([{"question": f"question {index % 40}"} for index in range(100)])
    one, two = run(prompts, tmp_path / "one"), run(prompts, tmp_path / "two")
    assert (one.parts, one.keys_checksum) == (two.parts, two.keys_checksum)


def test_the_manifest_says_what_was_done(make_prompts, tmp_path):
    manifest = run(make_prompts([{"question": "q"}]), tmp_path / "result", sampling=SamplingConfig(stop=("x",)))
    assert manifest.model == {"uri": "echo://", "revision": None, "digest": "echo"}
    assert manifest.sampling["stop"] == ("x",)
    assert manifest.dataset["rows"] == 1
    assert all(setting["reason"] for kind in manifest.engine.values() for setting in kind.values())
    assert {"kfp-llm-batch", "python"} <= manifest.versions.keys()
    assert {"prepare", "load", "generate"} == manifest.timings_seconds.keys()
    stored = ResultManifest.from_json((tmp_path / "result/manifest.json").read_text(), "stored")
    assert stored.to_json() == manifest.to_json()


@pytest.fixture
def published(make_prompts, tmp_path) -> tuple[Path, str]:
    """Prompts whose result stands at an address."""
    prompts = make_prompts([{"question": "one"}, {"question": "two"}])
    run(prompts, tmp_path / "first")
    output = str(tmp_path / "output")
    publish_result(tmp_path / "first", output)
    return prompts, output


def test_a_result_of_the_same_requests_is_reused(published, tmp_path, caplog):
    prompts, output = published
    with caplog.at_level(logging.INFO):
        manifest = run(prompts, tmp_path / "second", output_uri=output)
    assert "nothing is generated" in caplog.text
    assert "The engine is ready" not in caplog.text
    assert_is_whole(tmp_path / "second", manifest, 2)
    assert publish_result(tmp_path / "second", output) == manifest


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling": SamplingConfig(max_tokens=3)},
        {"output_format": "jsonl"},
        {"engine_dtype": "float32"},
    ],
    ids=["sampling", "format", "dtype"],
)
def test_another_result_at_the_output_is_refused_before_the_engine_starts(published, tmp_path, caplog, changes):
    prompts, output = published
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(ConfigurationError, match=r"Another result stands.*2 rows of model echo://.*output_overwrite"),
    ):
        run(prompts, tmp_path / "second", output_uri=output, **changes)
    assert "Loading the model" not in caplog.text


def test_overwriting_generates_anew(published, tmp_path, caplog):
    prompts, output = published
    with caplog.at_level(logging.INFO):
        run(prompts, tmp_path / "second", output_uri=output, output_overwrite=True)
    assert "The engine is ready" in caplog.text


def test_a_destination_that_cannot_be_written_is_found_first(make_prompts, tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.INFO), pytest.raises(StorageError, match="A file stands where a folder should be"):
        run(make_prompts([{"question": "q"}]), tmp_path / "result", output_uri=str(tmp_path / "file"))
    assert "requests" not in caplog.text


def test_other_rows_than_those_of_a_result_are_another_result(published, make_prompts, tmp_path):
    _, output = published
    with pytest.raises(ConfigurationError, match="Another result stands"):
        run(make_prompts([{"question": "one"}], "fewer"), tmp_path / "second", output_uri=output)


def test_changed_source_columns_are_another_result(make_prompts, tmp_path):
    run(make_prompts([{"question": "q", "label": "old"}], "old"), tmp_path / "first")
    publish_result(tmp_path / "first", str(tmp_path / "output"))
    changed = make_prompts([{"question": "q", "label": "new"}], "new")
    with pytest.raises(ConfigurationError, match="Another result stands"):
        run(changed, tmp_path / "second", output_uri=str(tmp_path / "output"))


def test_an_answer_that_the_context_cuts_has_a_key_of_its_own(make_prompts, tmp_path):
    prompts = make_prompts([{"question": "a question of some length"}])
    keys = [
        rows_of(tmp_path / name, run(prompts, tmp_path / name, engine_options=options))[0]["request_key"]
        for name, options in (("cut", {"max_model_len": 40}), ("long", {}), ("longer", {"max_model_len": 4000}))
    ]
    assert keys[0] != keys[1] == keys[2]


def test_a_row_that_kills_the_engine_is_recorded_and_the_others_are_answered(make_prompts, tmp_path, monkeypatch):
    monkeypatch.setenv("KFP_LLM_BATCH_FAULTS", json.dumps({"SIGKILL": [list(b"poison")]}))
    prompts = make_prompts([{"question": "poison" if number == 13 else f"text {number}"} for number in range(40)])
    manifest = run(prompts, tmp_path / "result")
    assert_is_whole(tmp_path / "result", manifest, 40)
    assert manifest.rows_by_status == {"ok": 39, "truncated": 0, "invalid": 0, "failed": 1}
    (failure,) = pq.read_table(tmp_path / "result" / manifest.errors[0].path).to_pylist()
    assert (failure["question"], failure["error"]["code"]) == ("poison", "engine_killed")
    assert manifest.timings_seconds["engine_restarts"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine_device": "gpu"}, r"Unknown engine_device. Received: 'gpu'. Allowed: auto, cpu, cuda"),
        ({"engine_device": "cuda"}, r"The installed vLLM is a CPU build"),
        ({"engine_dtype": "bf16"}, r"Unknown engine_dtype. Received: 'bf16'"),
        ({"output_format": "csv"}, r"output_format is unknown. Received: 'csv'"),
        ({"engine_options": {"max_model_len": "8k"}}, "max_model_len is no positive whole number"),
        ({"engine_options": {"max_model_len": 0}}, "max_model_len is no positive whole number"),
        ({"engine_options": {"max_num_seqs": "8"}}, "max_num_seqs is no positive whole number"),
        ({"engine_options": {"model": "/elsewhere"}}, "engine_options cannot set model"),
        ({"engine_options": {"hf_overrides": float("nan")}}, "engine_options is not JSON"),
    ],
    ids=["device", "cuda", "dtype", "format", "length-text", "length-zero", "count", "model", "nan"],
)
def test_the_configuration_checks_itself(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        GenerationConfig(model_uri="echo://", **changes)


def test_openai_lines_are_answered_with_their_own_parameters(tmp_path, make_prompts):
    lines = [
        {"custom_id": "a", "body": {"messages": [{"role": "user", "content": "hello"}], "max_completion_tokens": 2}},
        {"custom_id": "b", "body": {"messages": [{"role": "user", "content": "hello"}], "n": 2, "temperature": 1}},
        {"custom_id": "c", "body": {"messages": [{"role": "user", "content": "hello"}], "tools": [{}]}},
    ]
    rows = [{"method": "POST", "url": "/v1/chat/completions", **json.loads(json.dumps(line))} for line in lines]
    prompts = make_prompts(rows, prompt_template=None, format="openai")
    manifest = run(prompts, tmp_path / "result")
    first, second, third = rows_of(tmp_path / "result", manifest)
    assert (first["row_id"], first["completion"]) == ("a", "he")
    assert [output["text"] for output in second["outputs"]] == ["hello", "hello"]
    assert (third["status"], third["error"]["code"]) == ("invalid", "bad_params")
