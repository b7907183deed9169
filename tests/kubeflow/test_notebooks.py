"""Every notebook from top to bottom, against the test server; what a run would have written is put there before."""

import datetime as dt
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return found


def execute(name: str, parameters: Mapping[str, object], before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run the code cells, with `parameters` after the cell of that tag and what `before` holds before a cell's text."""
    variables: dict[str, Any] = {}
    for cell in cells(FOLDER / name):
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            for text, action in (before or {}).items():
                if text in source:
                    action(variables)
            exec(compile(source, name, "exec"), variables)
            if "parameters" in cell["metadata"].get("tags", ()):
                assert parameters.keys() <= variables.keys()
                variables |= parameters
    return variables


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_is_committed_without_outputs(path):
    for cell in cells(path):
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


def test_a_run_is_submitted_and_its_result_opened(server, make_result):
    parameters = {"OUTPUT_URI": str(make_result()), "SECONDS_BETWEEN_LOOKS": 0.01}
    variables = execute("02_submit_to_kubeflow.ipynb", parameters)
    assert variables["run"].state == "SUCCEEDED"
    assert len(variables["answers"]) == 25
    assert [entry["display_name"] for entry in server.state.experiments.values()] == ["notebooks"]


def test_a_schedule_is_made_and_two_of_its_runs_compared(server, make_result, tmp_path):
    make_result("2026-11-23", answer="answer")
    make_result("2026-11-24", answer="other answer")
    server.state.next_states = ("SUCCEEDED",)

    def some_nights(variables: dict[str, Any]) -> None:
        for day in (23, 24):
            moment = dt.datetime(2026, 11, day, 3, tzinfo=dt.UTC)
            server.state.fire(variables["nightly"].schedule_id, moment)

    parameters = {"OUTPUT_URI": f"{tmp_path}/[[ScheduledTime.2006-01-02]]"}
    variables = execute("03_scheduled_runs.ipynb", parameters, before={"history = ": some_nights})
    assert [run.name for run in variables["history"]] == ["nightly-20261124", "nightly-20261123"]
    # Of the 25 rows, three failed in both results.
    assert len(variables["changed"]) == 22


def test_a_first_run_on_this_machine(tmp_path):
    parameters = {"FOLDER": str(tmp_path / "first"), "MODEL_URI": "echo://", "ROWS": 6}
    variables = execute("01_first_run.ipynb", parameters)
    assert list(variables["answers"]["status"]).count("invalid") == 1
    assert len(variables["answers"]) == 6


def test_every_notebook_has_a_test():
    text = Path(__file__).read_text(encoding="utf-8")
    assert [path.name for path in NOTEBOOKS if f'execute("{path.name}"' not in text] == []
