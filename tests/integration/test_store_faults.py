"""Stores that fail, are restarted or full, while a run goes on."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.errors import StorageError
from kfp_llm_batch.generation import parts
from kfp_llm_batch.generation.checkpoint import Checkpoint
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.results.audit import audit_result
from kfp_llm_batch.results.publishing import fetch_result, publish_result
from kfp_llm_batch.steps import step
from kfp_llm_batch.storage.embedded_store import EmbeddedStore
from kfp_llm_batch.storage.object_store import ObjectStore, open_store
from kfp_llm_batch.storage.remote_store import PATIENCE_SECONDS
from tests.fault_proxy import FaultProxy

COMMAND = str(Path(sys.executable).with_name("kfp-llm-batch"))


def dataset_lines(rows: int) -> bytes:
    return b"".join(json.dumps({"question": f"What is {row}?"}).encode() + b"\n" for row in range(rows))


def check_answers(uri: str, folder: Path, rows: int) -> None:
    report = audit_result(uri)
    assert report.ok, report.to_text()
    fetch_result(uri, folder)
    table = pq.read_table(folder / "parts")
    answers = dict(zip(table["row_id"].to_pylist(), table["completion"].to_pylist(), strict=True))
    assert answers == {str(row): f"What is {row}?" for row in range(rows)}


@pytest.mark.store
@pytest.mark.parametrize(("scheme", "seed"), [("s3", 1), ("gs", 2)])
def test_a_run_through_a_network_that_spoils_one_request_in_ten(scheme, seed, request, tmp_path, monkeypatch):
    uri = request.getfixturevalue(f"{scheme}_uri")
    server = request.getfixturevalue("s3_store" if scheme == "s3" else "gcs_store")
    monkeypatch.setattr(parts, "ROWS_PER_PART", 100)
    rows = 3000
    open_store(uri).write("data/rows.jsonl", dataset_lines(rows))
    with FaultProxy(server.endpoint, seed=seed) as proxy:
        monkeypatch.setenv("KFP_LLM_BATCH_S3_ENDPOINT", proxy.endpoint)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.endpoint)
        config = DatasetConfig(uri=f"{uri}/data/rows.jsonl", prompt_template="{{ question }}")
        load_dataset(config, tmp_path / "prompts")
        generation = GenerationConfig(model_uri="echo://", output_uri=f"{uri}/out")
        generate(generation, tmp_path / "prompts", tmp_path / "one")
        generate(generation, tmp_path / "prompts", tmp_path / "two")
        publish_result(tmp_path / "two", f"{uri}/out")
        check_answers(f"{uri}/out", tmp_path / "fetched", rows)
        assert [entry.key for entry in open_store(uri).list("out/checkpoint/")] == []
    assert sum(proxy.counts.values()) - proxy.counts[""] >= 10, proxy.counts


@pytest.fixture(params=["s3", "gs"])
def spoiled_store(request, monkeypatch) -> Callable[..., contextlib.AbstractContextManager[ObjectStore]]:
    """Opens a fresh folder in a store through a network that spoils every other request."""

    @contextlib.contextmanager
    def open_spoiled(*faults: str) -> Iterator[ObjectStore]:
        uri = request.getfixturevalue(f"{request.param}_uri")
        server = request.getfixturevalue("s3_store" if request.param == "s3" else "gcs_store")
        with FaultProxy(server.endpoint, seed=7, rate=0.5, faults=faults) as proxy:
            monkeypatch.setenv("KFP_LLM_BATCH_S3_ENDPOINT", proxy.endpoint)
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.endpoint)
            yield open_store(uri, patience_seconds=30)

    return open_spoiled


@pytest.mark.store
def test_a_conditional_write_whose_answer_was_lost_is_ours(spoiled_store):
    with spoiled_store("drop after") as store:
        for number in range(5):
            assert store.write(f"{number}", b"one", only_if_absent=True)
            assert not store.write(f"{number}", b"two", only_if_absent=True)
            assert store.replace(f"{number}", b"one", b"three")
            assert not store.replace(f"{number}", b"one", b"four")
            assert store.read(f"{number}") == b"three"


@pytest.mark.store
def test_half_an_answer_and_answers_of_any_kind_are_asked_for_again(spoiled_store, tmp_path):
    data = bytes(range(256)) * 500
    (tmp_path / "data").write_bytes(data)
    with spoiled_store("truncate", "429", "500", "503") as store:
        for number in range(8):
            store.upload(tmp_path / "data", f"{number}")
            assert store.read(f"{number}") == data
            store.download(f"{number}", tmp_path / "copy")
            assert (tmp_path / "copy").read_bytes() == data
            assert [(entry.key, entry.size) for entry in store.list(f"{number}")] == [(f"{number}", len(data))]
            store.delete(f"{number}")
        assert list(store.list()) == []


DELAYED_STEPS = json.dumps({"delay": [[]]})
"""The echo engine answers some 600 rows a second then."""


class Outage(threading.Thread):
    """Kills the store, and starts it again on the same folder and port when a hasty caller has given up."""

    def __init__(self, store: EmbeddedStore, after_seconds: float = 0) -> None:
        super().__init__()
        self._store = store
        self._after_seconds = after_seconds

    def run(self) -> None:
        time.sleep(self._after_seconds)
        assert self._store._process
        os.killpg(self._store._process.pid, signal.SIGKILL)
        self._store.stop()
        time.sleep(PATIENCE_SECONDS + 1)
        self._store.start()

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self.join()


@pytest.fixture
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedStore]:
    """A store that keeps its objects and its port when it is started again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with EmbeddedStore(tmp_path / "weed", port=port) as store:
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        yield store


@pytest.mark.store
def test_a_store_that_is_killed_and_restarted_ends_no_run(own_store, make_result, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "ROWS_PER_PART", 200)
    monkeypatch.setenv("KFP_LLM_BATCH_FAULTS", DELAYED_STEPS)
    rows, uri = 4000, f"{own_store.uri}/out"
    (tmp_path / "rows.jsonl").write_bytes(dataset_lines(rows))
    load_dataset(DatasetConfig(uri=str(tmp_path / "rows.jsonl"), prompt_template="{{ question }}"), tmp_path / "p")
    make_result("two")
    config = GenerationConfig(model_uri="echo://", output_uri=uri)
    with Outage(own_store, after_seconds=3):
        generate(config, tmp_path / "p", tmp_path / "one")
    checkpoint = Checkpoint(f"{uri}/checkpoint")
    with Outage(own_store), ThreadPoolExecutor(1) as threads:
        time.sleep(0.5)
        tables = threads.submit(list, checkpoint.tables())
        publish_result(tmp_path / "two", f"{own_store.uri}/two")
    assert sum(table.num_rows for table in tables.result()) == rows
    publish_result(tmp_path / "one", uri)
    check_answers(uri, tmp_path / "fetched", rows)


@pytest.mark.store
@pytest.mark.parametrize(
    ("variable", "bucket", "words"),
    [("KFP_LLM_BATCH_S3_SECRET_KEY", "results", "secret key wrong"), ("X", "no-such-bucket", "has no such bucket")],
    ids=["key", "bucket"],
)
def test_a_refusal_is_final_however_patient_one_is(s3_uri, make_result, monkeypatch, variable, bucket, words):
    monkeypatch.setenv(variable, "wrong")
    started = time.monotonic()
    with pytest.raises(StorageError, match=words):
        publish_result(make_result(), f"s3://{bucket}/x")
    assert time.monotonic() - started < 5


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Two MiB, of which 100 kB are free until the file `ballast` is removed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk, and not everywhere")
    try:
        (folder / "ballast").write_bytes(b"x" * (2 * 2**20 - 100_000))
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def run_steps(folders: dict[str, Path], rows_file: Path) -> None:
    """All three, each as its component calls it."""
    with step(""):
        load_dataset(DatasetConfig(uri=str(rows_file), prompt_template="{{ question }}"), folders["prompts"])
    with step(""):
        sampling = SamplingConfig(max_tokens=4000)
        config = GenerationConfig(model_uri="echo://", checkpoint_uri=str(folders["checkpoint"]), sampling=sampling)
        generate(config, folders["prompts"], folders["result"])
    with step(""):
        publish_result(folders["result"], str(folders["output"]))


@pytest.mark.parametrize("place", ["prompts", "result", "checkpoint", "output"])
def test_a_full_disk_ends_the_step_and_space_mends_it(place, small_disk, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(parts, "ROWS_PER_PART", 50)
    names = ("prompts", "result", "checkpoint", "output")
    folders = {name: tmp_path / name for name in names} | {place: small_disk / place}
    texts = [random.Random(row).randbytes(1000).hex() for row in range(300)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"question": text}) + "\n" for text in texts))
    with pytest.raises(SystemExit, match=r"^4$"):
        run_steps(folders, tmp_path / "rows.jsonl")
    message = capsys.readouterr().err
    for words in (
        f"StorageError: Could not write {small_disk}",
        "No space left on device",
        "bytes are free",
        "storage",
    ):
        assert words in message
    assert "Traceback" not in message
    written = [path for path in (small_disk / place).rglob("*") if path.is_file()]
    assert {path.suffix for path in written} <= {".parquet"}, "neither a manifest nor a file half-written"
    assert all(pq.read_table(path).num_rows for path in written if path.suffix == ".parquet")

    (small_disk / "ballast").unlink()
    run_steps(folders, tmp_path / "rows.jsonl")
    report = audit_result(str(folders["output"]))
    assert report.ok, report.to_text()
    answers = pq.read_table(folders["output"] / "parts")["completion"].to_pylist()
    assert sorted(answers) == sorted(texts)


@pytest.mark.parametrize(
    ("store_uri", "overwrite"), [("file", False), ("s3", True), ("gs", False)], indirect=["store_uri"]
)
def test_two_runs_at_once_end_in_one_result(store_uri, tmp_path, overwrite):
    (tmp_path / "rows.jsonl").write_bytes(dataset_lines(300))
    parameters = {"dataset_uri": tmp_path / "rows.jsonl", "prompt_template": "{{ question }}", "output_uri": store_uri}
    given = {**parameters, "model_uri": "echo://", "output_overwrite": str(overwrite).lower()}
    command = [COMMAND, "run", "batch_inference", *(f"-p{name}={value}" for name, value in given.items())]
    pipe: Any = subprocess.PIPE
    runs = [subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    for process in runs:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
    check_answers(store_uri, tmp_path / "fetched", 300)
    manifest = json.loads(open_store(store_uri).read("manifest.json"))
    named = {file["path"] for file in manifest["parts"]}
    assert {entry.key for entry in open_store(store_uri).list()} == named | {"manifest.json"}
