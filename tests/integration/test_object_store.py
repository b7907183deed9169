"""One suite over every kind of store, then what each says about bad access."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kfp_llm_batch.errors import ConfigurationError, StorageError
from kfp_llm_batch.storage.object_store import ObjectNotFoundError, open_store


def test_written_bytes_are_read_and_listed(store_uri):
    store = open_store(store_uri)
    assert list(store.list()) == []
    assert store.write("a/b.txt", b"one")
    assert store.write("a-b", b"")
    assert store.write("a/c/d", "ü".encode())
    assert [(entry.key, entry.size) for entry in store.list()] == [("a-b", 0), ("a/b.txt", 3), ("a/c/d", 2)]
    assert [entry.key for entry in store.list("a/")] == ["a/b.txt", "a/c/d"]
    assert [entry.key for entry in store.list("a/b")] == ["a/b.txt"]
    assert list(store.list("none/")) == []
    assert store.read("a/b.txt") == b"one"
    assert store.write("a/b.txt", b"two")
    assert store.read("a/b.txt") == b"two"


def test_a_name_beside_the_root_is_outside(store_uri):
    open_store(store_uri + "-beside").write("x", b"1")
    assert list(open_store(store_uri).list()) == []


@pytest.mark.parametrize("size", [0, 1, 12_000_001], ids=["empty", "small", "multipart"])
def test_files_come_back_as_they_went(store_uri, tmp_path: Path, size):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(range(251)) * (size // 251) + b"x" * (size % 251))
    store = open_store(store_uri)
    store.upload(source, "deep/er/file name (1).bin")
    assert [entry.size for entry in store.list()] == [size]
    store.download("deep/er/file name (1).bin", target)
    assert target.read_bytes() == source.read_bytes()


def test_conditional_create_has_one_winner(store_uri):
    stores = [open_store(store_uri) for _ in range(6)]
    wins: list[int] = []
    barrier = threading.Barrier(len(stores))

    def create(number: int) -> None:
        barrier.wait()
        if stores[number].write("manifest.json", b"%d" % number, only_if_absent=True):
            wins.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(len(stores))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert stores[0].read("manifest.json") == b"%d" % wins[0]
    assert not stores[0].write("manifest.json", b"%d" % wins[0], only_if_absent=True)
    assert [entry.key for entry in stores[0].list()] == ["manifest.json"]


def test_conditional_replace_has_one_winner(store_uri):
    stores = [open_store(store_uri) for _ in range(6)]
    assert not stores[0].replace("manifest.json", b"old", b"new")
    stores[0].write("manifest.json", b"old")
    assert not stores[0].replace("manifest.json", b"other", b"new")
    barrier = threading.Barrier(len(stores))

    def replace(number: int) -> bool:
        barrier.wait()
        return stores[number].replace("manifest.json", b"old", b"%d" % number)

    with ThreadPoolExecutor(len(stores)) as threads:
        wins = list(threads.map(replace, range(len(stores))))
    assert wins.count(True) == 1
    assert stores[0].read("manifest.json") == b"%d" % wins.index(True)
    assert [entry.key for entry in stores[0].list()] == ["manifest.json"]


def test_a_missing_object_has_its_own_error(store_uri, tmp_path: Path):
    store = open_store(store_uri)
    store.write("other", b"1")
    with pytest.raises(ObjectNotFoundError, match="none"):
        store.read("none")
    with pytest.raises(ObjectNotFoundError, match="none"):
        store.download("none", tmp_path / "target")
    store.delete("none")
    store.delete("other")
    assert list(store.list()) == []


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x"])
def test_keys_stay_under_the_root(store_uri, key):
    with pytest.raises(ConfigurationError, match="under the store's root"):
        open_store(store_uri).read(key)


def test_a_download_into_an_impossible_place_is_explained(store_uri, tmp_path: Path):
    store = open_store(store_uri)
    store.write("x", b"1")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="Is a directory"):
        store.download("x", tmp_path / "folder")


def _message(action) -> str:
    with pytest.raises((StorageError, ConfigurationError)) as caught:
        action()
    message = str(caught.value)
    assert "Traceback" not in message
    return message


@pytest.mark.store
@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("KFP_LLM_BATCH_S3_ACCESS_KEY", "unknown", ["does not know the access key", "KFP_LLM_BATCH_S3_ACCESS_KEY"]),
        ("KFP_LLM_BATCH_S3_SECRET_KEY", "very-wrong", ["secret key wrong", "KFP_LLM_BATCH_S3_SECRET_KEY"]),
    ],
)
def test_s3_wrong_keys(s3_uri, s3_store, monkeypatch, variable, value, words):
    monkeypatch.setenv(variable, value)
    message = _message(lambda: open_store(s3_uri).write("x", b"1"))
    words += [s3_uri, s3_store.endpoint, "storage_secret_name"]
    assert [word for word in words if word not in message] == [], message
    assert "very-wrong" not in message


@pytest.mark.store
@pytest.mark.parametrize("action", ["list", "read", "upload"])
@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_missing_bucket(scheme, action, request, tmp_path: Path):
    request.getfixturevalue(f"{scheme}_uri")
    store = open_store(f"{scheme}://no-such-bucket/x")
    file = tmp_path / "file"
    file.write_bytes(b"1")
    actions = {
        "list": lambda: list(store.list()),
        "read": lambda: store.read("x"),
        "upload": lambda: store.upload(file, "x"),
    }
    message = _message(actions[action])
    assert "has no such bucket" in message
    assert "Create the bucket" in message


def test_unreachable_store_fails_soon(monkeypatch):
    """All at the same time, since each takes as long as the patience."""
    monkeypatch.setenv("KFP_LLM_BATCH_S3_ACCESS_KEY", "a")
    monkeypatch.setenv("KFP_LLM_BATCH_S3_SECRET_KEY", "hidden-value")
    stores = {}
    for endpoint in ("http://127.0.0.1:1", "http://192.0.2.1:9"):  # the one refuses, the other is silent
        monkeypatch.setenv("KFP_LLM_BATCH_S3_ENDPOINT", endpoint)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
        stores[endpoint, "KFP_LLM_BATCH_S3_ENDPOINT"] = open_store("s3://bucket/x")
        stores[endpoint, "STORAGE_EMULATOR_HOST"] = open_store("gs://bucket/x")
    started = time.monotonic()
    with ThreadPoolExecutor(len(stores)) as threads:
        messages = threads.map(lambda store: _message(lambda: store.write("x", b"1")), stores.values())
    assert time.monotonic() - started < 15
    for words, message in zip(stores, messages, strict=True):
        assert [word for word in (*words, "did not answer") if word not in message] == [], message
        assert "hidden-value" not in message


def test_https_asked_of_an_http_server(s3_uri, s3_store, monkeypatch):
    monkeypatch.setenv("KFP_LLM_BATCH_S3_ENDPOINT", s3_store.endpoint.removeprefix("http://"))
    message = _message(lambda: open_store(s3_uri).read("x"))
    assert "TLS" in message
    assert "http:// or https://" in message


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"ENDPOINT": "ftp://host"}, ["ftp://host", "http://host:port", "KFP_LLM_BATCH_S3_ENDPOINT"]),
        ({"ENDPOINT": "http://host/path"}, ["not an address of a server"]),
        ({"ENDPOINT": "http://me:hidden-value@host"}, ["not an address of a server", "'http://host'"]),
        ({"ENDPOINT": "me:hidden-value@host:9000"}, ["not an address of a server", "'host:9000'"]),
        ({"ENDPOINT": "http:/me:hidden-value@host"}, ["not an address of a server", "'host'"]),
        ({"ENDPOINT": "http://me:x@hidden-value@host?hidden-value"}, ["not an address of a server", "'http://host'"]),
        ({"ACCESS_KEY": "a"}, ["KFP_LLM_BATCH_S3_ACCESS_KEY is set without KFP_LLM_BATCH_S3_SECRET_KEY"]),
        ({"ENDPOINT": "host name:x"}, ["host name:x"]),
    ],
)
def test_wrong_s3_settings(environment, words, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(f"KFP_LLM_BATCH_S3_{name}", value)
    message = _message(lambda: open_store("s3://bucket/x"))
    assert [word for word in words if word not in message] == [], message
    assert "hidden-value" not in message


def test_the_aws_chain_and_its_endpoint_are_honoured(s3_uri, s3_store, monkeypatch, tmp_path: Path):
    ours = s3_store.environment()
    for name in ours:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_store.endpoint)
    profile = tmp_path / "credentials"
    key, secret = ours["KFP_LLM_BATCH_S3_ACCESS_KEY"], ours["KFP_LLM_BATCH_S3_SECRET_KEY"]
    profile.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    assert open_store(s3_uri).write("x", b"1")


def test_no_s3_credentials_at_all(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("KFP_LLM_BATCH_S3_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    started = time.monotonic()
    message = _message(lambda: open_store("s3://bucket/x").read("x"))
    assert time.monotonic() - started < 10
    assert "none were found" in message
    assert "KFP_LLM_BATCH_S3_ACCESS_KEY" in message


def test_no_google_credentials_at_all(monkeypatch, tmp_path: Path):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    message = _message(lambda: open_store("gs://bucket/x"))
    assert "needs Google credentials" in message
    assert "GOOGLE_APPLICATION_CREDENTIALS" in message


def test_secrets_are_in_no_representation(s3_uri, s3_store):
    store = open_store(s3_uri)
    secret = s3_store.environment()["KFP_LLM_BATCH_S3_SECRET_KEY"]
    assert secret not in repr(store) + repr(s3_store)
    assert secret not in repr(vars(store))
