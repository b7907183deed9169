import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kfp_llm_batch.caches import cache_folder
from kfp_llm_batch.errors import ConfigurationError, StorageError
from kfp_llm_batch.models.cache import cached_folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("KFP_LLM_BATCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Maker:
    """Fills a folder and remembers how often it had to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "weights").write_bytes(b"w" * 1000)
        (folder / "weights").chmod(0o600)  # as safetensors leaves them
        (folder / "sub").mkdir()
        (folder / "sub/config").write_text("c")


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.endswith(".lock"))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"KFP_LLM_BATCH_CACHE": "/own", "XDG_CACHE_HOME": "/xdg"}, "/own"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/kfp-llm-batch"),
        ({"HOME": "/home/me"}, "/home/me/.cache/kfp-llm-batch"),
    ],
    ids=["own", "xdg", "home"],
)
def test_where_the_cache_is(monkeypatch, environment, expected):
    for name in ("KFP_LLM_BATCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


def test_a_folder_is_made_once(cache):
    maker = Maker()
    folder = cached_folder("model", maker)
    assert folder == cache / "models/model" == cached_folder("model", maker)
    assert (folder / "sub/config").read_text() == "c"
    assert maker.calls == 1
    assert entries(cache / "models") == ["model"]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
    assert modes == {"model": 0o755, "sub": 0o755, ".digests.json": 0o644, "config": 0o644, "weights": 0o644}


def test_a_folder_appears_only_when_it_is_whole(cache):
    seen: list[list[str]] = []

    def make(folder: Path) -> None:
        (folder / "weights").touch()
        seen.append([name for name in entries(cache / "models") if not name.startswith(".")])

    cached_folder("model", make)
    assert seen == [[]]


def damage_by_a_byte(folder: Path) -> None:
    (folder / "weights").write_bytes(b"w" * 999 + b"x")


def damage_by_a_lost_file(folder: Path) -> None:
    (folder / "weights").unlink()


def damage_by_a_further_file(folder: Path) -> None:
    (folder / "more").touch()


def damage_by_lost_digests(folder: Path) -> None:
    (folder / ".digests.json").unlink()


def damage_by_cut_digests(folder: Path) -> None:
    (folder / ".digests.json").write_text('{"weights": ')


@pytest.mark.parametrize(
    "damage",
    [
        damage_by_a_byte,
        damage_by_a_lost_file,
        damage_by_a_further_file,
        damage_by_lost_digests,
        damage_by_cut_digests,
    ],
    ids=lambda function: function.__name__.removeprefix("damage_by_").replace("_", "-"),
)
def test_a_damaged_folder_is_made_anew(damage):
    maker = Maker()
    damage(cached_folder("model", maker))
    folder = cached_folder("model", maker)
    assert maker.calls == 2
    assert entries(folder) == [".digests.json", "sub", "weights"]
    assert (folder / "weights").read_bytes() == b"w" * 1000


@pytest.mark.parametrize("error", [ConfigurationError("Wrong"), StorageError("Away"), KeyError("defect")], ids=repr)
def test_a_failing_maker_leaves_nothing_and_may_try_again(cache, error):
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise error

    with pytest.raises(type(error)) as caught:
        cached_folder("model", fail)
    assert caught.value is error
    assert entries(cache / "models") == []
    assert cached_folder("model", Maker()).is_dir()


MAKE = """
import sys, time
from pathlib import Path
from kfp_llm_batch.models.cache import cached_folder

def make(folder):
    with open(sys.argv[1], "a") as log:
        log.write("made\\n")
    (folder / "weights").write_text("half")
    time.sleep(0.5)
    (folder / "weights").write_text("whole")

print((cached_folder("model", make) / "weights").read_text())
"""


def test_two_processes_at_once_make_a_folder_once(tmp_path):
    log = tmp_path / "log"
    command = [sys.executable, "-c", MAKE, str(log)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["whole\n"] * 3
    assert log.read_text() == "made\n"


def test_a_killed_maker_does_not_block_the_next(tmp_path, cache):
    command = [sys.executable, "-c", MAKE.replace("0.5", "60"), str(tmp_path / "log")]
    with subprocess.Popen(command) as process:
        while not (tmp_path / "log").exists():
            assert process.poll() is None
        process.kill()
    assert cached_folder("model", Maker()) == cache / "models/model"
    assert entries(cache / "models") == ["model"]


def test_a_cache_below_a_file_is_a_clear_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KFP_LLM_BATCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigurationError, match=r"cache cannot be written.*Set KFP_LLM_BATCH_CACHE"):
        cached_folder("model", Maker())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_without_write_permission_is_a_clear_error(cache):
    cache.mkdir(mode=0o500)
    with pytest.raises(ConfigurationError, match=r"Permission denied.*Set KFP_LLM_BATCH_CACHE"):
        cached_folder("model", Maker())
