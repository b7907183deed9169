import errno
import os
import subprocess
from pathlib import Path

import pytest

from kfp_llm_batch.errors import StorageError
from kfp_llm_batch.storage.object_store import open_store


def test_a_file_address_and_a_path_are_the_same_place(tmp_path: Path):
    open_store(f"file://{tmp_path}/a%20b").write("x", b"1")
    assert open_store(str(tmp_path / "a b")).read("x") == b"1"


def test_unfinished_files_are_never_listed(tmp_path: Path):
    (tmp_path / ".kfp-llm-batch-0123456789abcdef.tmp").write_bytes(b"half")
    (tmp_path / ".hidden").write_bytes(b"1")
    assert [entry.key for entry in open_store(str(tmp_path)).list()] == [".hidden"]


def test_a_failed_upload_leaves_nothing(tmp_path: Path):
    with pytest.raises(StorageError):
        open_store(str(tmp_path / "store")).upload(tmp_path / "none", "x")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code):
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    store = open_store(str(tmp_path))
    assert store.write("x", b"first", only_if_absent=True)
    assert not store.write("x", b"second", only_if_absent=True)
    assert store.read("x") == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_file_where_a_folder_should_be(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(StorageError, match="A file stands where a folder should be"):
        open_store(str(tmp_path / "file")).write("x", b"1")
    with pytest.raises(StorageError, match="A file stands where a folder should be"):
        list(open_store(str(tmp_path / "file")).list())


def test_a_folder_where_a_file_should_be(tmp_path: Path):
    (tmp_path / "x").mkdir()
    with pytest.raises(StorageError, match="A folder stands where a file should be"):
        open_store(str(tmp_path)).write("x", b"1")


def test_an_unwritable_folder(tmp_path: Path):
    tmp_path.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(StorageError, match=r"Could not write .*: Permission denied. Give this user the right"):
            open_store(str(tmp_path / "result")).write("x", b"1")
    finally:
        os.seteuid(user)


def test_a_place_that_no_one_can_write():
    with pytest.raises(StorageError, match="Could not write /proc/self/result"):
        open_store("/proc/self/result").write("x", b"1")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk(tmp_path: Path):
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        expected = r"No space left on device; it needs 200,000 bytes; [0-9,]+ bytes are free. Free some space"
        with pytest.raises(StorageError, match=expected):
            open_store(str(tmp_path)).write("x", b"1" * 200_000)
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)
