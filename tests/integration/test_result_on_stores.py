"""The life of a result on every kind of store."""

import threading

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


def _race(folders, uri) -> list[BaseException | None]:
    barrier = threading.Barrier(len(folders))
    outcomes: list[BaseException | None] = []

    def publish(folder) -> None:
        barrier.wait()
        try:
            publish_result(folder, uri)
            outcomes.append(None)
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=publish, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_two_writers_of_different_results_end_in_one(store_uri, make_result):
    for attempt in range(5):
        uri = f"{store_uri}/{attempt}"
        outcomes = _race([make_result("one"), make_result("two", answer="other")], uri)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["ConfigurationError", "NoneType"], outcomes
        assert "output_overwrite" in str(next(filter(None, outcomes)))
        assert audit_result(uri).problems == ()


def test_two_writers_of_the_same_result_both_succeed(store_uri, make_result):
    assert _race([make_result("one"), make_result("two")], store_uri) == [None, None]
    assert audit_result(store_uri).problems == ()
