"""The life of a result on every kind of store."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.manifests import ResultManifest
from kfp_llm_batch.results.audit import audit_result
from kfp_llm_batch.results.publishing import check_destination, existing_result, fetch_result, publish_result
from kfp_llm_batch.storage.object_store import open_store


def test_publish_audit_overwrite_and_fetch(store_uri, make_result, tmp_path):
    check_destination(store_uri)
    assert list(open_store(store_uri).list()) == []
    assert existing_result(store_uri) is None
    first = publish_result(make_result("one"), store_uri, output_format="jsonl")
    assert publish_result(make_result("one"), store_uri, output_format="jsonl") == first
    second = publish_result(make_result("two", answer="other"), store_uri, overwrite=True)
    names = {file.path for file in (*second.parts, *second.errors)}
    assert {entry.key for entry in open_store(store_uri).list()} == names | {"manifest.json"}
    assert audit_result(store_uri).problems == ()
    assert fetch_result(store_uri, tmp_path / "fetched") == second


def test_an_audit_names_a_lost_and_a_damaged_part(store_uri, make_result):
    manifest = publish_result(make_result(), store_uri)
    store = open_store(store_uri)
    store.delete(manifest.parts[0].path)
    store.write(manifest.parts[1].path, b"damaged")
    problems = "\n".join(audit_result(store_uri).problems)
    assert f"{manifest.parts[0].path}: it is missing" in problems
    assert f"{manifest.parts[1].path}: its bytes are not" in problems


def _race(folders, uri, **options) -> list[ResultManifest | BaseException]:
    barrier = threading.Barrier(len(folders))

    def publish(folder: Path) -> ResultManifest | BaseException:
        barrier.wait()
        try:
            return publish_result(folder, uri, **options)
        except BaseException as error:
            return error

    with ThreadPoolExecutor(len(folders)) as threads:
        return list(threads.map(publish, folders))


def _check_whole(uri: str) -> None:
    manifest = existing_result(uri)
    assert manifest is not None
    assert audit_result(uri).problems == ()
    names = {file.path for file in (*manifest.parts, *manifest.errors)}
    assert {entry.key for entry in open_store(uri).list()} == names | {"manifest.json"}


def test_two_writers_of_different_results_end_in_one(store_uri, make_result):
    folders = [make_result("one"), make_result("two", question="Why is")]
    for attempt in range(5):
        uri = f"{store_uri}/{attempt}"
        outcomes = _race(folders, uri)
        (winner,) = (outcome for outcome in outcomes if isinstance(outcome, ResultManifest))
        (refused,) = (outcome for outcome in outcomes if outcome is not winner)
        assert isinstance(refused, ConfigurationError)
        assert "output_overwrite" in str(refused)
        assert existing_result(uri) == winner
        _check_whole(uri)


def test_two_writers_of_the_same_result_both_succeed(store_uri, make_result):
    one, two = _race([make_result("one"), make_result("two")], store_uri)
    assert one == two == existing_result(store_uri)
    _check_whole(store_uri)


RACES = 15


@pytest.mark.parametrize("overwrite", [False, True])
def test_writers_of_the_same_work_with_other_parts_end_in_one(store_uri, make_result, overwrite):
    folders = [make_result("one"), make_result("two", answer="other"), make_result("three", rows_per_part=7)]
    for attempt in range(RACES):
        uri = f"{store_uri}/{attempt}"
        outcomes = _race(folders, uri, overwrite=overwrite)
        assert existing_result(uri) in outcomes
        assert [outcome for outcome in outcomes if not isinstance(outcome, ResultManifest)] == []
        assert overwrite or outcomes[0] == outcomes[1] == outcomes[2]
        _check_whole(uri)


def test_writers_that_replace_each_other_again_and_again(store_uri, make_result):
    folders = [make_result("one"), make_result("two", answer="other"), make_result("same")]
    for _ in range(RACES):
        outcomes = _race(folders, store_uri, overwrite=True)
        assert existing_result(store_uri) in outcomes
        _check_whole(store_uri)


def test_readers_find_a_whole_result_while_it_is_replaced(store_uri, make_result, tmp_path):
    folders = [make_result("one"), make_result("two", answer="other")]
    publish_result(folders[0], store_uri)
    with ThreadPoolExecutor(1) as threads:
        replacing = threads.submit(
            lambda: [publish_result(folder, store_uri, overwrite=True) for folder in folders * RACES]
        )
        seen = 0
        while not replacing.done():
            manifest = existing_result(store_uri)
            assert manifest is not None
            stored = {entry.key for entry in open_store(store_uri).list()}
            # Only a manifest that has been replaced meanwhile may name a file that is gone.
            if existing_result(store_uri) == manifest:
                assert {file.path for file in (*manifest.parts, *manifest.errors)} <= stored
                seen += 1
        replacing.result()
    assert seen
