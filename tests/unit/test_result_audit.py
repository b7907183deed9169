import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kfp_llm_batch.errors import ResultError
from kfp_llm_batch.manifests import ResultManifest
from kfp_llm_batch.results.audit import audit_result
from kfp_llm_batch.results.publishing import publish_result


@pytest.fixture(params=["parquet", "jsonl", "openai"])
def output(request: pytest.FixtureRequest, make_result, tmp_path: Path) -> Path:
    publish_result(make_result(), str(tmp_path / "output"), output_format=request.param)
    return tmp_path / "output"


@pytest.fixture
def parquet_output(make_result, tmp_path: Path) -> Path:
    publish_result(make_result(), str(tmp_path / "output"))
    return tmp_path / "output"


def _manifest(output: Path) -> ResultManifest:
    return ResultManifest.from_json((output / "manifest.json").read_bytes(), "manifest")


def _change_manifest(output: Path, **changes: object) -> None:
    path = output / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _entry(path: object) -> dict[str, object]:
    return {"path": path, "rows": 1, "bytes": 1, "sha256": ""}


def _problems(output: Path) -> str:
    report = audit_result(str(output))
    assert not report.ok
    text = report.to_text()
    assert text.splitlines()[3] == f"Problems: {len(report.problems)}"
    return text


def test_a_whole_result(output):
    report = audit_result(str(output))
    assert report.ok
    assert report.rows_by_status == {"failed": 3, "ok": 22}
    assert report.to_text().splitlines()[1:] == ["Rows: 25 (3 failed, 22 ok)", "Files read: 6", "The result is whole."]


@pytest.fixture
def partial_output(make_result, tmp_path: Path) -> Path:
    """20 of 25 rows; the files say so as well."""
    output = tmp_path / "output"
    publish_result(make_result(rows=20), str(output))
    _change_manifest(output, is_partial=True, rows_in=25, dataset={"fingerprint": "f", "rows": 25})
    return output


def test_a_partial_result(partial_output):
    report = audit_result(str(partial_output))
    assert (report.ok, report.rows, report.rows_left_out) == (True, 20, 5)
    assert report.to_text().splitlines()[3] == (
        "The result is partial: 20 of 25 rows were answered in time; they are as the manifest says."
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"is_partial": False}, "rows_in is 25, the parts hold 20"),
        ({"is_partial": 1}, "is_partial has a value of the wrong type"),
        ({"rows_in": 26}, "dataset.rows is 25, rows_in is 26"),
        ({"dataset": {"rows": 25.0}}, "dataset.rows is 25.0, rows_in is 25"),
        ({"dataset": {}}, "dataset.rows is None, rows_in is 25"),
        ({"rows_out": 19}, "rows_out is 19, the parts hold 20"),
        ({"rows_in": 20, "dataset": {"rows": 20}}, "called partial, and rows_out is 20, rows_in 20"),
        ({"keys_checksum": "0"}, "keys_checksum is 0"),
    ],
)
def test_a_partial_result_that_is_wrong(partial_output, changes, words):
    _change_manifest(partial_output, **changes)
    assert words in _problems(partial_output)


def test_a_local_result_before_its_publication(make_result):
    assert audit_result(str(make_result())).ok


def test_no_result(tmp_path):
    with pytest.raises(ResultError, match="There is no result at"):
        audit_result(str(tmp_path))


def test_a_flipped_byte(output):
    part = _manifest(output).parts[1].path
    data = bytearray((output / part).read_bytes())
    data[len(data) // 2] ^= 0xFF
    (output / part).write_bytes(bytes(data))
    assert f"{part}: its bytes are not those of the manifest" in _problems(output)


def test_bytes_flipped_anywhere_never_end_the_audit(parquet_output):
    part = parquet_output / _manifest(parquet_output).parts[0].path
    whole = part.read_bytes()
    for position in range(0, len(whole), 131):
        data = bytearray(whole)
        data[position] ^= 0x55
        part.write_bytes(bytes(data))
        assert part.name in _problems(parquet_output)


def test_a_cut_part(output):
    part = _manifest(output).parts[0].path
    (output / part).write_bytes((output / part).read_bytes()[:-40])
    assert f"{part}: it has" in _problems(output)


def test_a_missing_part(output):
    part = _manifest(output).parts[2].path
    (output / part).unlink()
    assert f"- {part}: it is missing" in _problems(output)


def test_an_added_row(parquet_output):
    part = _manifest(parquet_output).parts[0].path
    table = pq.read_table(parquet_output / part)
    row = table.slice(0, 1).to_pylist()[0] | {"row_id": "smuggled"}
    pq.write_table(pa.concat_tables([table, pa.Table.from_pylist([row], schema=table.schema)]), parquet_output / part)
    problems = _problems(parquet_output)
    assert f"{part}: it has 11 rows, the manifest says 10" in problems
    assert "rows_out is 25, the parts hold 26" in problems
    assert "keys_checksum" in problems


def test_an_unlisted_part(output):
    (output / "parts/part-00009.parquet").write_bytes(b"1")
    (output / "errors/errors-00009.parquet").write_bytes(b"1")
    problems = _problems(output)
    assert "parts/part-00009.parquet: the manifest does not name it" in problems
    assert "errors/errors-00009.parquet: the manifest does not name it" in problems


def _rewrite(output: Path, part: int, rows: list[dict[str, Any]]) -> str:
    path = output / _manifest(output).parts[part].path
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(path)), path)
    return str(path.relative_to(output))


def test_a_row_that_occurs_in_two_parts(parquet_output):
    first, second = (
        pq.read_table(parquet_output / part.path).to_pylist() for part in _manifest(parquet_output).parts[:2]
    )
    second[3] = first[4]
    name = _rewrite(parquet_output, 1, second)
    problems = _problems(parquet_output)
    assert f"{_manifest(parquet_output).parts[0].path}, {name}: the row 'row-4' occurs 2 times" in problems


def test_many_rows_that_occur_twice_are_counted(parquet_output):
    rows = pq.read_table(parquet_output / _manifest(parquet_output).parts[0].path).to_pylist()
    _rewrite(parquet_output, 0, rows * 3 + [row | {"row_id": f"x{i % 15}"} for i, row in enumerate(rows * 3)])
    assert "parts/: 15 rows more occur several times" in _problems(parquet_output)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows_in": 26}, "rows_in is 26, the parts hold 25"),
        ({"rows_out": "many"}, "rows_out has a value of the wrong type"),
        ({"rows_in": 25.0}, "rows_in has a value of the wrong type"),
        ({"rows_in": True}, "rows_in has a value of the wrong type"),
        ({"model": [1]}, "model has a value of the wrong type"),
        ({"timings_seconds": [1]}, "timings_seconds has a value of the wrong type"),
        ({"versions": {"python": 3}}, "versions has a value of the wrong type"),
        ({"dataset": {"fingerprint": "f", "rows": 99}}, "dataset.rows is 99, the parts hold 25"),
        ({"dataset": {"fingerprint": "f", "rows": 25.0}}, "dataset.rows is 25.0, the parts hold 25"),
        ({"dataset": {}}, "dataset.rows is None, the parts hold 25"),
        ({"rows_by_status": {"ok": 25}}, "rows_by_status is {'ok': 25}"),
        ({"rows_by_status": []}, "rows_by_status has a value of the wrong type"),
        ({"rows_by_status": {"ok": "all"}}, "rows_by_status has a value of the wrong type"),
        ({"num_prompt_tokens": 0}, "num_prompt_tokens is 0, the parts hold 125"),
        ({"num_completion_tokens": None}, "num_completion_tokens has a value of the wrong type"),
        ({"num_completion_tokens": 0}, "num_completion_tokens is 0, the parts hold 66"),
        ({"keys_checksum": "0"}, "keys_checksum is 0"),
        ({"output_format": "xml"}, "output_format 'xml' is unknown"),
        ({"errors": []}, "errors/: 0 rows, not exactly the 3 rows"),
        ({"parts": [_entry("../x")]}, "../x: the manifest names a file outside"),
        ({"parts": [_entry("parts/\0x")]}, "the manifest names a file outside"),
        ({"parts": [_entry("parts/.")]}, "parts/.: the manifest names a file outside"),
        ({"parts": [_entry("parts/./x")]}, "parts/./x: the manifest names a file outside"),
        ({"parts": [_entry("parts/")]}, "parts/: it is missing"),
        ({"parts": [_entry("parts/" + "x" * 5000)]}, "x: it is missing"),
        ({"parts": [_entry(["x"])]}, "path has a value of the wrong type"),
        ({"parts": [_entry("parts/x") | {"rows": 1.0}]}, "rows has a value of the wrong type"),
        ({"parts": ["x"]}, "is not a result manifest"),
        ({"parts": {"a": 1}}, "parts has a value of the wrong type"),
        ({"parts": [{"path": "parts/x"}]}, "is not a result manifest"),
        ({"parts": 1}, "is not a result manifest"),
        ({"schema_version": 2}, "another schema version"),
    ],
)
def test_a_manifest_that_is_wrong(output, changes, words):
    _change_manifest(output, **changes)
    assert words in _problems(output)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}", b"[" * 100_000], ids=lambda content: repr(content[:9])
)
def test_a_damaged_manifest(output, content):
    (output / "manifest.json").write_bytes(content)
    assert "manifest.json" in _problems(output)


def test_other_errors_than_the_failed_rows(parquet_output):
    first, second, _ = _manifest(parquet_output).errors
    (parquet_output / second.path).write_bytes((parquet_output / first.path).read_bytes())
    assert "errors/: 3 rows, not exactly the 3 rows" in _problems(parquet_output)


@pytest.mark.parametrize(
    ("column", "problem"),
    [("status", "its column status is int64, not string"), ("row_id", "its column row_id is absent")],
)
def test_a_part_with_other_columns(parquet_output, column, problem):
    part = parquet_output / _manifest(parquet_output).parts[0].path
    table = pq.read_table(part).drop_columns([column])
    table = table.append_column("status", pa.array(range(10))) if column == "status" else table
    pq.write_table(table, part)
    assert problem in _problems(parquet_output)


def test_a_part_with_other_source_columns(parquet_output):
    part = parquet_output / _manifest(parquet_output).parts[1].path
    pq.write_table(pq.read_table(part).drop_columns(["question"]), part)
    assert f"{part.name}: its columns differ from those of parts/part-00000" in _problems(parquet_output)


@pytest.mark.parametrize(
    ("output_format", "line", "words"),
    [
        ("jsonl", b"not json", "line 1 is none of a result"),
        ("jsonl", b"[]", "line 1 is none of a result"),
        ("jsonl", b"{}", "it lacks completion, error"),
        ("openai", b"{}", "line 1 is none of a result"),
        ("openai", b"\xff", "line 1 is none of a result"),
        ("openai", b'{"custom_id": "x", "id": "y", "metadata": {}}', "line 1 is none of a result"),
        pytest.param("jsonl", b"[" * 100_000, "line 1 is none of a result", id="nested"),
    ],
)
def test_lines_that_are_none_of_a_result(make_result, tmp_path, output_format, line, words):
    output = tmp_path / "output"
    manifest = publish_result(make_result(), str(output), output_format=output_format)
    (output / manifest.parts[0].path).write_bytes(line + b"\n")
    assert words in _problems(output)


@pytest.mark.parametrize(
    ("row", "change", "words"),
    [
        (3, {"status": "good"}, "has the unknown status 'good'"),
        (3, {"row_id": None}, "has no row_id"),
        (3, {"num_prompt_tokens": "5"}, "has a number of tokens that is no number"),
        (3, {"num_prompt_tokens": True}, "has a number of tokens that is no number"),
        (3, {"completion": 12345}, "has no completion that is text, and its status is ok"),
        (3, {"completion": None}, "has no completion that is text, and its status is ok"),
        (3, {"error": {"code": "engine", "message": ""}}, "has an error, and its status is ok"),
        (7, {"error": None}, "has no error code, and its status is failed"),
        (7, {"error": {"code": None, "message": "it ended"}}, "has no error code, and its status is failed"),
        (7, {"error": "it ended"}, "has no error code, and its status is failed"),
    ],
)
def test_values_that_no_row_has(make_result, tmp_path, row, change, words):
    output = tmp_path / "output"
    path = output / publish_result(make_result(), str(output), output_format="jsonl").parts[0].path
    _change_line(path, row, lambda line: line | change)
    assert f"row {row} (counted from 1) {words}" in _problems(output)


def _change_line(path: Path, number: int, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    lines = path.read_bytes().split(b"\n")
    lines[number - 1] = json.dumps(change(json.loads(lines[number - 1]))).encode()
    path.write_bytes(b"\n".join(lines))


@pytest.mark.parametrize(
    ("row", "change", "words"),
    [
        (3, {"response": {"body": {"choices": []}}}, "line 3 is none of a result"),
        (3, {"response": {"body": {"choices": [{"message": {"content": None}}]}}}, "has no completion that is text"),
        (3, {"response": {"body": {"choices": [{"message": {"content": 1}}]}}}, "has no completion that is text"),
        (7, {"error": {"message": "no code"}}, "has no error code"),
    ],
)
def test_openai_values_that_no_row_has(make_result, tmp_path, row, change, words):
    output = tmp_path / "output"
    path = output / publish_result(make_result(), str(output), output_format="openai").parts[0].path
    _change_line(path, row, lambda line: line | change)
    assert words in _problems(output)


def _without_question(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != "question"}


@pytest.mark.parametrize("row", [1, 3])
def test_a_line_that_lost_a_column(make_result, tmp_path, row):
    output = tmp_path / "output"
    path = output / publish_result(make_result(), str(output), output_format="jsonl").parts[0].path
    _change_line(path, row, _without_question)
    assert f"line {max(row, 2)} has other columns than the first" in _problems(output)


def test_a_part_whose_lines_all_lost_a_column(make_result, tmp_path):
    output = tmp_path / "output"
    first, second, _ = publish_result(make_result(), str(output), output_format="jsonl").parts
    for row in range(1, 11):
        _change_line(output / second.path, row, _without_question)
    assert f"{second.path}: its columns differ from those of {first.path}" in _problems(output)


def _replace_column(output: Path, kind: str, column: str, values: list[Any]) -> None:
    """Change a file so that only its content is wrong: the manifest names the new bytes."""
    manifest = json.loads((output / "manifest.json").read_text())
    entry = manifest[kind][0]
    path = output / entry["path"]
    table = pq.read_table(path)
    index = table.schema.get_field_index(column)
    field = table.schema.field(index)
    pq.write_table(table.set_column(index, field, pa.array(values, field.type)), path)
    entry.update(bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    _change_manifest(output, **manifest)


def test_errors_files_that_tell_another_error(parquet_output):
    _replace_column(parquet_output, "errors", "error", [{"code": "engine", "message": "another one"}])
    assert "errors/: 3 rows, not exactly the 3 rows" in _problems(parquet_output)


def test_a_failed_row_whose_error_is_gone(parquet_output):
    _replace_column(parquet_output, "parts", "error", [None] * 10)
    assert "row 7 (counted from 1) has no error code" in _problems(parquet_output)


def test_an_answered_row_whose_completion_is_gone(parquet_output):
    _replace_column(parquet_output, "parts", "completion", [None] * 10)
    assert "row 1 (counted from 1) has no completion that is text" in _problems(parquet_output)
