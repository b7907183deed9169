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
from typing import Any, Self

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
from kfp_llm_batch.results.publishing import existing_result, fetch_result, publish_result
from kfp_llm_batch.steps import step
from kfp_llm_batch.storage.embedded_store import EmbeddedStore
from kfp_llm_batch.storage.object_store import ObjectNotFoundError, ObjectStore, open_store
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


@pytest.mark.store
def test_what_is_not_there_is_not_there_through_a_bad_network_either(spoiled_store):
    with spoiled_store("drop before", "503") as store:
        for number in range(5):
            with pytest.raises(ObjectNotFoundError):
                store.read(f"{number}")


DELAYED_STEPS = json.dumps({"delay": [[]]})
"""The echo engine answers some 600 rows a second then."""


class Outage(threading.Thread):
    """Kills the store at a moment, and starts it again on the same folder and port when a hasty caller has given up."""

    def __init__(self, store: EmbeddedStore, moment: Callable[[], bool]) -> None:
        super().__init__()
        self._store = store
        self._moment = moment
        self.has_begun = threading.Event()

    def run(self) -> None:
        try:
            wait_until(self._moment)
        finally:
            self._begin()
        time.sleep(PATIENCE_SECONDS + 1)
        self._store.__enter__()

    def _begin(self) -> None:
        assert self._store._process
        os.killpg(self._store._process.pid, signal.SIGKILL)
        self._store.__exit__()
        self.has_begun.set()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.join()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for does not come"
        time.sleep(0.02)


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
def test_a_store_that_is_killed_and_restarted_ends_no_run(own_store, make_result, make_prompts, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "ROWS_PER_PART", 100)
    rows, uri = 2000, f"s3://{own_store.bucket}/out"
    prompts = make_prompts([{"question": f"What is {row}?"} for row in range(rows)])
    earlier = Checkpoint(f"s3://{own_store.bucket}/earlier")
    generate(GenerationConfig(model_uri="echo://", checkpoint_uri=earlier.uri), prompts, tmp_path / "earlier")
    make_result("two")

    monkeypatch.setenv("KFP_LLM_BATCH_FAULTS", DELAYED_STEPS)
    checkpoint = Checkpoint(f"{uri}/checkpoint")
    with Outage(own_store, lambda: len(checkpoint.part_names()) >= 2) as outage, ThreadPoolExecutor(2) as threads:

        def during_the_outage(work: Callable[..., Any], *arguments: Any) -> Any:
            outage.has_begun.wait()
            return work(*arguments)

        tables = threads.submit(during_the_outage, list, earlier.tables())
        published = threads.submit(during_the_outage, publish_result, tmp_path / "two", f"s3://{own_store.bucket}/two")
        generate(GenerationConfig(model_uri="echo://", output_uri=uri), prompts, tmp_path / "one")
        assert outage.has_begun.is_set()
    assert sum(table.num_rows for table in tables.result()) == rows
    assert published.result() == existing_result(f"s3://{own_store.bucket}/two")
    publish_result(tmp_path / "one", uri)
    check_answers(uri, tmp_path / "fetched", rows)


RUN = """
import sys
from pathlib import Path
from kfp_llm_batch.generation import parts
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.steps import step

parts.ROWS_PER_PART = 100
with step(""):
    generate(GenerationConfig(model_uri="echo://", checkpoint_uri=sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
"""
POD_SECONDS = 30
"""Between SIGTERM and SIGKILL."""


@pytest.fixture
def run_without_a_store(s3_store, s3_uri, make_prompts, tmp_path, monkeypatch):
    """Starts a run, and lets the network fail once some of its parts are stored; gives the proxy and the process."""

    @contextlib.contextmanager
    def start(fault: str, faults: int) -> Iterator[tuple[FaultProxy, subprocess.Popen[str]]]:
        prompts = make_prompts([{"question": f"What is {row}?"} for row in range(2000)])
        command = [sys.executable, "-c", RUN, s3_uri, str(prompts), str(tmp_path / "result")]
        with FaultProxy(s3_store.endpoint, seed=3, rate=0, faults=[fault]) as proxy:
            environment = {"KFP_LLM_BATCH_FAULTS": DELAYED_STEPS, "KFP_LLM_BATCH_S3_ENDPOINT": proxy.endpoint}
            pipe: Any = subprocess.PIPE
            with subprocess.Popen(command, env={**os.environ, **environment}, stderr=pipe, text=True) as process:
                try:
                    wait_until(lambda: len(list(open_store(s3_uri).list("part-"))) >= 2)
                    proxy.rate = 1
                    wait_until(lambda: proxy.counts[fault] >= faults)
                    yield proxy, process
                finally:
                    process.kill()

    return start


def kept_rows(uri: str) -> list[str]:
    return [row_id for table in Checkpoint(uri).tables() for row_id in table["row_id"].to_pylist()]


@pytest.mark.store
@pytest.mark.parametrize(("fault", "faults"), [("503", 5), ("silence", 1)])
def test_sigterm_ends_a_run_that_waits_for_its_store(fault, faults, run_without_a_store, s3_uri, tmp_path):
    with run_without_a_store(fault, faults) as (_, process):
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=POD_SECONDS)
    assert process.returncode == 6, stderr
    message = stderr.splitlines()[-1]
    assert message.startswith("InterruptedRunError: The run was interrupted")
    assert f"Could not write {s3_uri}/part-" in message
    assert "100 finished rows are not in the checkpoint" in message

    kept = kept_rows(s3_uri)
    assert len(kept) == len(set(kept)) >= 200
    config = GenerationConfig(model_uri="echo://", checkpoint_uri=s3_uri)
    manifest = generate(config, tmp_path / "prompts", tmp_path / "again")
    assert manifest.rows_out == 2000
    assert sorted(kept_rows(s3_uri), key=int) == [str(row) for row in range(2000)], "none was answered twice"


@pytest.mark.store
def test_what_waits_for_a_store_is_kept_when_it_is_back_at_the_signal(run_without_a_store, s3_uri):
    with run_without_a_store("503", faults=7) as (proxy, process):
        before = len(kept_rows(s3_uri))
        proxy.rate = 0
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=POD_SECONDS)
    assert process.returncode == 6, stderr
    assert stderr.splitlines()[-1].startswith("InterruptedRunError: The run was interrupted. ")
    assert len(kept_rows(s3_uri)) >= before + 100


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
