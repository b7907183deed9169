"""The examples of the documentation, run as they stand there against the test server."""

import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kfp_llm_batch import client as client_package
from kfp_llm_batch.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = {
    "readme": (ROOT / "README.md").read_text().partition("## On Kubeflow")[2].partition("## Commands")[0],
    "kubeflow": (ROOT / "docs" / "kubeflow.md").read_text(),
}
ACTIONS = ("add", "list", "enable", "disable", "delete")
every_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


@every_page
def test_the_python_examples_run(page, server, make_result):
    server.state.next_states = ("SUCCEEDED",)
    result, variables = str(make_result()), dict[str, Any]()
    examples = blocks(page, "python")
    assert examples
    for example in examples:
        exec(compile(example.replace("s3://results/first", result), "example", "exec"), variables)
    assert len(variables["answers"]) == 25


@every_page
def test_the_commands_run(page, server):
    server.state.next_states = ("SUCCEEDED",)
    commands = [
        shlex.split(line)[1:]
        for block in blocks(page, "console")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("kfp-llm-batch ")
    ]
    assert commands
    for arguments in commands:
        known = [next(reversed(server.state.runs)) if word == "RUN_ID" else word for word in arguments]
        result = CliRunner().invoke(app, known)
        assert result.exception is None, (known, result.exception)


def test_every_function_of_the_client_stands_in_an_example_that_runs():
    examples = "\n".join(example for page in PAGES.values() for example in blocks(page, "python"))
    functions = [name for name in client_package.__all__ if inspect.isfunction(getattr(client_package, name))]
    assert [name for name in functions if not re.search(rf"\b{name}\(", examples)] == []


def test_every_command_stands_in_an_example_that_runs():
    examples = "\n".join(block for page in PAGES.values() for block in blocks(page, "console"))
    commands = ["submit", "runs", "wait", "register", *(f"schedule {name}" for name in ACTIONS)]
    assert [command for command in commands if f"kfp-llm-batch {command}" not in examples] == []
