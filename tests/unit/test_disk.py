import tempfile
from pathlib import Path

import pytest

from kfp_llm_batch.disk import temporary_folder
from kfp_llm_batch.errors import StorageError


def fill() -> None:
    with temporary_folder() as folder:
        (folder / "part").write_text("a")
        Path("/dev/full").write_text("a")


def test_a_disk_that_is_full_is_one_clear_message_and_nothing_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(StorageError, match=r"Could not write .*No space left on device; [\d,]+ bytes are free"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_what_fails_for_another_reason_is_not_taken_for_the_folder():
    with pytest.raises(FileNotFoundError, match="/missing"), temporary_folder():
        Path("/missing").read_text()


def test_no_place_for_a_temporary_folder_is_one_clear_message(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(StorageError, match=r"Could not write .*No such file or directory"), temporary_folder():
        pass
