"""The pointer to the baseline, in every kind of store."""

import json

import pytest

from kfp_llm_batch.errors import ConfigurationError, DataError, ResultError
from kfp_llm_batch.evaluation.baselines import BaselinePointer, fetched_baseline
from kfp_llm_batch.storage.object_store import open_store
from tests.unit.evaluation.evaluated_runs import evaluated

SOURCES = [{"id": str(index), "answer": str(index)} for index in range(5)]


@pytest.fixture
def run(tmp_path):
    return evaluated(tmp_path / "run", SOURCES, [source["answer"] for source in SOURCES])


def pointed(pointer):
    return pointer.read()


def upload(run, uri):
    store = open_store(uri)
    for path in run.folder.iterdir():
        store.upload(path, path.name)
    return uri


def test_a_promoted_run_is_the_baseline(run, store_uri):
    uri = upload(run, f"{store_uri}/first")
    pointer = BaselinePointer(f"{store_uri}/baselines/sums.json")
    assert pointer.read() is None
    promoted = pointer.promote(uri, "by hand")
    assert pointer.read() == promoted
    assert (promoted.evaluation_uri, promoted.previous_uri, promoted.reason) == (uri, None, "by hand")
    with fetched_baseline(promoted) as baseline:
        assert baseline.manifest.to_json() == run.manifest.to_json()
        assert baseline.table.values("numeric_match").tolist() == [1.0] * 5


def test_a_second_promotion_remembers_the_first(run, store_uri):
    first, second = (upload(run, f"{store_uri}/{name}") for name in ("first", "second"))
    pointer = BaselinePointer(f"{store_uri}/pointer")
    pointer.promote(first, "it passed")
    assert pointer.promote(second, "it passed").previous_uri == first
    assert pointer.promote(second, "a step that was repeated").previous_uri == first
    assert pointed(pointer).evaluation_uri == second


def test_a_baseline_without_its_scores_is_named(run, store_uri):
    uri = upload(run, f"{store_uri}/first")
    promoted = BaselinePointer(f"{store_uri}/pointer").promote(uri, "by hand")
    open_store(uri).delete(run.manifest.scores.path)
    with pytest.raises(ResultError, match="The baseline's scores are gone"), fetched_baseline(promoted):
        pass


def test_only_a_finished_evaluation_is_promoted(run, store_uri):
    pointer = BaselinePointer(f"{store_uri}/pointer")
    with pytest.raises(ResultError, match="no evaluation at"):
        pointer.promote(f"{store_uri}/missing", "by hand")
    open_store(f"{store_uri}/other").write("manifest.json", b'{"schema_version": 1}')
    with pytest.raises(DataError, match="not the manifest of an evaluation"):
        pointer.promote(f"{store_uri}/other", "by hand")
    assert pointer.read() is None


def test_a_pointer_that_moved_in_between_is_not_overwritten(run, tmp_path, monkeypatch):
    uri = upload(run, str(tmp_path / "store/first"))
    pointer, other = (BaselinePointer(str(tmp_path / "store/pointer")) for _ in range(2))
    pointer.promote(uri, "one")
    stored = (tmp_path / "store/pointer").read_bytes()
    other.promote(uri, "two")
    monkeypatch.setattr(pointer._store, "read", lambda key: stored)
    with pytest.raises(ConfigurationError, match="moved by someone else at the same moment"):
        pointer.promote(uri, "three")
    assert pointed(other).reason == "two"


def test_a_run_that_was_written_anew_is_not_the_baseline(run, tmp_path):
    uri = upload(run, str(tmp_path / "store/first"))
    promoted = BaselinePointer(str(tmp_path / "store/pointer")).promote(uri, "by hand")
    manifest = json.loads((tmp_path / "store/first/manifest.json").read_text())
    (tmp_path / "store/first/manifest.json").write_text(json.dumps(manifest | {"created_at": "later"}))
    with pytest.raises(ResultError, match="written anew"), fetched_baseline(promoted):
        pass


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON", '{"schema_version": 1, "kind": "other"}'])
def test_what_is_no_pointer_is_refused(tmp_path, text):
    (tmp_path / "pointer").write_text(text)
    with pytest.raises(DataError, match="pointer"):
        BaselinePointer(str(tmp_path / "pointer")).read()


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/", "gs://bucket", "folder/", ""])
def test_an_address_without_an_object_is_refused(uri):
    with pytest.raises(ConfigurationError):
        BaselinePointer(uri)


def test_a_plain_name_is_a_file_here(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    upload(run, "first")
    BaselinePointer("pointer.json").promote("first", "by hand")
    assert json.loads((tmp_path / "pointer.json").read_text())["evaluation_uri"] == str(tmp_path / "first")
