"""Runs over a growing table that share their answers."""

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.engine.faults import VARIABLE as FAULTS
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.generation import reuse
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.manifests import ResultManifest
from kfp_llm_batch.results.audit import audit_result
from kfp_llm_batch.results.publishing import publish_result
from kfp_llm_batch.storage.object_store import open_store

Row = Mapping[str, Any]
Run = Callable[..., ResultManifest]


def table(rows: int) -> list[Row]:
    return [{"id": f"q{index}", "question": f"What is {index} and {index}?"} for index in range(rows)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Generates for a table, publishes to `tmp_path`/NAME, and audits what is there."""

    def run(name: str, rows: list[Row], reuse_uri: str | Path, output_format: str = "parquet", **changes: Any) -> Any:
        folder = tmp_path / f"of-{name}"
        folder.mkdir()
        dataset = folder / "rows.jsonl"
        dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = DatasetConfig(uri=str(dataset), prompt_template="{{ question }}", id_column="id")
        load_dataset(config, folder / "prompts")
        generation = GenerationConfig(
            **{"model_uri": "echo://", "output_uri": str(tmp_path / name), "reuse_uri": str(reuse_uri), **changes}
        )
        generate(generation, folder / "prompts", folder / "result")
        manifest = publish_result(folder / "result", str(tmp_path / name), output_format=output_format)
        report = audit_result(str(tmp_path / name))
        assert report.ok, report.to_text()
        return manifest

    return run


def answers(folder: Path) -> dict[str, Row]:
    return {row["row_id"]: row for row in pq.read_table(folder / "parts").to_pylist()}


def generated(manifest: ResultManifest) -> int:
    return manifest.num_completion_tokens - manifest.reused["completion_tokens"]


def test_only_new_and_changed_rows_are_answered_and_each_row_says_by_whom(run, tmp_path, store_uri):
    first = run("first", table(100), store_uri)
    grown = [*table(110), {"id": "again", "question": "What is 7 and 7?"}]
    grown[5] = {"id": "q5", "question": "What is five?"}
    second = run("second", grown, store_uri)

    assert (first.reused["rows"], second.reused["rows"]) == (0, 100)
    assert generated(second) <= 0.12 * generated(first)
    rows = answers(tmp_path / "second")
    made_before = {row_id for row_id, row in rows.items() if row["provenance"]}
    assert made_before == {f"q{index}" for index in range(100) if index != 5} | {"again"}
    assert rows["q8"]["provenance"] == {
        "run_id": first.run_id,
        "output_uri": str(tmp_path / "first"),
        "generated_at": first.created_at,
    }
    assert rows["q5"]["completion"] == "What is five?"

    third = run("third", grown, store_uri)
    assert (third.reused["rows"], generated(third)) == (111, 0)
    origins = {row["provenance"]["run_id"] for row in answers(tmp_path / "third").values()}
    assert origins == {first.run_id, second.run_id}, "who made an answer is kept, whoever hands it on"
    parts = [entry.key for entry in open_store(store_uri).list() if entry.key.endswith(".parquet")]
    assert len(parts) == 2, "what is reused is not stored again"


@pytest.mark.parametrize("output_format", ["jsonl", "openai"])
def test_other_formats_say_it_too(run, tmp_path, output_format):
    run("first", table(3), tmp_path / "shared")
    run("second", table(4), tmp_path / "shared", output_format=output_format)
    lines = [line for part in (tmp_path / "second/parts").iterdir() for line in part.read_text().splitlines()]
    rows = [json.loads(line) for line in lines]
    notes = [row["metadata"] if output_format == "openai" else row for row in rows]
    assert sorted(note["provenance"] is None for note in notes) == [False, False, False, True]


def test_other_settings_reuse_nothing(run, tmp_path):
    run("first", table(5), tmp_path / "shared")
    changed: tuple[dict[str, Any], ...] = (
        {"sampling": SamplingConfig(max_tokens=3)},
        {"sampling": SamplingConfig(temperature=0.7)},
        {"engine_dtype": "float32"},
        {"engine_options": {"quantization": "fp8"}},
        {"engine_options": {"max_model_len": 40}},
    )
    found = [run(f"run-{n}", table(5), tmp_path / "shared", **changes) for n, changes in enumerate(changed)]
    assert [manifest.reused["rows"] for manifest in found] == [0] * 5


def test_another_seed_reuses_nothing_and_the_same_one_all(run, tmp_path):
    seeds = (1, 2, 1)
    found = [
        run(f"run-{number}", table(5), tmp_path / "shared", sampling=SamplingConfig(temperature=0.5, seed=seed))
        for number, seed in enumerate(seeds)
    ]
    assert [manifest.reused["rows"] for manifest in found] == [0, 0, 5]


def test_another_model_under_the_same_name_reuses_nothing(run, tmp_path):
    """The folder is that of the name; the key of every answer is that of the weights, tokenizer and template."""
    run("first", table(5), tmp_path / "shared")
    change_parts(tmp_path / "shared", "request_key", lambda key: key[::-1])
    assert run("second", table(5), tmp_path / "shared").reused["rows"] == 0


def change_parts(folder: Path, column: str, change: Callable[[Any], Any]) -> None:
    """Rewrite a column of all parts, and name them by their new content."""
    for path in list(folder.rglob("part-*.parquet")):
        content = pq.read_table(path)
        index = content.schema.get_field_index(column)
        values = [change(value) for value in content[column].to_pylist()]
        path.unlink()
        changed = path.with_name("changed")
        pq.write_table(content.set_column(index, content.schema.field(index), [values]), changed)
        changed.rename(path.with_name(f"part-{hashlib.sha256(changed.read_bytes()).hexdigest()[:32]}.parquet"))


def test_rows_without_an_answer_are_asked_again(run, tmp_path, monkeypatch):
    rows = [*table(6), {"id": "empty", "question": " "}]
    monkeypatch.setenv(FAULTS, json.dumps({"SIGKILL": [list(b"is 3")]}))
    first = run("first", rows, tmp_path / "shared")
    monkeypatch.delenv(FAULTS)
    second = run("second", rows, tmp_path / "shared")
    assert (first.rows_by_status["failed"], first.rows_by_status["invalid"]) == (1, 1)
    assert (second.rows_by_status["ok"], second.rows_by_status["invalid"], second.reused["rows"]) == (6, 1, 5)


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_part_is_noticed_and_answered_anew_once(run, tmp_path, damage, caplog):
    run("first", table(30), tmp_path / "shared")
    (part,) = (tmp_path / "shared").rglob("part-*.parquet")
    data = bytearray(part.read_bytes())
    data[len(data) // 3] ^= 1
    part.write_bytes(data if damage == "flipped" else data[:100])
    assert run("second", table(30), tmp_path / "shared").reused["rows"] == 0
    assert f"{part.name} at {part.parent} is damaged" in caplog.text
    assert run("third", table(30), tmp_path / "shared").reused["rows"] == 30


def test_runs_side_by_side_share_without_losing_answers(run, tmp_path):
    names = [f"run-{number}" for number in range(4)]
    threads = [
        threading.Thread(target=run, args=(name, table(20 + 10 * number), tmp_path / "shared"))
        for number, name in enumerate(names)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert run("last", table(50), tmp_path / "shared").reused["rows"] == 50


def test_parts_are_joined_up_to_a_size(run, tmp_path, monkeypatch):
    monkeypatch.setattr("kfp_llm_batch.generation.parts.ROWS_PER_PART", 10)
    run("one", table(100), tmp_path / "joined")
    monkeypatch.setattr(reuse, "BYTES_PER_PART", 1)
    run("two", table(100), tmp_path / "split")
    counts = [len(list((tmp_path / name).rglob("part-*.parquet"))) for name in ("joined", "split")]
    assert counts == [1, 10]
    assert run("three", table(100), tmp_path / "split").reused["rows"] == 100


def test_rows_of_a_result_that_is_tried_again_say_whose_they_are(run, tmp_path):
    rows = [*table(3), {"id": "empty", "question": " "}]
    first = run("first", rows, tmp_path / "shared")
    second = run("second", rows, tmp_path / "other", retry_of=str(tmp_path / "first"))
    assert (second.reused["rows"], second.retry_of["rows"]) == (3, 3)
    assert answers(tmp_path / "second")["q0"]["provenance"]["run_id"] == first.run_id


@pytest.mark.parametrize(("params", "options"), [({"temperature": 9}, {}), (None, {"max_model_len": 20})])
def test_a_faulty_row_takes_no_answer_of_a_sound_one(run, tmp_path, params, options):
    run("first", [{"id": "a", "question": "the same for all"}, {"id": "b", "question": "other"}], tmp_path / "shared")
    rows = [
        {"id": "a", "question": "the same for all"},
        {"id": "faulty", "question": "the same for all", "params": params},
        {"id": "new", "question": "new"},
    ]
    second = run("second", rows, tmp_path / "shared", engine_options=options)
    # What is too long is so for both of the same words.
    assert second.rows_by_status["invalid"] == (1 if params else 2)
    answered = {row_id for row_id, row in answers(tmp_path / "second").items() if row["completion"]}
    assert answered == ({"a", "new"} if params else {"new"})


def test_where_nothing_can_be_shared_is_known_before_any_work(run, tmp_path):
    with pytest.raises(ConfigurationError, match="scheme"):
        run("first", table(3), "ftp://somewhere")


def test_what_a_result_says_of_reuse_is_audited(run, tmp_path):
    run("first", table(3), tmp_path / "shared")
    run("second", table(4), tmp_path / "shared")
    path = tmp_path / "second/manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "reused": {"rows": 2, "completion_tokens": 1}}))
    (problem,) = audit_result(str(tmp_path / "second")).problems
    assert "reused is {'rows': 2, 'completion_tokens': 1}, the parts hold {'rows': 3," in problem
