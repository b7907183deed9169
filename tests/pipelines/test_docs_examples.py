"""Every command block of the documentation is run here, or says above itself where it is run or what it needs.

The blocks of a page are run one after the other in one folder. `run` is really run, through `echo://` and with a few
rows, where its `output_uri` is in RUN; elsewhere its parameters are checked, as the command does before anything else.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from typer.testing import CliRunner

from kfp_llm_batch.cli.demo_dataset import write_demo_dataset
from kfp_llm_batch.cli.main import app
from kfp_llm_batch.parameters import read_parameters
from kfp_llm_batch.shipped import load_pipeline
from tools.site import ROOT, pages

RUN = {"results/first", "results/mine", "results/scored"}
REASONS = ("needs a cluster", "needs Docker", "needs another package: ", "takes minutes", "run by ")
_BLOCK = re.compile(r"(?:^<!-- ([^\n]*) -->\n)?^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)

BLOCKS = [
    pytest.param(page, reason, block, id=f"{page.relative_to(ROOT)}:{number}")
    for page in pages()
    for number, (reason, block) in enumerate(_BLOCK.findall(page.read_text()), 1)
]
PAGES = [page for page in pages() if _BLOCK.search(page.read_text())]


@pytest.mark.parametrize(("page", "reason", "block"), [block for block in BLOCKS if block.values[1]])
def test_a_block_that_is_not_run_here_says_why(page, reason, block):
    assert reason.startswith(REASONS)
    for test in re.findall(r"tests/[\w/.]+", reason):
        assert (ROOT / test).exists()
    if reason.startswith("run by "):
        assert page.name in (ROOT / reason.removeprefix("run by ")).read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "installed"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    write_demo_dataset(tmp_path / ".demo" / "questions.jsonl")
    rows = [{"question": f"What is {index} + 1?", "answer": str(index + 1)} for index in range(40)]
    Path("questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("own.py").write_text(own_pipeline())
    with patch.dict(os.environ):
        for reason, block in _BLOCK.findall(page.read_text()):
            for command in commands("" if reason else block):
                run(command)


def commands(block: str) -> Iterator[str]:
    """The commands of a block; a here document belongs to its command."""
    lines = iter(block.replace("\\\n", " ").splitlines())
    for line in lines:
        if "<<'EOF'" in line:
            line = "\n".join([line, *iter(lambda: next(lines), "EOF"), "EOF"])
        if line.startswith("for "):
            line = "\n".join([line, *iter(lambda: next(lines), "done"), "done"])
        if line.strip():
            yield line


def run(command: str) -> None:
    words = [] if "\n" in command else shlex.split(command, comments=True)
    match words:
        case ["kfp-llm-batch", "run", pipeline, *options]:
            run_pipeline(pipeline, options)
        case ["kfp-llm-batch", *arguments]:
            result = CliRunner().invoke(app, arguments)
            assert result.exception is None, (arguments, result.output)
        case ["make", *targets]:
            subprocess.run(["make", "--dry-run", *targets], cwd=ROOT, check=True, capture_output=True)
        case [".venv/bin/python", "-m", "pytest", *arguments]:
            assert all((ROOT / word).exists() for word in arguments if word.startswith("tests/"))
        case ["source", ".venv/bin/activate"]:
            pass
        case ["export", *assignments]:
            os.environ.update(dict(assignment.split("=", 1) for assignment in assignments))
        case ["python", "-m", "pip", "install", *arguments]:
            shell(f"python -m pip install --target installed {shlex.join(arguments)}")
        case _ if command.startswith("for "):
            loop = re.fullmatch(r"for (\w+) in (.*); do\n(.*)done", command, re.DOTALL)
            assert loop
            for value in loop[2].split():
                run(loop[3].replace(f"${loop[1]}", value).strip())
        case _:
            shell(command)


def shell(command: str) -> None:
    finished = subprocess.run(["bash", "-euc", command], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, (command, finished.stderr)


def run_pipeline(name: str, options: list[str]) -> None:
    assert options[::2] == ["-p"] * (len(options) // 2)
    arguments = read_parameters(load_pipeline(name), options[1::2], None)
    if arguments["output_uri"] not in RUN:
        return
    shorter = ["-p", "model_uri=echo://", "-p", "dataset_limit=20"]
    if "evaluation_scorers" in arguments:
        shorter += ["-p", "evaluation_canary_rows=0"]
    result = CliRunner().invoke(app, ["run", name, *options, *shorter])
    assert result.exception is None, result.output
    for scorer in arguments.get("evaluation_scorers", []):
        assert (scorer if isinstance(scorer, str) else scorer["name"]) in result.output


def own_pipeline() -> str:
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert example
    return example[1]


def test_the_pipeline_of_the_readme_has_eight_lines_and_three_steps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len([line for line in own_pipeline().splitlines() if line]) == 8
    exec(compile(own_pipeline(), "own.py", "exec"), {})
    tasks = yaml.safe_load(Path("own.yaml").read_text())["root"]["dag"]["tasks"]
    assert set(tasks) == {"load-dataset", "generate-completions", "write-results"}
