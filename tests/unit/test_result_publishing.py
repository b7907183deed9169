import json
import logging
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from kfp_llm_batch.errors import ConfigurationError, InterruptedRunError, ResultError, StorageError
from kfp_llm_batch.manifests import ResultManifest
from kfp_llm_batch.results.audit import audit_result
from kfp_llm_batch.results.ownership import CHECKPOINT_FOLDER
from kfp_llm_batch.results.publishing import (
    check_destination,
    existing_result,
    fetch_result,
    publish_result,
)
from kfp_llm_batch.termination import Termination


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_ino) for path in paths}


@pytest.mark.parametrize("output_format", ["parquet", "jsonl", "openai"])
@pytest.mark.parametrize("rows", [0, 1, 25])
def test_every_format_passes_its_audit(make_result, tmp_path, output_format, rows):
    output = tmp_path / "output"
    manifest = publish_result(make_result(rows=rows), str(output), output_format=output_format)
    assert existing_result(str(output)) == manifest
    report = audit_result(str(output))
    assert report.problems == ()
    assert report.rows == rows
    assert report.files == len(manifest.parts) + len(manifest.errors)
    assert all(file.path.endswith({"parquet": "parquet"}.get(output_format, "jsonl")) for file in manifest.parts)


def test_parts_are_named_by_their_content_and_uploaded_as_they_are(make_result, tmp_path):
    local = make_result()
    manifest = publish_result(local, str(tmp_path / "output"))
    for index, part in enumerate(manifest.parts):
        assert part.path == f"parts/part-{index:05d}-{part.sha256[:12]}.parquet"
        assert (tmp_path / "output" / part.path).read_bytes() == (
            local / f"parts/part-{index:05d}.parquet"
        ).read_bytes()
    assert len(manifest.errors) == 3


def test_jsonl_has_every_column_of_every_row(make_result, tmp_path):
    local = make_result()
    manifest = publish_result(local, str(tmp_path / "output"), output_format="jsonl")
    lines = [line for part in manifest.parts for line in _lines(tmp_path / "output" / part.path)]
    expected = [row for path in sorted(local.glob("parts/*")) for row in pq.read_table(path).to_pylist()]
    assert math.isnan(expected[1].pop("score"))
    assert lines[1].pop("score") is None
    assert lines == expected


def test_openai_lines(make_result, tmp_path):
    manifest = publish_result(make_result(rows=7), str(tmp_path / "output"), output_format="openai")
    lines = _lines(tmp_path / "output" / manifest.parts[0].path)
    first, failed = lines[0], lines[6]
    key = first["response"]["request_id"]
    assert (first["id"], first["custom_id"], first["error"]) == (f"batch_req_{key}", "row-0", None)
    body = first["response"]["body"]
    assert first["response"]["status_code"] == 200
    assert body["object"] == "chat.completion"
    assert body["model"] == "echo://"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "answer 0 ü\u2028"},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    assert (failed["response"], failed["error"]) == (None, {"code": "engine", "message": "it ended"})
    assert failed["metadata"]["status"] == "failed"


@pytest.mark.parametrize("output_format", ["parquet", "jsonl", "openai"])
def test_the_same_result_twice_is_one_result(make_result, tmp_path, output_format):
    output = tmp_path / "output"
    first = publish_result(make_result("one"), str(output), output_format=output_format)
    before = _files(output)
    again = make_result("two")
    text = (again / "manifest.json").read_text().replace("2025-01-02", "2026-01-02")
    (again / "manifest.json").write_text(text)
    assert publish_result(again, str(output), output_format=output_format) == first
    assert publish_result(again, str(output), output_format=output_format, overwrite=True) == first
    assert _files(output) == before


def test_another_result_is_left_untouched(make_result, tmp_path):
    output = tmp_path / "output"
    publish_result(make_result("one"), str(output))
    before = _files(output)
    with pytest.raises(ConfigurationError) as caught:
        publish_result(make_result("two", question="Why is"), str(output))
    for word in ("25 rows", "echo://", "2025-01-02T03:04:05", "output_overwrite"):
        assert word in str(caught.value)
    with pytest.raises(ConfigurationError, match="Another result"):
        publish_result(make_result("three"), str(output), output_format="jsonl")
    assert _files(output) == before


def test_the_same_work_done_twice_is_one_result(make_result, tmp_path):
    output = tmp_path / "output"
    first = publish_result(make_result("one"), str(output))
    before = _files(output)
    others = [make_result("two", answer="other"), make_result("three", rows_per_part=7)]
    assert [publish_result(other, str(output)) for other in others] == [first, first]
    assert _files(output) == before


def test_a_partial_result_gives_way_to_more_rows_only(make_result, tmp_path):
    output = tmp_path / "output"
    part = output / CHECKPOINT_FOLDER / f"part-{'0' * 32}.parquet"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"1")

    def publish(rows: int, **options: Any) -> int:
        folder = make_result(f"{rows}-{len(list(tmp_path.iterdir()))}", rows=rows, rows_in=30)
        rows_out = publish_result(folder, str(output), **options).rows_out
        report = audit_result(str(output))
        # An audit counts a partial result's rows as missing; its files are all there, and no others.
        assert [problem for problem in report.problems if not problem.startswith("manifest.json")] == []
        return rows_out

    assert [publish(10), publish(20), publish(20)] == [10, 20, 20]
    with pytest.raises(ConfigurationError, match="A partial result stands at the output, and this one is partial: 20"):
        publish(15)
    assert publish(15, overwrite=True) == 15
    assert part.exists()
    assert publish(30) == 30
    assert not part.exists()
    for overwrite in (False, True):
        with pytest.raises(ConfigurationError, match="A whole result stands at the output, and this one is partial"):
            publish(29, overwrite=overwrite)
    assert audit_result(str(output)).ok


def test_a_partial_result_of_another_dataset_is_refused(make_result, tmp_path):
    output, other = tmp_path / "output", make_result("other", rows=20)
    publish_result(make_result("one", rows=10, rows_in=30), str(output))
    text = (other / "manifest.json").read_text()
    (other / "manifest.json").write_text(text.replace('"fingerprint": "f"', '"fingerprint": "g"'))
    with pytest.raises(ConfigurationError, match="Another result stands"):
        publish_result(other, str(output))


def test_what_a_killed_replacement_left_is_used_or_removed(make_result, tmp_path):
    output, copy = tmp_path / "output", tmp_path / "copy"
    publish_result(make_result("one"), str(output))
    shutil.copytree(output, copy)
    manifest = publish_result(make_result("two", answer="other"), str(output), overwrite=True)
    left_over = [output / part.path for part in manifest.parts[:2]]
    for path in left_over:
        shutil.copy2(path, copy / "parts")
    kept = _files(copy)[manifest.parts[0].path]
    publish_result(tmp_path / "one", str(copy))
    assert _files(copy)[manifest.parts[0].path] == kept, "a replacement may be under way"
    assert publish_result(tmp_path / "two", str(copy), overwrite=True) == manifest
    assert _files(copy)[manifest.parts[0].path] == kept
    assert audit_result(str(copy)).ok
    third = publish_result(make_result("three", answer="third"), str(copy), overwrite=True)
    assert _files(copy).keys() == {"manifest.json", *(file.path for file in (*third.parts, *third.errors))}


def test_overwrite_replaces_the_result_and_its_parts(make_result, tmp_path):
    output = tmp_path / "output"
    publish_result(make_result("one", rows=40), str(output))
    manifest = publish_result(make_result("two", answer="other"), str(output), overwrite=True)
    assert existing_result(str(output)) == manifest
    assert len(_files(output)) == 1 + 3 + 3
    assert audit_result(str(output)).ok


def test_what_a_killed_publication_left_is_used_or_removed(make_result, tmp_path):
    local, output = make_result(), tmp_path / "output"
    manifest = publish_result(local, str(output))
    (output / "manifest.json").unlink()
    (output / manifest.parts[1].path).unlink()
    (output / "parts/part-00007-0123456789ab.parquet").write_bytes(b"left over")
    kept = _files(output)[manifest.parts[0].path]
    assert existing_result(str(output)) is None
    assert publish_result(local, str(output)) == manifest
    assert _files(output)[manifest.parts[0].path] == kept
    assert audit_result(str(output)).ok


def test_a_lost_part_is_written_again(make_result, tmp_path):
    local, output = make_result(), tmp_path / "output"
    manifest = publish_result(local, str(output))
    (output / manifest.parts[1].path).unlink()
    assert publish_result(local, str(output)) == manifest
    assert audit_result(str(output)).ok


def test_a_damaged_local_part_is_not_published(make_result, tmp_path):
    local = make_result()
    part = local / "parts/part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(ResultError, match=r"part-00001.parquet is not what the manifest says"):
        publish_result(local, str(tmp_path / "output"))
    part.unlink()
    with pytest.raises(ResultError, match=r"part-00001.parquet, and there is no such file"):
        publish_result(local, str(tmp_path / "output"))
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    "damage",
    ["{", "", '{"schema_version": 9, "keys_checksum": "", "parts": []}', "[" * 100_000],
    ids=["cut", "empty", "version", "nested"],
)
def test_a_damaged_manifest_at_the_output_stops_unless_overwritten(make_result, tmp_path, damage):
    local, output = make_result(), tmp_path / "output"
    publish_result(make_result("old", answer="old"), str(output))
    (output / "manifest.json").write_text(damage)
    check_destination(str(output))
    with pytest.raises(ResultError, match=r"manifest\.json (is not a manifest|has another schema version)"):
        publish_result(local, str(output))
    assert (output / "manifest.json").read_text() == damage
    publish_result(local, str(output), overwrite=True)
    assert audit_result(str(output)).ok


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "content",
    ['{"name": "my web app"}', '["keys_checksum"]', "{", "\0", "[" * 100_000],
    ids=["object", "list", "cut", "binary", "nested"],
)
def test_a_manifest_of_something_else_is_never_replaced(make_result, tmp_path, content, overwrite):
    local, output = make_result(), tmp_path / "output"
    output.mkdir()
    (output / "manifest.json").write_text(content)
    with pytest.raises(ConfigurationError, match="is not that of a result of this product"):
        check_destination(str(output))
    with pytest.raises(ConfigurationError, match="is not that of a result of this product"):
        publish_result(local, str(output), overwrite=overwrite)
    assert [path.name for path in output.iterdir()] == ["manifest.json"]
    assert (output / "manifest.json").read_text() == content


@pytest.mark.parametrize(
    "name",
    [
        "parts/mydata.csv",
        "errors/log.txt",
        "parts/part-00000.parquet",
        "parts/deeper/part-00000-0123456789ab.parquet",
        "errors/part-00000-0123456789ab.parquet",
        "parts/part-00000-0123456789ab.parquet.bak",
    ],
)
def test_files_of_others_are_refused_and_kept(make_result, tmp_path, name):
    local, output = make_result(), tmp_path / "output"
    foreign = output / name
    foreign.parent.mkdir(parents=True)
    foreign.write_text("precious")
    with pytest.raises(ConfigurationError, match=f"{name} is none"):
        check_destination(str(output))
    with pytest.raises(ConfigurationError, match=f"{name} is none"):
        publish_result(local, str(output), overwrite=True)
    assert foreign.read_text() == "precious"
    assert list(_files(output)) == [name]


def test_a_result_that_stands_needs_no_checkpoint(make_result, tmp_path):
    local, output = make_result(), tmp_path / "output"
    ours = output / CHECKPOINT_FOLDER / f"part-{'0123456789abcdef' * 2}.parquet"
    kept = [ours.with_name(name) for name in ("part-0123.parquet", "notes.txt")] + [ours.parent / "deep" / ours.name]
    for _ in range(2):
        for path in (ours, *kept):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"1")
        publish_result(local, str(output))
        assert [path.exists() for path in (ours, *kept)] == [False, True, True, True]
    assert audit_result(str(output)).ok


def test_no_empty_folder_stays_beside_a_result(make_result, tmp_path):
    output = tmp_path / "output"
    part = output / CHECKPOINT_FOLDER / f"part-{'0' * 32}.parquet"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"1")
    publish_result(make_result(), str(output))
    assert sorted(path.name for path in output.iterdir()) == ["errors", "manifest.json", "parts"]


def test_a_refused_publication_keeps_the_checkpoint(make_result, tmp_path):
    output = tmp_path / "output"
    publish_result(make_result("one"), str(output))
    part = output / CHECKPOINT_FOLDER / f"part-{'0' * 32}.parquet"
    part.parent.mkdir()
    part.write_bytes(b"1")
    with pytest.raises(ConfigurationError, match="Another result"):
        publish_result(make_result("two", question="Why is"), str(output))
    assert part.exists()


def test_a_manifest_cannot_make_fetching_write_outside(make_result, tmp_path):
    output = tmp_path / "output"
    publish_result(make_result(), str(output))
    manifest = json.loads((output / "manifest.json").read_text())
    manifest["parts"][0]["path"] = "../outside/x"
    (output / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigurationError, match="under the store's root"):
        fetch_result(str(output), tmp_path / "fetched")
    assert not (tmp_path / "outside").exists()


def test_a_local_manifest_cannot_publish_a_file_from_outside(make_result, tmp_path):
    local = make_result()
    (local / "parts/part-00000.parquet").rename(tmp_path / "outside")
    text = (local / "manifest.json").read_text().replace("parts/part-00000.parquet", "../outside")
    (local / "manifest.json").write_text(text)
    with pytest.raises(ConfigurationError, match="under the store's root"):
        publish_result(local, str(tmp_path / "output"))


def test_unfinished_local_result(tmp_path):
    with pytest.raises(ResultError, match="no finished result"):
        publish_result(tmp_path, str(tmp_path / "output"))


def test_unknown_format(make_result, tmp_path):
    with pytest.raises(ConfigurationError, match="Did you mean 'jsonl'"):
        publish_result(make_result(), str(tmp_path / "output"), output_format="json")


@pytest.mark.parametrize("output_format", ["parquet", "openai"])
def test_a_fetched_result_is_the_same_result(make_result, tmp_path, output_format):
    output = str(tmp_path / "output")
    manifest = publish_result(make_result(), output, output_format=output_format)
    assert fetch_result(output, tmp_path / "fetched") == manifest
    assert audit_result(str(tmp_path / "fetched")).ok
    assert publish_result(tmp_path / "fetched", output, output_format=output_format) == manifest


def test_only_parquet_is_converted(make_result, tmp_path):
    publish_result(make_result(), str(tmp_path / "output"), output_format="jsonl")
    with pytest.raises(ConfigurationError, match="in the format jsonl cannot be converted"):
        publish_result(tmp_path / "output", str(tmp_path / "other"))


def test_fetching_finds_damage(make_result, tmp_path):
    output = tmp_path / "output"
    with pytest.raises(ResultError, match="There is no result at"):
        fetch_result(str(output), tmp_path / "fetched")
    manifest = publish_result(make_result(), str(output))
    (output / manifest.parts[0].path).write_bytes(b"damaged")
    with pytest.raises(ResultError, match="is not what the manifest says"):
        fetch_result(str(output), tmp_path / "fetched")
    assert not (tmp_path / "fetched/manifest.json").exists()


def test_a_signal_ends_the_fetching(make_result, tmp_path):
    publish_result(make_result(), str(tmp_path / "output"))
    with Termination():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(InterruptedRunError):
            fetch_result(str(tmp_path / "output"), tmp_path / "fetched")
    assert not (tmp_path / "fetched/manifest.json").exists()


def test_the_destination_is_probed_and_left_clean(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        check_destination(str(tmp_path / "output"))
    assert list((tmp_path / "output").iterdir()) == []
    assert caplog.records == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="A file stands where a folder should be"):
        check_destination(str(tmp_path / "file"))
    with pytest.raises(ConfigurationError, match="Received: 'hf'"):
        check_destination("hf://org/name")


def test_a_manifest_of_the_result_is_readable_as_such(make_result, tmp_path):
    publish_result(make_result(), str(tmp_path / "output"))
    text = (tmp_path / "output/manifest.json").read_text()
    assert ResultManifest.from_json(text, "x").to_json() == text
