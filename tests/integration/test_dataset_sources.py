"""Datasets from object stores, web servers and the hub: real servers and a real hub cache, all local."""

import functools
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest

from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.dataset.sources import open_dataset
from kfp_llm_batch.errors import ConfigurationError, StorageError
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.storage.object_store import open_store

LINES = [f'{{"q": "{letter}"}}\n' for letter in "abc"]
COMMIT = "c0ffee" * 6 + "beef"


def read(uri: str, folder: Path, **config: Any) -> list[str]:
    source = open_dataset(DatasetConfig(uri=uri, **config), folder)
    return [text for batch in source.batches() for text in batch.table.column("q").to_pylist()]


@pytest.fixture
def stored(store_uri: str) -> str:
    store = open_store(store_uri)
    store.write("data.jsonl", LINES[0].encode())
    store.write("more/data.jsonl", LINES[1].encode())
    store.write("more/other.jsonl", LINES[2].encode())
    store.write("data.jsonl.md5", b"x")
    return store_uri


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/data.jsonl", ["a"]),
        ("", ["a", "b", "c"]),
        ("/more/", ["b", "c"]),
        ("/*.jsonl", ["a"]),
        ("/**/*.jsonl", ["a", "b", "c"]),
        ("/m*/?ther.jsonl", ["c"]),
    ],
)
def test_object_stores(stored, tmp_path, path, expected):
    assert read(stored + path, tmp_path / "work") == expected


@pytest.mark.parametrize("path", ["/x/_staging", "/.hidden"])
def test_a_folder_may_be_called_as_hidden_ones_are(store_uri, tmp_path, path):
    open_store(store_uri).write(f"{path[1:]}/data.jsonl", LINES[0].encode())
    assert read(store_uri + path, tmp_path / "work") == ["a"]


@pytest.mark.store
@pytest.mark.parametrize(("limit", "fetched"), [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_limit_fetches_no_more_files_than_it_needs(s3_uri, tmp_path, limit, fetched):
    for number, line in enumerate(LINES):
        open_store(s3_uri).write(f"{number}.jsonl", line.encode())
    assert read(s3_uri, tmp_path, limit=limit) == ["a", "b", "c"][:limit]
    assert len(list(tmp_path.rglob("*.jsonl"))) == fetched


def test_saved_folder_in_a_store(store_uri, tmp_path):
    datasets.Dataset.from_list([{"q": "a"}, {"q": "b"}]).save_to_disk(tmp_path / "saved")
    store = open_store(store_uri)
    for path in (tmp_path / "saved").iterdir():
        store.upload(path, f"saved/{path.name}")
    assert read(f"{store_uri}/saved", tmp_path / "work") == ["a", "b"]


@pytest.mark.parametrize("path", ["/nope.jsonl", "/data", "/more/x*", "/nope/"])
def test_nothing_in_a_store(stored, tmp_path, path):
    with pytest.raises(ConfigurationError, match=r"does not exist|there is nothing|matches no file"):
        read(stored + path, tmp_path / "work")


class Web(http.server.BaseHTTPRequestHandler):
    """Answers by the first folder of the path, and counts how often each path was asked."""

    asked: dict[str, int]

    def __init__(self, *args: Any, asked: dict[str, int]) -> None:
        self.asked = asked
        super().__init__(*args)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked[path] = self.asked.get(path, 0) + 1
        kind = path.split("/")[1]
        if kind == "busy" and self.asked[path] < 3:
            self.send_error(503)
        elif kind.isdigit():
            self.send_error(int(kind))
        else:
            body = "".join(LINES).encode()
            is_cut = kind == "cut" and self.asked[path] == 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:-5] if is_cut else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[tuple[str, dict[str, int]]]:
    asked: dict[str, int] = {}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Web, asked=asked)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://user:hunter2@127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.parametrize(("path", "times"), [("/ok/a%20b.jsonl", 1), ("/busy/a.jsonl", 3), ("/cut/a.jsonl", 2)])
def test_web_files_are_fetched_with_retries(web, tmp_path, path, times):
    address, asked = web
    assert read(f"{address}{path}?token=hunter2", tmp_path) == ["a", "b", "c"]
    assert asked == {path: times}


def test_the_recorded_address_has_no_secrets(web, tmp_path):
    address = f"{web[0]}/ok/a.jsonl?token=hunter2"
    manifest = load_dataset(DatasetConfig(uri=address, prompt_template="{{ q }}"), tmp_path)
    assert manifest.parameters["uri"].endswith("/ok/a.jsonl")
    assert "hunter2" not in manifest.to_json()


@pytest.mark.parametrize(
    ("path", "error", "message", "times"),
    [
        ("/404/a.jsonl", ConfigurationError, r"/404/a.jsonl does not exist \(HTTP 404\)", 1),
        ("/403/a.jsonl", StorageError, r"^http\S+/403/a.jsonl was refused \(HTTP 403\)", 1),
        ("/500/a.jsonl", StorageError, r"/500/a.jsonl was not answered: HTTP 500", 4),
    ],
)
def test_web_refusals_are_named_without_secrets(web, tmp_path, path, error, message, times):
    address, asked = web
    with pytest.raises(error, match=message) as caught:
        read(f"{address}{path}?token=hunter2", tmp_path)
    assert "hunter2" not in str(caught.value)
    assert asked == {path: times}


def test_web_address_without_extension_needs_a_format(web, tmp_path):
    with pytest.raises(ConfigurationError, match="Set dataset_format"):
        read(f"{web[0]}/ok/download", tmp_path)
    assert read(f"{web[0]}/ok/download", tmp_path, format="jsonl") == ["a", "b", "c"]


def test_an_address_that_is_none_is_a_wrong_parameter(tmp_path):
    with pytest.raises(ConfigurationError, match=r"http://\[::1/a.jsonl is not an address of a web server"):
        read("http://user:hunter2@[::1/a.jsonl", tmp_path)


def test_unreachable_server_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="cannot be fetched: ConnectionError"):
        read("http://127.0.0.1:1/a.jsonl?token=hunter2", tmp_path)


# The hub's settings are read at import, so that these cases are in processes of their own.
LOAD = """
import contextlib, io, json, sys
from pathlib import Path
from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.errors import exit_with_message

def load(config, folder):
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
        try:
            with exit_with_message():
                return 0, load_dataset(DatasetConfig(prompt_template="{{ q }}", **config), folder).to_json()
        except SystemExit as ended:
            return ended.code, printed.getvalue()

configs = json.loads(sys.argv[1])
print(json.dumps([load(config, Path(sys.argv[2]) / str(number)) for number, config in enumerate(configs)]))
"""
VERIFY = """
import json, sys
from kfp_llm_batch.cli.main import main

def verify(result, dataset):
    sys.argv = ["kfp-llm-batch", "verify", result, "--dataset", dataset]
    try:
        main()
    except SystemExit as ended:
        return ended.code

result, *datasets = sys.argv[1:]
print(json.dumps([verify(result, dataset) for dataset in datasets]))
"""


def load_offline(folder: Path, *configs: dict[str, Any]) -> list[tuple[int, str]]:
    """Exit code, and the manifest or what was printed, of each."""
    return [(code, text) for code, text in run_offline(folder, LOAD, json.dumps(configs), str(folder / "out"))]


def run_offline(folder: Path, script: str, *arguments: str) -> list[Any]:
    """The list in the last line that the script prints."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture
def hub_cache(tmp_path: Path) -> Path:
    """A cache as the hub library lays it out, with one dataset of two splits."""
    repository = tmp_path / "hf/hub/datasets--acme--faq"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    for name, lines in {"train.jsonl": LINES, "test.jsonl": LINES[:1]}.items():
        (repository / "blobs" / name).write_text("".join(lines))
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    return tmp_path


HUB = {"uri": "hf://acme/faq"}
WRONG_HUB_PARAMETERS = [
    ({}, "several splits and dataset_split does not say which. Allowed: train, test"),
    ({"split": "tset"}, "has no such split. Received: 'tset'. Allowed: train, test. Did you mean 'test'?"),
    ({"revision": "v9"}, "the hub cache has no dataset acme/faq at v9"),
    ({"config": "zz"}, "BuilderConfig 'zz' not found. Available: ['default']"),
]


def test_hub_dataset_from_the_offline_cache_and_wrong_parameters(hub_cache):
    good, *wrong = load_offline(
        hub_cache, HUB | {"split": "train", "limit": 2}, *(HUB | config for config, _ in WRONG_HUB_PARAMETERS)
    )
    assert good[0] == 0, good[1]
    manifest = json.loads(good[1])
    assert manifest["rows"] == 2
    assert (manifest["source_format"], manifest["source_revision"]) == ("hub", COMMIT)
    for (code, printed), (_, message) in zip(wrong, WRONG_HUB_PARAMETERS, strict=True):
        assert code == ConfigurationError.exit_code
        assert message in printed
        assert "Traceback" not in printed


def test_a_result_is_verified_against_the_commit_that_was_answered(hub_cache):
    ((code, printed),) = load_offline(hub_cache, HUB | {"split": "train"})
    assert code == 0, printed
    generate(GenerationConfig(model_uri="echo://"), hub_cache / "out/0", hub_cache / "result")
    repository = hub_cache / "hf/hub/datasets--acme--faq"
    newer = repository / "snapshots" / COMMIT[::-1]
    newer.mkdir()
    (newer / "train.jsonl").write_text(LINES[0])
    (repository / "refs/main").write_text(newer.name)

    (hub_cache / "copy.jsonl").write_text("".join(LINES))
    (hub_cache / "less.jsonl").write_text("".join(LINES[1:]))
    datasets = ["hf://acme/faq", str(hub_cache / "copy.jsonl"), str(hub_cache / "less.jsonl")]
    assert run_offline(hub_cache, VERIFY, str(hub_cache / "result"), *datasets) == [0, 0, 3]
