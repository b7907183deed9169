"""The step itself: the Prompts contract, row ids, faults, fingerprints."""

import json
import logging
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kfp_llm_batch.dataset import batch_rendering
from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.errors import BatchError, ConfigurationError, DataError, StorageError
from kfp_llm_batch.manifests import PromptsManifest
from kfp_llm_batch.schemas import PROMPT_FIELDS


def load(folder: Path, text: str, *, name: str = "data.jsonl", **config: Any) -> PromptsManifest:
    (folder / name).write_text(text, encoding="utf-8")
    return load_dataset(DatasetConfig(uri=str(folder / name), **config), folder / "out")


def prompts(folder: Path) -> pa.Table:
    with pa.memory_map(str(folder / "shard-00000.arrow")) as source:
        return pa.ipc.open_file(source).read_all()


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_prompts_contract(tmp_path):
    manifest = load(
        tmp_path, lines({"q": "a", "n": 1}, {"q": "b", "n": 2}), prompt_template="Q {{ q }}", prompt_system="S"
    )
    table = prompts(tmp_path / "out")
    assert table.schema.equals(pa.schema([*PROMPT_FIELDS, pa.field("q", pa.string()), pa.field("n", pa.int64())]))
    assert table.to_pylist()[1] == {
        "row_id": "1",
        "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q b"}],
        "params": None,
        "fault": None,
        "q": "b",
        "n": 2,
    }
    assert manifest == PromptsManifest.from_json((tmp_path / "out/manifest.json").read_text(), "manifest")
    assert (manifest.rows, manifest.rows_with_faults, manifest.source_format) == (2, 0, "jsonl")
    assert [(shard.path, shard.rows) for shard in manifest.shards] == [("shard-00000.arrow", 2)]


def test_preview_is_short_ascii(tmp_path):
    load(tmp_path, lines(*({"q": "ü" * 600} for _ in range(30))), prompt_template="{{ q }}")
    preview = (tmp_path / "out/preview.jsonl").read_text(encoding="ascii").splitlines()
    assert len(preview) == 20
    assert json.loads(preview[0])["messages"][0]["content"] == "ü" * 500 + "... (600 characters)"


def test_columns_of_our_names_are_taken_over_when_told(tmp_path):
    row = {"row_id": 7, "messages": [{"role": "user", "content": "x"}], "params": {"seed": 3}, "more": "y"}
    load(tmp_path, lines(row), id_column="row_id", prompt_messages_column="messages")
    (stored,) = prompts(tmp_path / "out").to_pylist()
    assert stored == {
        "row_id": "7",
        "messages": row["messages"],
        "params": '{"seed": 3}',
        "fault": None,
        "more": "y",
    }


def test_openai_lines(tmp_path):
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}
    line = {"custom_id": "c-1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    embedding = {"custom_id": "c-2", "url": "/v1/embeddings", "body": {"input": "x"}}
    manifest = load(tmp_path, lines(line, embedding))
    first, second = prompts(tmp_path / "out").to_pylist()
    assert first == {"row_id": "c-1", "messages": body["messages"], "params": '{"max_tokens": 5}', "fault": None}
    assert second["fault"].startswith("bad_params: endpoint '/v1/embeddings'")
    assert (manifest.source_format, manifest.rows_with_faults) == ("openai", 1)


@pytest.mark.parametrize("name", ["data.jsonl", "data.json", "data.csv", "data.tsv"])
def test_empty_file_is_an_empty_dataset(tmp_path, name):
    manifest = load(tmp_path, "", name=name, prompt_template="{{ q }}", id_column="id")
    assert (manifest.rows, manifest.shards[0].rows) == (0, 0)
    assert prompts(tmp_path / "out").num_rows == 0
    assert (tmp_path / "out/preview.jsonl").read_text() == ""


def test_parquet_without_rows_is_an_empty_dataset(tmp_path):
    pq.write_table(pa.table({"q": pa.array([], pa.string())}), tmp_path / "a.parquet")
    config = DatasetConfig(uri=str(tmp_path / "a.parquet"), prompt_template="{{ q }}")
    assert load_dataset(config, tmp_path / "out").rows == 0
    assert prompts(tmp_path / "out").schema.names[-1] == "q"


def test_bad_rows_are_kept_counted_and_named(tmp_path, caplog):
    text = lines({"q": "good"}, {"q": " "}, {"q": "NUL \0"}) + '{"q": "half \\ud83d of"}\n{"q": "\\ud83d\\ude00"}\n'
    with caplog.at_level(logging.WARNING, "kfp_llm_batch"):
        manifest = load(tmp_path, text, prompt_template="{{ q }}")
    rows = prompts(tmp_path / "out").to_pylist()
    assert [row["fault"] and row["fault"].partition(":")[0] for row in rows] == [
        None,
        "empty_prompt",
        "bad_text",
        "bad_text",
        None,
    ]
    assert rows[3]["q"] == "half \ufffd of"
    assert rows[3]["fault"] == "bad_text: column 'q' holds half of a surrogate pair"
    assert rows[4]["messages"] == [{"role": "user", "content": "😀"}]
    assert all(row["messages"] == [] for row in rows[1:4])
    assert manifest.rows_with_faults == 3
    assert "3 of 5 rows are faulty" in caplog.text
    assert "row 2: empty_prompt: the prompt is empty; row 3: bad_text" in caplog.text


def test_surrogates_are_found_in_arrays_and_openai_lines(tmp_path):
    load(tmp_path, '[{"q": "ok"}, {"q": "\\ud800"}]', name="a.json", prompt_template="{{ q }}")
    assert prompts(tmp_path / "out").column("fault").to_pylist() == [
        None,
        "bad_text: column 'q' holds half of a surrogate pair",
    ]
    body = '{"custom_id": "%s", "body": {"messages": [{"role": "user", "content": "%s"}]}}\n'
    load(tmp_path, body % ("a", "x") + body % ("b", "\\udfff"))
    assert prompts(tmp_path / "out").column("fault").to_pylist()[1].startswith("bad_text: column 'body'")


def test_wholly_faulty_dataset_is_an_error_with_the_first_ten(tmp_path):
    with pytest.raises(DataError, match=r"Every row .* is faulty \(12 in all; .* row 1: empty_prompt") as caught:
        load(tmp_path, lines(*({"q": " "} for _ in range(12))), prompt_template="{{ q }}")
    assert "row 10:" in str(caught.value)
    assert "row 11:" not in str(caught.value)
    assert not (tmp_path / "out/manifest.json").exists()


STRUCTURAL = {
    "no such id column": (lines({"q": "a", "key": 1}), {"id_column": "kee"}, r"dataset_id_column.*Did you mean 'key'"),
    "same id": (lines({"q": "a"}, {"q": "b"}, {"q": "a"}), {"id_column": "q"}, r"Rows 1 and 3 .* same id .*'a'"),
    "null id": (lines({"q": "a", "i": 1}, {"q": "b"}), {"id_column": "i"}, r"Row 2 .* has no id in column 'i'.*None"),
    "empty id": (lines({"q": "a", "i": ""}), {"id_column": "i"}, r"Row 1 .* has no id in column 'i'.*''"),
    "our column": (lines({"q": "a", "status": 1}), {}, r"names this product uses for its own. Received: \['status'\]"),
    "fault column": (lines({"q": "a", "fault": 1}), {}, r"Received: \['fault'\]"),
    "long id": (lines({"q": "x" * 5_000}, {"q": "x" * 5_000}), {"id_column": "q"}, r"Rows 1 and 2 .* 'x{80}'\."),
    "template": (lines({"question": "a"}), {}, r"not columns of the dataset: q.*Allowed: question"),
}


@pytest.mark.parametrize(("text", "config", "message"), STRUCTURAL.values(), ids=STRUCTURAL)
def test_structural_faults_are_errors(tmp_path, text, config, message):
    with pytest.raises(BatchError, match=message):
        load(tmp_path, text, prompt_template="{{ q }}", **config)
    assert not (tmp_path / "out/manifest.json").exists()


def test_an_id_column_beside_openai_lines_is_refused(tmp_path):
    line = {"custom_id": "a", "body": {"messages": [{"role": "user", "content": "x"}]}}
    with pytest.raises(ConfigurationError, match=r"dataset_id_column does not apply to OpenAI .* Received: 'key'"):
        load(tmp_path, lines(line), id_column="key")


def test_repeated_custom_ids_are_errors(tmp_path):
    line = {"custom_id": "a", "body": {"messages": [{"role": "user", "content": "x"}]}}
    with pytest.raises(DataError, match=r"Rows 1 and 2 .* 'custom_id'"):
        load(tmp_path, lines(line, line))


def test_an_earlier_load_is_replaced(tmp_path):
    load(tmp_path, lines({"q": "a"}), prompt_template="{{ q }}")
    with pytest.raises(ConfigurationError):
        load(tmp_path, lines({"q": "a"}), prompt_template="{{ z }}")
    assert not (tmp_path / "out/manifest.json").exists()
    assert load(tmp_path, lines({"q": "b"}, {"q": "c"}), prompt_template="{{ q }}").rows == 2


def test_unwritable_folder_is_a_storage_error(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StorageError, match=r"Could not write .*out: .*A file stands where a folder should be"):
        load(tmp_path, lines({"q": "a"}), prompt_template="{{ q }}")


def contents(folder: Path) -> list[str]:
    return [row[0]["content"] for row in prompts(folder / "out").column("messages").to_pylist()]


def test_a_prompt_does_not_depend_on_other_rows(tmp_path):
    rows = {"q": 1, "meta": {"a": 1}}, {"q": 1.5, "meta": {"b": {}}}, {"meta": {"a": 2, "b": {"c": 1}}}
    load(tmp_path, lines(*rows), prompt_template="{{ q or '-' }} {{ meta | tojson }}")
    assert contents(tmp_path) == ['1 {"a": 1}', '1.5 {"b": {}}', '- {"a": 2, "b": {"c": 1}}']
    assert prompts(tmp_path / "out").column("q").to_pylist() == [1.0, 1.5, None]


def test_ids_are_those_of_the_data(tmp_path):
    load(tmp_path, lines({"q": "a", "i": 1}, {"q": "b", "i": 2.5}), prompt_template="{{ q }}", id_column="i")
    assert prompts(tmp_path / "out").column("row_id").to_pylist() == ["1", "2.5"]


@pytest.mark.parametrize("column", ["messages", "chat"])
def test_messages_and_params_may_differ_in_type(tmp_path, column):
    values: list[object] = ["a", [{"type": "text", "text": "b"}]]
    chats: list[object] = [[{"role": "user", "content": value}] for value in values]
    params = [{"stop": "x"}, {"stop": ["x"]}, None, None, '{"seed": 1}']
    rows = zip([*chats, json.dumps(chats[0]), None, 5], params, strict=True)
    load(tmp_path, lines(*({column: chat, "params": given} for chat, given in rows)), prompt_messages_column=column)
    stored = prompts(tmp_path / "out").to_pylist()
    assert [row["messages"] and row["messages"][0]["content"] for row in stored] == ["a", "b", "a", [], []]
    assert [row["params"] for row in stored] == ['{"stop": "x"}', '{"stop": ["x"]}', None, None, None]
    assert "messages must be a list, not int" in stored[4]["fault"]
    assert stored[1].get("chat") == (json.dumps(chats[1]) if column == "chat" else None)


def fingerprint(folder: Path, text: str, **config: Any) -> str:
    return load(folder, text, **{"prompt_template": "{{ q }}", **config}).fingerprint


def test_fingerprint_depends_on_the_rows_alone(tmp_path):
    a, b = {"q": "a", "t": "x"}, {"q": "b", "t": "y"}
    same = fingerprint(tmp_path, lines(a, b))
    assert same == fingerprint(tmp_path, lines(b, a))
    assert same == fingerprint(tmp_path, json.dumps([a, b]), name="a.json")
    assert same == fingerprint(tmp_path, "t,q\nx,a\ny,b\n", name="a.csv")
    different = [
        fingerprint(tmp_path, lines(a)),
        fingerprint(tmp_path, lines(a, b, b)),
        fingerprint(tmp_path, lines(a, b | {"t": "z"})),
        fingerprint(tmp_path, lines(a, b), prompt_template="{{ q }} "),
        fingerprint(tmp_path, lines(a, b), prompt_system="S"),
        fingerprint(tmp_path, lines(a, b), id_column="t"),
    ]
    assert len({same, *different}) == 7


def test_record_batches_are_bounded_in_rows_and_bytes(tmp_path):
    example = [{"user": "x" * 2**20, "assistant": "y"}]
    load(tmp_path, lines(*({"q": str(n)} for n in range(40))), prompt_template="{{ q }}", prompt_examples=example)
    with pa.memory_map(str(tmp_path / "out/shard-00000.arrow")) as source:
        reader = pa.ipc.open_file(source)
        sizes = [reader.get_batch(index).nbytes for index in range(reader.num_record_batches)]
    assert len(sizes) == 5
    assert max(sizes) < 10 * 2**20


def test_rows_without_columns_are_faulty_rows(tmp_path):
    with pytest.raises(DataError, match=r"Every row .* is faulty \(2 in all.*template_error"):
        load(tmp_path, "{}\n{}\n", prompt_template="{{ q }}")


def test_a_saved_dataset_has_only_its_own_split(tmp_path):
    datasets.Dataset.from_list([{"q": "a"}]).save_to_disk(tmp_path / "saved")
    config = DatasetConfig(uri=str(tmp_path / "saved"), prompt_template="{{ q }}", split="test")
    with pytest.raises(ConfigurationError, match=r"no such split. Received: 'test'. Allowed: train"):
        load_dataset(config, tmp_path / "out")


@pytest.mark.parametrize("id_column", [None, "id"])
def test_processes_write_the_same_bytes_as_one(tmp_path, monkeypatch, id_column):
    monkeypatch.setattr(batch_rendering, "_BATCHES_ALONE", 1)
    rows = [{"id": f"row-{number}", "q": "" if number in (7, 3_600) else f"q{number}"} for number in range(4_100)]
    manifests, shards = [], []
    for number in (1, 2):
        monkeypatch.setattr(batch_rendering, "worker_count", lambda number=number: number)
        manifests.append(load(tmp_path, lines(*rows), prompt_template="{{ q }}", id_column=id_column))
        shards.append((tmp_path / "out/shard-00000.arrow").read_bytes())
    assert manifests[0] == manifests[1]
    assert shards[0] == shards[1]
    assert (manifests[0].rows, manifests[0].rows_with_faults) == (4_100, 2)


def test_processes_find_ids_that_repeat_and_rows_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_rendering, "_BATCHES_ALONE", 1)
    monkeypatch.setattr(batch_rendering, "worker_count", lambda: 2)
    rows = [{"id": number % 3_500, "q": "x"} for number in range(4_000)]
    with pytest.raises(DataError, match=r"Rows 1 and 3501 \(counted from 1\) have the same id"):
        load(tmp_path, lines(*rows), prompt_template="{{ q }}", id_column="id")
    rows[3_000]["id"] = None
    with pytest.raises(DataError, match=r"Row 3001 \(counted from 1\) has no id"):
        load(tmp_path, lines(*rows), prompt_template="{{ q }}", id_column="id")
