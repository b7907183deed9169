"""A result against a dataset: nothing lost, nothing invented, source columns carried unchanged."""

import csv
import datetime as dt
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.errors import BatchError, ConfigurationError, DataError, ResultError
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.results.audit import audit_result
from kfp_llm_batch.results.dataset_comparison import DatasetComparison, compare_with_dataset
from kfp_llm_batch.results.publishing import publish_result

ROWS = [{"id": f"q{index}", "question": f"What is {index}?", "answer": index} for index in range(30)]
NAN = float("nan")

Row = dict[str, Any]
Answer = Callable[..., str]


def write(path: Path, rows: list[Row]) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def answer(tmp_path: Path) -> Answer:
    """Answers a dataset and publishes the result; gives its address."""

    def make(dataset: str, output: str | None = None, output_format: str = "parquet", **config: Any) -> str:
        rendering = {} if "prompt_messages_column" in config else {"prompt_template": "{{ question }}"}
        load_dataset(DatasetConfig(uri=dataset, **{**rendering, **config}), tmp_path / "prompts")
        generate(GenerationConfig(model_uri="echo://"), tmp_path / "prompts", tmp_path / "local")
        output = output or str(tmp_path / "output")
        publish_result(tmp_path / "local", output, output_format=output_format)
        return output

    return make


def compare(output: str, dataset: str) -> DatasetComparison:
    assert audit_result(output).ok
    return compare_with_dataset(output, dataset)


def problems(output: str, dataset: str, *, but_last: bool = True) -> list[str]:
    """All differences; a change of the dataset always ends with one about the fingerprint, which is cut off."""
    found = compare(output, dataset)
    assert not found.ok
    assert found.to_text().splitlines()[-len(found.problems) - 1] == f"Differences: {len(found.problems)}"
    if but_last:
        assert found.problems[-1].startswith("the dataset gives other rows, prompts or values")
    return list(found.problems[:-1] if but_last else found.problems)


@pytest.mark.parametrize("id_column", ["id", None])
@pytest.mark.parametrize("output_format", ["parquet", "jsonl", "openai"])
@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet"])
def test_the_same_dataset(answer, tmp_path, extension, output_format, id_column):
    dataset = write(tmp_path / f"d.{extension}", ROWS)
    output = answer(dataset, output_format=output_format, id_column=id_column)
    columns = "" if output_format == "openai" else ", column id, column question, column answer"
    assert compare(output, dataset).to_text().splitlines() == [
        f"Dataset: {dataset} (30 rows)",
        f"Compared: row ids, fingerprint{columns}",
        "The result holds exactly the rows of the dataset.",
    ]


def test_results_in_every_kind_of_store(answer, tmp_path, store_uri):
    dataset = write(tmp_path / "d.jsonl", ROWS)
    assert compare(answer(dataset, store_uri), dataset).ok
    assert problems(store_uri, write(tmp_path / "e.jsonl", ROWS[:-1])) == [
        "1 row of the result is not in the dataset: '29'"
    ]


HARD = [
    {
        "question": f"q{index}",
        "score": NAN if index % 2 else 0.5,
        "vector": [1.0, NAN, None],
        "nested": [{"x": [NAN], "when": index}],
        "pairs": [("a", NAN), ("b", 2.0)],
        "day": dt.date(2024, 1, index + 1),
        "raw": bytes([index]),
        "none": None,
    }
    for index in range(5)
]
HARD_SCHEMA = pa.schema(
    {
        "question": pa.large_string(),
        "score": pa.float16(),
        "vector": pa.list_(pa.float32(), 3),
        "nested": pa.list_(pa.struct({"x": pa.large_list(pa.float64()), "when": pa.timestamp("s")})),
        "pairs": pa.map_(pa.string(), pa.float64()),
        "day": pa.date64(),
        "raw": pa.binary(),
        "none": pa.null(),
    }
)


@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
def test_values_that_are_hard_to_compare(answer, tmp_path, output_format):
    """An Arrow file, since Parquet itself cannot hold seconds."""
    dataset = str(tmp_path / "d.arrow")
    rows = pa.Table.from_pylist(HARD, HARD_SCHEMA)
    with pa.ipc.new_file(dataset, HARD_SCHEMA) as file:
        file.write_table(rows)
    output = answer(dataset, output_format=output_format)
    assert compare(output, dataset).compared == tuple(HARD_SCHEMA.names)

    changed = [*HARD[:3], HARD[3] | {"nested": [{"x": [NAN], "when": -1}]}, HARD[4]]
    with pa.ipc.new_file(dataset, HARD_SCHEMA) as file:
        file.write_table(pa.Table.from_pylist(changed, HARD_SCHEMA))
    assert problems(output, dataset) == ["row '3': column nested differs"]


@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
@pytest.mark.parametrize("id_column", ["id", None])
def test_changed_values(answer, tmp_path, output_format, id_column):
    output = answer(write(tmp_path / "d.jsonl", ROWS), output_format=output_format, id_column=id_column)
    changes: dict[int, Row] = {3: {"answer": 99}, 7: {"question": "else", "answer": None}}
    other = write(tmp_path / "e.jsonl", [row | changes.get(index, {}) for index, row in enumerate(ROWS)])
    prefix = "q" if id_column else ""
    assert problems(output, other) == [
        f"row '{prefix}3': column answer differs",
        f"row '{prefix}7': columns question, answer differ",
    ]


def test_many_changed_values_are_counted(answer, tmp_path):
    output = answer(write(tmp_path / "d.jsonl", ROWS))
    found = problems(output, write(tmp_path / "e.jsonl", [row | {"answer": -1} for row in ROWS]))
    assert len(found) == 11
    assert found[-1] == "20 rows more differ"


@pytest.mark.parametrize("output_format", ["parquet", "jsonl", "openai"])
def test_rows_added_and_removed(answer, tmp_path, output_format):
    output = answer(write(tmp_path / "d.csv", ROWS[:-1]), output_format=output_format, id_column="id")
    assert problems(output, write(tmp_path / "e.csv", ROWS[1:])) == [
        "1 row of the dataset is not in the result: 'q29'",
        "1 row of the result is not in the dataset: 'q0'",
    ]
    assert problems(output, write(tmp_path / "e.csv", ROWS[15:])) == [
        "1 row of the dataset is not in the result: 'q29'",
        f"15 rows of the result are not in the dataset: {', '.join(repr(f'q{i}') for i in range(10))}, ...",
    ]


def test_a_dataset_without_any_common_row(answer, tmp_path):
    output = answer(write(tmp_path / "d.jsonl", ROWS), id_column="id")
    other = write(tmp_path / "e.jsonl", [row | {"id": f"x{index}" * 99} for index, row in enumerate(ROWS)])
    missing, foreign = problems(output, other)
    assert missing.startswith(f"30 rows of the dataset are not in the result: '{('x0' * 99)[:80]}...', 'x1")
    assert foreign.startswith("30 rows of the result are not in the dataset: 'q0', 'q1'")


def test_an_empty_dataset_and_an_empty_result(answer, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    output = answer(str(empty))
    assert compare(output, str(empty)).ok
    assert problems(output, write(tmp_path / "d.jsonl", ROWS))[0].startswith("30 rows of the dataset are not in")


def test_columns_that_came_and_went(answer, tmp_path):
    output = answer(write(tmp_path / "d.parquet", ROWS))
    others = [{"id": row["id"], "question": row["question"], "answer": str(row["answer"]), "more": 1} for row in ROWS]
    assert problems(output, write(tmp_path / "e.parquet", others)) == [
        "column answer holds int64 in the result, string in the dataset",
        "column more of the dataset is not in the result",
    ]
    assert problems(output, write(tmp_path / "e.parquet", [{"question": row["question"]} for row in ROWS])) == [
        "column id of the result is not in the dataset",
        "column answer of the result is not in the dataset",
    ]


def test_the_order_counts_where_rows_are_numbered(answer, tmp_path):
    """The fingerprint does not depend on the order, so that it is the columns that tell."""
    shuffled = write(tmp_path / "e.jsonl", ROWS[::-1])
    by_id = answer(write(tmp_path / "d.jsonl", ROWS), str(tmp_path / "by_id"), id_column="id")
    assert compare(by_id, shuffled).ok
    numbered = answer(write(tmp_path / "d.jsonl", ROWS), str(tmp_path / "numbered"))
    assert problems(numbered, shuffled, but_last=False)[0] == "row '0': columns id, question, answer differ"


def test_an_order_that_cannot_be_compared_is_said(answer, tmp_path):
    dataset = write(tmp_path / "d.jsonl", ROWS)
    output = answer(dataset, output_format="openai")
    note = "Not compared: the order of the rows, which are numbered"
    assert note not in compare(output, dataset).to_text()
    assert note in compare(output, write(tmp_path / "e.jsonl", ROWS[::-1])).to_text()


def test_prompts_that_changed_without_a_carried_column(answer, tmp_path):
    def with_messages(text: str) -> str:
        rows = [{"id": row["id"], "messages": [{"role": "user", "content": text}]} for row in ROWS]
        return write(tmp_path / f"{text}.jsonl", rows)

    output = answer(with_messages("hello"), id_column="id", prompt_messages_column="messages")
    assert compare(output, with_messages("hello")).ok
    assert problems(output, with_messages("good-bye")) == []


def test_the_recorded_parameters_are_used_again(answer, tmp_path):
    config = {
        "limit": 7,
        "id_column": "id",
        "prompt_system": "Be brief.",
        "prompt_examples": ({"user": "1?", "assistant": "1"},),
        "prompt_template": "Please: {{ question }}",
    }
    output = answer(write(tmp_path / "d.jsonl", ROWS), **config)
    found = compare(output, write(tmp_path / "e.csv", ROWS[:20]))
    assert (found.rows, found.problems[0]) == (7, "column answer holds int64 in the result, string in the dataset")
    assert compare(output, write(tmp_path / "e.jsonl", ROWS[:20])).ok


def change_manifest(output: str, **changes: object) -> None:
    path = Path(output, "manifest.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_result_edited_with_its_manifest(answer, tmp_path):
    """The audit cannot see it: files and manifest agree."""
    dataset = write(tmp_path / "d.jsonl", ROWS)
    output = answer(dataset, id_column="id")
    manifest = json.loads(Path(output, "manifest.json").read_text())
    (entry,) = manifest["parts"]
    path = Path(output, entry["path"])
    table = pq.read_table(path)
    answers = [0 if row["row_id"] == "q5" else row["answer"] for row in table.to_pylist()]
    pq.write_table(table.set_column(table.schema.get_field_index("answer"), "answer", pa.array(answers)), path)
    entry |= {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    change_manifest(output, parts=[entry])
    assert problems(output, dataset, but_last=False) == ["row 'q5': column answer differs"]


def test_a_result_edited_behind_the_audit(answer, tmp_path):
    dataset = write(tmp_path / "d.jsonl", ROWS)
    output = answer(dataset)
    (part,) = Path(output, "parts").iterdir()
    part.write_bytes(b"")
    with pytest.raises(ResultError, match="is not what the manifest says"):
        compare_with_dataset(output, dataset)


def test_a_partial_result_may_lack_rows_and_no_more(answer, tmp_path):
    dataset = write(tmp_path / "d.jsonl", ROWS)
    output = answer(write(tmp_path / "e.jsonl", ROWS[:20]), id_column="id")
    whole = answer(dataset, str(tmp_path / "whole"), id_column="id")
    recorded = json.loads(Path(whole, "manifest.json").read_text())["dataset"]
    change_manifest(output, is_partial=True, rows_in=30, dataset=recorded)

    found = compare(output, dataset)
    assert (found.ok, found.rows_left_out) == (True, 10)
    assert found.to_text().endswith("The result holds 20 of the 30 rows of the dataset, and no others.")
    foreign, _ = compare(output, write(tmp_path / "f.jsonl", ROWS[1:])).problems
    assert foreign == "1 row of the result is not in the dataset: 'q0'"


def test_the_parameters_are_recorded(tmp_path):
    examples = ({"user": "1?", "assistant": "1"},)
    config = DatasetConfig(
        uri=f"file://{write(tmp_path / 'd.jsonl', ROWS)}",
        prompt_template="{{ question }}",
        limit=3,
        prompt_examples=examples,
    )
    parameters = load_dataset(config, tmp_path / "out").parameters
    assert parameters == json.loads((tmp_path / "out/manifest.json").read_text())["parameters"]
    assert DatasetConfig(**parameters | {"prompt_examples": examples}) == config


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        (None, "it has no dataset.parameters"),
        ([], "it has no dataset.parameters"),
        ({}, "it has no dataset.parameters"),
        ({"uri": "d", "prompt_template": "x", "more": 1}, "more is of the wrong type"),
        ({"uri": "d", "prompt_template": "x", "more": "y"}, "unexpected keyword argument 'more'"),
        ({"uri": "d", "prompt_template": "x", "limit": 2.5}, "limit is of the wrong type"),
        ({"uri": "d", "prompt_template": 3}, "prompt_template is of the wrong type"),
    ],
)
def test_a_manifest_without_usable_parameters(answer, tmp_path, parameters, words):
    dataset = write(tmp_path / "d.jsonl", ROWS)
    output = answer(dataset)
    recorded = json.loads(Path(output, "manifest.json").read_text())["dataset"]
    change_manifest(output, dataset=recorded | {"parameters": parameters})
    with pytest.raises(ResultError, match=words):
        compare_with_dataset(output, dataset)


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("missing.jsonl", None, ConfigurationError),
        ("d.jsonl", '{"other": 1}\n', ConfigurationError),
        ("d.jsonl", "no JSON\n", DataError),
        ("d.parquet", "no Parquet", DataError),
        ("d.jsonl", '{"id": 1, "question": "a"}\n{"id": 1, "question": "b"}\n', DataError),
    ],
)
def test_a_dataset_that_cannot_be_read(answer, tmp_path, name, text, kind):
    output = answer(write(tmp_path / "first.jsonl", ROWS), id_column="id")
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(BatchError) as error:
        compare_with_dataset(output, str(tmp_path / name))
    assert type(error.value) is kind


def test_no_result(tmp_path):
    with pytest.raises(ResultError, match="There is no result at"):
        compare_with_dataset(str(tmp_path), "d.jsonl")
