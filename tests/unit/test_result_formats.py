"""Source columns of every type have a JSON form."""

import datetime as dt
import decimal
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kfp_llm_batch.manifests import ResultManifest
from kfp_llm_batch.results.formats import write_part

_INSTANT = dt.datetime(2025, 1, 2, 3, 4, 5, 6000, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([1.5, float("inf"), None]), [1.5, None, None]),
        (pa.array([b"\xff"]), ["/w=="]),
        (pa.array([_INSTANT], pa.timestamp("us", "UTC")), ["2025-01-02T03:04:05.006000+00:00"]),
        (pa.array([1], pa.timestamp("ns")), ["1970-01-01 00:00:00.000000001"]),
        (pa.array([dt.date(2025, 1, 2)]), ["2025-01-02"]),
        (pa.array([dt.timedelta(seconds=1.5)]), [1.5]),
        (pa.array([1], pa.duration("ns")), ["1"]),
        (pa.array([decimal.Decimal("1.10")]), ["1.10"]),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8())), [[["a", 1]]]),
        (pa.array([{"a": [float("nan")]}]), [{"a": [None]}]),
        (pa.array(["a", "a"]).dictionary_encode(), ["a", "a"]),
        (pa.array(["\u2028 \x00 😀"]), ["\u2028 \x00 😀"]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_json_of_source_columns(values, expected, tmp_path: Path, make_result):
    path = tmp_path / "part.parquet"
    pq.write_table(pa.table({"x": values}), path)
    manifest = ResultManifest.from_json((make_result() / "manifest.json").read_bytes(), "x")
    once, twice = io.BytesIO(), io.BytesIO()
    write_part(path, manifest, "jsonl", once)
    write_part(path, manifest, "jsonl", twice)
    assert [json.loads(line)["x"] for line in once.getvalue().decode().split("\n")[:-1]] == expected
    assert once.getvalue() == twice.getvalue()


def test_openai_log_probabilities(tmp_path: Path, make_result):
    local = make_result(rows=1)
    part = local / "parts/part-00000.parquet"
    table = pq.read_table(part)
    row = table.to_pylist()[0]
    candidates = [
        {"token_id": 1, "token": "ü", "logprob": -0.5, "rank": 1},
        {"token_id": 2, "token": None, "logprob": float("-inf"), "rank": 2},
    ]
    row["outputs"][0]["logprobs"] = [candidates, []]
    pq.write_table(pa.Table.from_pylist([row], schema=table.schema), part)
    sink = io.BytesIO()
    write_part(part, ResultManifest.from_json((local / "manifest.json").read_bytes(), "x"), "openai", sink)
    choice = json.loads(sink.getvalue())["response"]["body"]["choices"][0]
    first = {"token": "ü", "bytes": [195, 188], "logprob": -0.5}
    second = {"token": None, "bytes": None, "logprob": None}
    assert choice["logprobs"] == {"content": [{**first, "top_logprobs": [first, second]}]}
