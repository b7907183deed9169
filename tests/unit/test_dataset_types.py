"""Arrow types of source columns: every one is carried as a type that later steps can handle, or refused by name."""

import io
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.dataset.sources import open_dataset
from kfp_llm_batch.errors import DataError

TEXTS = pa.array(["a", "b", "a"])
CODES = TEXTS.dictionary_encode()
RUNS = pa.RunEndEncodedArray.from_arrays([2, 3], pa.array(["a", "b"]))
LISTS = [["a"], ["b", None], ["c"]]
UUIDS = [uuid.UUID(int=number).bytes for number in range(3)]

CARRIED = {
    "dictionary": (CODES, pa.string(), ["a", "b", "a"]),
    "dictionary in list": (pa.ListArray.from_arrays([0, 1, 2, 3], CODES), pa.list_(pa.string()), [["a"], ["b"], ["a"]]),
    "dictionary in struct": (
        pa.StructArray.from_arrays([CODES], ["k"]),
        pa.struct({"k": pa.string()}),
        [{"k": "a"}, {"k": "b"}, {"k": "a"}],
    ),
    "run-ends": (RUNS, pa.string(), ["a", "a", "b"]),
    "run-ends in struct": (
        pa.StructArray.from_arrays([RUNS], ["k"]),
        pa.struct({"k": pa.string()}),
        [{"k": "a"}, {"k": "a"}, {"k": "b"}],
    ),
    "string view": (TEXTS.cast(pa.string_view()), pa.string(), ["a", "b", "a"]),
    "string view in list": (pa.array(LISTS, pa.list_(pa.string_view())), pa.list_(pa.string()), LISTS),
    "binary view": (pa.array([b"a", None, b"\xff"], pa.binary_view()), pa.binary(), [b"a", None, b"\xff"]),
    "list view": (pa.array(LISTS, pa.list_view(pa.string())), pa.list_(pa.string()), LISTS),
    "large list view": (pa.array(LISTS, pa.large_list_view(pa.string())), pa.large_list(pa.string()), LISTS),
    "map": (
        pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int32())),
        pa.map_(pa.string(), pa.int32()),
        [[("a", 1)]] * 3,
    ),
    "fixed list": (pa.array([[1, 2]] * 3, pa.list_(pa.int32(), 2)), pa.list_(pa.int32(), 2), [[1, 2]] * 3),
    "extension": (pa.ExtensionArray.from_storage(pa.uuid(), pa.array(UUIDS, pa.binary(16))), pa.binary(16), UUIDS),
    "null": (pa.nulls(3), pa.string(), [None] * 3),
    "null in list": (pa.array([[None], [], None], pa.list_(pa.null())), pa.list_(pa.string()), [[None], [], None]),
    "empty struct": (pa.array([{}, None, {}], pa.struct([])), pa.string(), ["{}", None, "{}"]),
    "empty struct in list": (pa.array([[{}], [], None], pa.list_(pa.struct([]))), pa.string(), ["[{}]", "[]", None]),
}


def write(path: Path, column: pa.Array) -> None:
    table = pa.table({"q": ["x", "y", "z"], "c": column})
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table)


def load(path: Path, folder: Path, **config: Any) -> pa.Table:
    load_dataset(DatasetConfig(uri=str(path), prompt_template="{{ q }}", **config), folder)
    with pa.memory_map(str(folder / "shard-00000.arrow")) as source:
        return pa.ipc.open_file(source).read_all()


@pytest.mark.parametrize(("column", "kind", "values"), CARRIED.values(), ids=CARRIED)
def test_columns_are_carried_with_plain_types(tmp_path, column, kind, values):
    write(tmp_path / "a.arrow", column)
    loaded = load(tmp_path / "a.arrow", tmp_path / "out")
    assert loaded.schema.field("c").type == kind
    assert loaded.column("c").to_pylist() == values
    stored = io.BytesIO()
    pq.write_table(loaded.take([2, 0]), stored)
    assert pq.read_table(stored).column("c").to_pylist() == [values[2], values[0]]


def test_batches_may_have_dictionaries_of_their_own(tmp_path):
    batches = [
        pa.record_batch({"q": [text], "c": pa.StructArray.from_arrays([pa.array([text]).dictionary_encode()], ["k"])})
        for text in ("a", "b")
    ]
    with pa.ipc.new_stream(tmp_path / "a.arrow", batches[0].schema) as file:
        for batch in batches:
            file.write_batch(batch)
    assert load(tmp_path / "a.arrow", tmp_path / "out").column("c").to_pylist() == [{"k": "a"}, {"k": "b"}]


DENSE = pa.UnionArray.from_dense(
    pa.array([0, 1, 0], pa.int8()), pa.array([0, 0, 1], pa.int32()), [pa.array([1, 2]), pa.array(["x"])]
)

REFUSED = {
    "union": (DENSE, "dense_union"),
    "union in struct": (pa.StructArray.from_arrays([DENSE], ["k"]), "dense_union"),
    "interval": (pa.array([pa.MonthDayNano([1, 2, 3])] * 3), "month_day_nano_interval"),
    "interval in list": (pa.array([[pa.MonthDayNano([1, 2, 3])]] * 3), "month_day_nano_interval"),
}


@pytest.mark.parametrize(("column", "kind"), REFUSED.values(), ids=REFUSED)
def test_other_types_are_refused_with_their_column(tmp_path, column, kind):
    write(tmp_path / "a.arrow", column)
    with pytest.raises(DataError, match=rf"a.arrow: column 'c' has a type that cannot be stored. Received: '{kind}"):
        load(tmp_path / "a.arrow", tmp_path / "out")


@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}")], ids=["lists", "objects"])
@pytest.mark.parametrize("depth", [64, 200, 450, 900])
def test_deep_nesting_is_refused_with_its_column(tmp_path, depth, brackets):
    start, end = brackets
    (tmp_path / "a.jsonl").write_text(f'{{"q": "a", "c": {start * depth}1{end * depth}}}\n')
    with pytest.raises(DataError, match=r"[Cc]olumn 'c' (cannot be stored|is nested too deeply)") as caught:
        load(tmp_path / "a.jsonl", tmp_path / "out")
    assert len(str(caught.value)) < 1_000


def test_invalid_bytes_of_a_column_are_replaced_and_reported(tmp_path):
    raw = pa.array([b"good", b"bad \xff", None, b""]).view(pa.string())
    pq.write_table(pa.table({"q": raw}), tmp_path / "a.parquet")
    (batch,) = open_dataset(DatasetConfig(uri=str(tmp_path / "a.parquet")), tmp_path).batches()
    assert batch.table.column("q").to_pylist() == ["good", "bad \ufffd", None, ""]
    assert batch.faults == {1: "column 'q' holds bytes that are not UTF-8"}


def test_columns_without_values_take_the_type_of_other_files(tmp_path):
    tables = {"a": pa.array([1]), "b": pa.nulls(1), "c": pa.array([1.5])}
    for name, column in tables.items():
        pq.write_table(pa.table({"n": column, "never": pa.nulls(1)}), tmp_path / f"{name}.parquet")
    source = open_dataset(DatasetConfig(uri=str(tmp_path)), tmp_path)
    assert source.schema.types == [pa.float64(), pa.string()]
    assert [batch.table.column("n").to_pylist() for batch in source.batches()] == [[1.0], [None], [1.5]]
