"""The same rows out of every format, and the message of every kind of broken file."""

import gzip
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from kfp_llm_batch.dataset.config import DatasetConfig
from kfp_llm_batch.dataset.sources import open_dataset
from kfp_llm_batch.errors import BatchError, ConfigurationError, DataError, StorageError

Rows = Sequence[Mapping[str, Any]]

ROWS: Rows = [
    {"id": "007", "question": "Zwölf, \u2028 or\n12?"},
    {"id": "8", "question": ""},
    {"id": "9", "question": "🦜"},
]


def as_jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_csv(rows: Rows, delimiter: str = ",") -> bytes:
    lines = [delimiter.join(rows[0])] + [delimiter.join(f'"{value}"' for value in row.values()) for row in rows]
    return ("\n".join(lines) + "\n").encode()


def write_parquet(path: Path, rows: Rows) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_arrow(path: Path, rows: Rows) -> None:
    with pa.ipc.new_file(path, pa.Table.from_pylist(rows).schema) as file:
        file.write_table(pa.Table.from_pylist(rows))


def write_arrow_stream(path: Path, rows: Rows) -> None:
    with pa.ipc.new_stream(path, pa.Table.from_pylist(rows).schema) as file:
        file.write_table(pa.Table.from_pylist(rows))


def compressed_parquet(path: Path, rows: Rows) -> None:
    write_parquet(path, rows)
    path.write_bytes(gzip.compress(path.read_bytes()))


def write_saved(path: Path, rows: Rows) -> None:
    datasets.Dataset.from_list(rows).save_to_disk(path)


def write_saved_splits(path: Path, rows: Rows) -> None:
    datasets.DatasetDict({"only": datasets.Dataset.from_list(rows)}).save_to_disk(path)


WRITERS: dict[str, Callable[[Path, Rows], object]] = {
    "data.jsonl": lambda path, rows: path.write_bytes(as_jsonl(rows)),
    "bom.jsonl": lambda path, rows: path.write_bytes(b"\xef\xbb\xbf" + as_jsonl(rows)),
    "data.ndjson.gz": lambda path, rows: path.write_bytes(gzip.compress(as_jsonl(rows))),
    "data.jsonl.zst": lambda path, rows: path.write_bytes(zstandard.compress(as_jsonl(rows))),
    "data.json": lambda path, rows: path.write_text(json.dumps(rows)),
    "data.csv": lambda path, rows: path.write_bytes(as_csv(rows)),
    "bom.csv": lambda path, rows: path.write_bytes(b"\xef\xbb\xbf" + as_csv(rows)),
    "data.csv.gz": lambda path, rows: path.write_bytes(gzip.compress(as_csv(rows))),
    "data.tsv": lambda path, rows: path.write_bytes(as_csv(rows, "\t")),
    "data.parquet": write_parquet,
    "data.parquet.gz": compressed_parquet,
    "data.arrow": write_arrow,
    "stream.arrow": write_arrow_stream,
    "saved": write_saved,
    "saved_splits": write_saved_splits,
}


def read(uri: Path, folder: Path, **config: Any) -> Rows:
    source = open_dataset(DatasetConfig(uri=str(uri), **config), folder)
    batches = list(source.batches())
    assert all(batch.table.schema.equals(source.schema) for batch in batches)
    return [row for batch in batches for row in batch.table.to_pylist()]


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path, name):
    WRITERS[name](tmp_path / name, ROWS)
    assert read(tmp_path / name, tmp_path) == ROWS


@pytest.mark.parametrize("name", WRITERS)
def test_limit_holds_for_every_format(tmp_path, name):
    WRITERS[name](tmp_path / name, ROWS)
    assert read(tmp_path / name, tmp_path, limit=2) == ROWS[:2]


def test_limit_does_not_read_further(tmp_path):
    (tmp_path / "data.jsonl").write_bytes(as_jsonl(ROWS) + b"this is no JSON\n")
    assert read(tmp_path / "data.jsonl", tmp_path, limit=3) == ROWS


def test_explicit_format_reads_a_file_without_extension(tmp_path):
    (tmp_path / "part-0").write_bytes(as_jsonl(ROWS))
    assert read(tmp_path / "part-0", tmp_path, format="jsonl") == ROWS


def test_folder_reads_all_files_of_its_format_and_passes_over_others(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(ROWS[:1]))
    (tmp_path / "deep" / "b.jsonl.gz").write_bytes(gzip.compress(as_jsonl(ROWS[1:])))
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".a.jsonl.crc").write_bytes(b"x")
    assert read(tmp_path, tmp_path) == ROWS


def test_folders_behind_links_are_read_and_loops_are_not(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.jsonl").write_bytes(as_jsonl(ROWS[:1]))
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    (dataset / "b.jsonl").write_bytes(as_jsonl(ROWS[1:]))
    (dataset / "a").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(dataset)
    assert read(dataset, tmp_path) == ROWS
    assert read(dataset / "*/*.jsonl", tmp_path) == ROWS[:1]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("*.jsonl", 1), ("**/*.jsonl", 3), ("deep/?.jsonl", 1), ("deep/[b-c]*.jsonl", 2), ("deep/[!c]*.jsonl", 1)],
)
def test_wildcards(tmp_path, pattern, expected):
    (tmp_path / "deep").mkdir()
    for name in ("a.jsonl", "deep/b.jsonl", "deep/cc.jsonl"):
        (tmp_path / name).write_bytes(as_jsonl(ROWS[:1]))
    assert len(read(tmp_path / pattern, tmp_path)) == expected


def test_columns_and_types_are_merged_over_all_rows(tmp_path):
    rows: list[dict[str, Any]] = [
        {"n": 1, "tags": []},
        {"n": 2.5, "tags": ["a"], "meta": {"a": 1}},
        {"late": "x", "meta": {"b": None}},
    ]
    (tmp_path / "data.jsonl").write_bytes(as_jsonl(rows * 600))
    source = open_dataset(DatasetConfig(uri=str(tmp_path / "data.jsonl")), tmp_path)
    assert source.schema.field("n").type == pa.float64()
    assert source.schema.field("tags").type == pa.list_(pa.string())
    assert source.schema.names == ["n", "tags", "meta", "late"]
    assert [batch.table.num_rows for batch in source.batches()] == [1000, 800]


def test_texts_that_look_like_dates_or_numbers_stay_texts(tmp_path):
    (tmp_path / "data.csv").write_text("day,zip\n2024-01-02,00501\n")
    assert read(tmp_path / "data.csv", tmp_path) == [{"day": "2024-01-02", "zip": "00501"}]


def test_blank_lines_of_a_csv_are_no_rows(tmp_path):
    (tmp_path / "data.csv").write_text("q,a\n1,2\n\n3,4\n  \n")
    assert read(tmp_path / "data.csv", tmp_path) == [{"q": "1", "a": "2"}, {"q": "3", "a": "4"}]


def test_empty_objects_become_text_since_parquet_cannot_store_them(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"q": "a", "meta": {}}\n')
    assert read(tmp_path / "data.jsonl", tmp_path) == [{"q": "a", "meta": "{}"}]


def test_parquet_files_with_other_columns_are_merged(tmp_path):
    write_parquet(tmp_path / "a.parquet", [{"q": "a", "n": 1}])
    write_parquet(tmp_path / "b.parquet", [{"q": "b", "more": "x"}])
    assert read(tmp_path, tmp_path) == [{"q": "a", "n": 1, "more": None}, {"q": "b", "n": None, "more": "x"}]


def test_a_parquet_file_is_not_kept_in_memory(tmp_path):
    path, groups = tmp_path / "data.parquet", 16
    chance = random.Random(1)
    with pq.ParquetWriter(path, pa.schema([("q", pa.string())])) as file:
        for _ in range(groups):
            file.write_table(pa.table({"q": [chance.randbytes(500).hex() for _ in range(1_000)]}))
    before, most = pa.total_allocated_bytes(), 0
    for batch in open_dataset(DatasetConfig(uri=str(path)), tmp_path).batches():
        most = max(most, pa.total_allocated_bytes() - before)
        assert batch.table.num_rows == 1_000
    assert most < 5 * path.stat().st_size / groups


def test_unpacking_leaves_the_folder_of_the_data_alone(tmp_path):
    (tmp_path / "data").mkdir()
    compressed_parquet(tmp_path / "data" / "a.parquet.gz", ROWS)
    (tmp_path / "data" / "a.parquet").write_text("precious")
    assert read(tmp_path / "data" / "a.parquet.gz", tmp_path / "work") == ROWS
    assert (tmp_path / "data" / "a.parquet").read_text() == "precious"
    assert len(list((tmp_path / "data").iterdir())) == 2


def test_a_disk_that_is_full_is_not_called_a_damaged_file(tmp_path, monkeypatch):
    compressed_parquet(tmp_path / "a.parquet.gz", ROWS)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a.parquet").symlink_to("/dev/full")
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: str(tmp_path / "full"))
    with pytest.raises(
        StorageError, match=r"Could not write .*full/a.parquet: No space left on device.*bytes are free"
    ):
        read(tmp_path / "a.parquet.gz", tmp_path / "work")


def test_revision_is_a_digest_of_what_was_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_jsonl(ROWS))
    first = open_dataset(DatasetConfig(uri=str(path)), tmp_path).revision
    path.write_bytes(as_jsonl(ROWS[:2]))
    assert first != open_dataset(DatasetConfig(uri=str(path)), tmp_path).revision


BROKEN = {
    "malformed line": ("a.jsonl", b'{"q": 1}\n{"q": }\n', DataError, r"a.jsonl line 2 is not valid JSON: Expecting"),
    "line is a list": ("a.jsonl", b"[1]\n", DataError, r"line 1 is not a JSON object.*needs dataset_format json\."),
    "array in lines": (
        "a.jsonl",
        b'[\n{"q": 1}]\n',
        DataError,
        r"line 1 is not valid JSON.*needs dataset_format json\.",
    ),
    "deep nesting": ("a.jsonl", b"[" * 100_000, DataError, r"line 1 is not valid JSON"),
    "types differ": (
        "a.jsonl",
        b'{"q": 1}\n\n{"q": "x"}\n',
        DataError,
        r"line 3: column 'q' changes its type",
    ),
    "huge number": ("a.jsonl", b'{"q": 1}\n{"q": 9999999999999999999999}\n', DataError, r"line 2.*beyond 64 bits"),
    "not UTF-8": (
        "a.jsonl",
        b'{"q": 1}\n{"q": "\xe4"}\n',
        DataError,
        r"line 2 is not UTF-8 \(byte 0xe4 at .* 8\)",
    ),
    "lines in array": ("a.json", b'{"q": 1}\n{"q": 2}\n', DataError, r"needs dataset_format jsonl"),
    "object in array": ("a.json", b'{"q": 1}', DataError, r"not a JSON array of objects. Received: 'dict'"),
    "text in array": ("a.json", b'[{"q": 1}, "x"]', DataError, r"element 2 is not a JSON object"),
    "ragged row": ("a.csv", b"q,a\n1,2\n1,2,3\n", DataError, r"a.csv line 3 has 3 cells, but the header has 2"),
    "one cell": ("a.csv", b"q,a\n1,2\n3\n", DataError, r"a.csv line 3 has 1 cells, but the header has 2"),
    "long cells": ("a.csv", b"q\n1,%s\n" % (b"x" * 5_000), DataError, r"a.csv line 2 has 2 cells"),
    "long value": ("a.jsonl", b'{"q": 1}\n{"q": "%s"}' % (b"x" * 5_000), DataError, r"line 2: column 'q' changes its"),
    "open quote": ("a.csv", b'q\n"1\n', DataError, r"a.csv line 2 is not valid CSV: unexpected end of data"),
    "same column": ("a.csv", b"q,q\n1,2\n", DataError, r"several columns of the same name. Received: \['q'\]"),
    "UTF-16": ("a.csv", "q\n1\n".encode("utf-16"), DataError, r"line 1 is not UTF-8.*Save the file as UTF-8"),
    "no parquet": ("a.parquet", b"hello, I am no Parquet file", DataError, r"a.parquet cannot be read: Parquet magic"),
    "empty parquet": ("a.parquet", b"", DataError, r"a.parquet cannot be read"),
    "no arrow": ("a.arrow", b"hello, I am no Arrow file", DataError, r"a.arrow cannot be read"),
    "no gzip": ("a.jsonl.gz", b"hello", DataError, r"a.jsonl.gz cannot be read"),
    "cut gzip": ("a.jsonl.gz", gzip.compress(as_jsonl(ROWS) * 9)[:-20], DataError, r"a.jsonl.gz cannot be read"),
    "extension": ("a.xlsx", b"x", ConfigurationError, r"Received: 'a.xlsx'. Allowed: .jsonl, .*Set dataset_format"),
}


@pytest.mark.parametrize(("name", "content", "error", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_files_are_named_with_their_line(tmp_path, name, content, error, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        read(tmp_path / name, tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1_000


def mixed(folder: Path) -> None:
    (folder / "a.csv").write_text("q\n1\n")
    (folder / "b.jsonl").write_text('{"q": 1}\n')


def hidden(folder: Path) -> None:
    (folder / "_a.csv").write_text("q\n1\n")


def unlike(folder: Path) -> None:
    write_parquet(folder / "a.parquet", [{"q": 1}])
    write_parquet(folder / "b.parquet", [{"q": "x"}])


PLACES = {
    "missing file": ("nope.jsonl", None, {}, r"nope.jsonl does not exist. Check dataset_uri"),
    "no match": ("*.jsonl", None, {}, r"\*.jsonl matches no file"),
    "empty folder": ("", None, {}, r"is an empty folder"),
    "mixed formats": ("", mixed, {}, r"several formats.*a.csv.*b.jsonl.*dataset_format"),
    "other types": ("", unlike, {}, r"b.parquet has columns of other types than .*a.parquet.*int64 vs string"),
    "set of a wildcard": ("[z-a]*.jsonl", None, {}, r"a wildcard that is not valid: bad character range z-a"),
    "long name": ("a" * 5_000, None, {}, r"cannot be opened: File name too long. Check dataset_uri"),
    "hidden files": ("", hidden, {"format": "csv"}, r"holds only files whose names start with.*Received: '_a.csv'"),
    "split of a file": ("a.csv", mixed, {"split": "test"}, r"has no splits. Received: 'test'"),
    "not saved": ("", mixed, {"format": "saved"}, r"save_to_disk.*Allowed: state.json"),
    "split not saved": ("s", lambda f: write_saved_splits(f / "s", ROWS), {"split": "onyl"}, r"Did you mean 'only'"),
}


@pytest.mark.parametrize(("uri", "prepare", "config", "message"), PLACES.values(), ids=PLACES)
def test_wrong_places_are_named(tmp_path, uri, prepare, config, message):
    if prepare:
        prepare(tmp_path)
    with pytest.raises(BatchError, match=message):
        read(tmp_path / uri, tmp_path, **config)


def test_explicit_format_chooses_among_mixed_files(tmp_path):
    mixed(tmp_path)
    assert read(tmp_path, tmp_path, format="csv") == [{"q": "1"}]


def test_openai_lines_are_recognised_by_their_first_row(tmp_path):
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}}
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_jsonl([line]))
    assert open_dataset(DatasetConfig(uri=str(path)), tmp_path).format == "openai"
    told = DatasetConfig(uri=str(path), prompt_template="{{ body }}")
    assert open_dataset(told, tmp_path).format == "jsonl"
