"""A component that `make component` has made: listed, linted, compiled and tested in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tools.new_component import ROOT, create, files

NAME = "count_words"


@pytest.fixture
def copy(tmp_path):
    for name in ("src/kfp_llm_batch", "components", "pipelines", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").mkdir()
    for name in ("pyproject.toml", "tests/conftest.py"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    for name in ("components", "pipelines"):  # as the package has them
        (tmp_path / "src" / "kfp_llm_batch" / name).symlink_to(tmp_path / name)
    return tmp_path


def python(folder, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    finished = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_a_new_component_is_whole(copy):
    create(NAME, copy)
    script = (
        "from kfp import compiler\n"
        f"from kfp_llm_batch.components import {NAME} as made\n"
        "compiler.Compiler().compile(made, 'component.yaml')\n"
        "import kfp_llm_batch; print(kfp_llm_batch.__file__)"
    )
    assert str(copy) in python(copy, "-c", script)
    assert "comp-count-words" in (copy / "component.yaml").read_text()
    assert "1 passed" in python(copy, "-m", "pytest", "-q", "-n", "0", f"tests/components/test_{NAME}.py")
    listed = ["pyproject.toml", "components/__init__.py"]
    assert all(NAME in (copy / path).read_text() for path in listed)
    for name in ("components", "pipelines"):  # ruff looks at the folders as the repository has them
        (copy / "src" / "kfp_llm_batch" / name).unlink()
    made = [path for path in (*files(NAME), "components/__init__.py") if path.endswith(".py")]
    python(copy, "-m", "ruff", "check", *made)
    python(copy, "-m", "ruff", "format", "--check", *made)


@pytest.mark.parametrize("name", ["", "Count_words", "count", "count-words", "../x_y"])
def test_a_wrong_name_is_refused(name, tmp_path):
    with pytest.raises(SystemExit, match="verb_noun"):
        create(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(SystemExit, match=r"components/load_dataset/component\.py"):
        create("load_dataset")


def test_contributing_shows_what_is_made():
    shown = re.findall(r"^(\?\?| M) (\S+)$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert {path for mark, path in shown if mark == " M"} == {"components/__init__.py", "pyproject.toml"}
    made = tuple(path for mark, path in shown if mark == "??")
    assert all(path.startswith(made) for path in files(NAME))
