import hashlib
import random
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.generation import parts
from kfp_llm_batch.generation.parts import PartWriter, part_seconds
from kfp_llm_batch.schemas import COMPLETION_FIELDS


def completion(number: int, *, status: str = "ok", text: str | None = None) -> dict[str, object]:
    is_answered = status in ("ok", "truncated")
    text = f"answer {number}" if text is None else text
    return {
        "row_id": str(number),
        "request_key": f"{number:064x}",
        "status": status,
        "completion": text if is_answered else None,
        "outputs": [{"text": text, "finish_reason": "stop", "num_tokens": 2}] if is_answered else None,
        "finish_reason": "stop" if is_answered else None,
        "truncated_by": None,
        "num_prompt_tokens": 5 if is_answered else None,
        "num_completion_tokens": 2 if is_answered else 0,
        "seed": None,
        "error": None if is_answered else {"code": "bad", "message": "it is"},
    }


@pytest.fixture
def prompts(make_prompts) -> Prompts:
    rows = [
        {"question": f"q{index}", "tags": [f"t{index}", "x"], "origin": {"page": index, "notes": [{"a": 1.5}]}}
        for index in range(2_500)
    ]
    return Prompts(make_prompts(rows))


def test_rows_per_part(prompts, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "ROWS_PER_PART", 1_000)
    writer = PartWriter(tmp_path / "result", prompts)
    for number in range(2_500):
        writer.add(number, completion(number))
    writer.flush()
    assert [(part.path, part.rows) for part in writer.parts] == [
        ("parts/part-00000.parquet", 1_000),
        ("parts/part-00001.parquet", 1_000),
        ("parts/part-00002.parquet", 500),
    ]
    assert writer.errors == []
    assert not (tmp_path / "result/errors").exists()
    assert (writer.num_prompt_tokens, writer.num_completion_tokens) == (12_500, 5_000)


def test_a_part_is_closed_early_when_its_text_is_large(prompts, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "BYTES_PER_PART", 1_000_000)
    writer = PartWriter(tmp_path / "result", prompts)
    for number in range(25):
        writer.add(number, completion(number, text="x" * 100_000))
    writer.flush()
    assert [part.rows for part in writer.parts] == [10, 10, 5]


def test_the_manifest_entries_are_those_of_the_files(prompts, tmp_path):
    writer = PartWriter(tmp_path / "result", prompts)
    writer.add(0, completion(0))
    writer.add(1, completion(1, status="invalid"))
    writer.flush()
    for file in (*writer.parts, *writer.errors):
        data = (tmp_path / "result" / file.path).read_bytes()
        assert (file.bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    names = sorted(str(path.relative_to(tmp_path / "result")) for path in (tmp_path / "result").rglob("*.*"))
    assert names == ["errors/errors-00000.parquet", "parts/part-00000.parquet"]


def test_faulty_rows_are_written_to_the_errors_as_well(prompts, tmp_path):
    writer = PartWriter(tmp_path / "result", prompts)
    statuses = ["ok", "invalid", "truncated", "failed"]
    for number in range(1_200):
        writer.add(number, completion(number, status=statuses[number % 4] if number < 8 else "ok"))
    writer.flush()
    assert [(file.path, file.rows) for file in writer.errors] == [("errors/errors-00000.parquet", 4)]
    errors = pq.read_table(tmp_path / "result" / writer.errors[0].path).to_pylist()
    rows = pq.read_table(tmp_path / "result" / writer.parts[0].path).to_pylist()
    assert errors == [row for row in rows if row["status"] in ("invalid", "failed")]
    assert writer.rows_by_status == {"ok": 1_194, "truncated": 2, "invalid": 2, "failed": 2}


def test_the_schema_is_declared_and_the_same_in_every_file(prompts, tmp_path):
    writer = PartWriter(tmp_path / "result", prompts)
    writer.add(0, completion(0, status="failed"))
    writer.flush()
    writer.add(1, completion(1))
    writer.flush()
    expected = pa.schema(
        [
            *COMPLETION_FIELDS,
            pa.field("question", pa.string()),
            pa.field("tags", pa.list_(pa.string())),
            pa.field(
                "origin",
                pa.struct([("page", pa.int64()), ("notes", pa.list_(pa.struct([("a", pa.float64())])))]),
            ),
        ]
    )
    for file in (*writer.parts, *writer.errors):
        assert pq.read_schema(tmp_path / "result" / file.path).equals(expected)


def test_rows_finished_out_of_order_keep_their_own_source_columns(prompts, tmp_path):
    writer = PartWriter(tmp_path / "result", prompts)
    numbers = list(range(2_500))
    random.Random(5).shuffle(numbers)
    for number in numbers:
        writer.add(number, completion(number))
    writer.flush()
    found = [row for part in writer.parts for row in pq.read_table(tmp_path / "result" / part.path).to_pylist()]
    assert sorted(int(row["row_id"]) for row in found) == list(range(2_500))
    for row in found:
        number = int(row["row_id"])
        assert row["completion"] == f"answer {number}"
        assert row["question"] == f"q{number}"
        assert row["tags"] == [f"t{number}", "x"]
        assert row["origin"] == {"page": number, "notes": [{"a": 1.5}]}


def test_rows_of_a_part_are_in_the_order_of_the_prompts(prompts, tmp_path):
    writer = PartWriter(tmp_path / "result", prompts)
    for number in (7, 3, 2_400, 5):
        writer.add(number, completion(number))
    writer.flush()
    table = pq.read_table(tmp_path / "result" / writer.parts[0].path)
    assert table.column("row_id").to_pylist() == ["3", "5", "7", "2400"]


def test_a_young_run_loses_a_third_at_most_and_an_old_one_a_minute():
    assert [part_seconds(age) for age in (0, 5, 20, 30, 90, 120, 121, 10**6)] == [10, 10, 10, 15, 45, 60, 60, 60]
    closed, parts_closed = 0.0, 0
    while closed < 600:
        seconds = part_seconds(closed)
        closed, parts_closed = closed + seconds, parts_closed + 1
        assert seconds <= max(10, closed / 3)
    assert parts_closed == 15


def test_the_first_part_is_closed_soon_and_taken_over_rows_do_not_count(prompts, tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    writer = PartWriter(tmp_path / "result", prompts)
    writer.add(0, completion(0))
    writer.flush()
    now += 500
    writer.keep_parts(lambda path, part: None)
    sizes: list[int] = []
    for seconds in (0, 9, 1, 5, 9, 1, 30, 20, 10):
        now += seconds
        writer.flush_if_old()
        writer.add(len(sizes) + 1, completion(len(sizes) + 1))
        sizes.append(len(writer.parts) - 1)
    assert sizes == [0, 0, 1, 1, 2, 2, 3, 3, 4]


def test_flushing_nothing_writes_nothing(prompts, tmp_path):
    writer = PartWriter(tmp_path / "result", prompts)
    writer.flush()
    assert writer.parts == []
    assert not (tmp_path / "result").exists()


def test_several_outputs_and_log_probabilities_survive(prompts, tmp_path):
    writer = PartWriter(tmp_path / "result", prompts)
    candidates = [[{"token_id": 1, "token": "a", "logprob": -0.5, "rank": 1}]]
    first = {"text": "a", "finish_reason": "stop", "stop_reason": "x", "num_tokens": 1}
    outputs = [{**first, "cumulative_logprob": -0.5, "logprobs": candidates}, {"text": "b"}]
    writer.add(0, {**completion(0), "outputs": outputs})
    writer.flush()
    (row,) = pq.read_table(tmp_path / "result" / writer.parts[0].path).to_pylist()
    assert row["outputs"][0] == outputs[0]
    assert row["outputs"][1]["text"] == "b"
    assert row["outputs"][1]["logprobs"] is None
