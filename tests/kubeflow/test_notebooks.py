"""Every notebook from top to bottom, against the test server; what a run would have written is put there before."""

import datetime as dt
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kfp_llm_batch.evaluation.config import EvaluationConfig
from kfp_llm_batch.evaluation.scoring import evaluate
from tests.unit.evaluation.evaluated_runs import write_completions

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


def test_an_evaluation_is_scheduled_and_two_of_its_runs_compared(server, tmp_path):
    server.state.next_states = ("SUCCEEDED",)
    sources = [
        {"id": f"q{number}", "question": f"How much is {number}?", "answer": str(number)} for number in range(20)
    ]
    right = [source["answer"] for source in sources]

    def some_nights(variables: dict[str, Any]) -> None:
        for day, answers in ((23, right), (24, ["no idea", "none", *right[2:]])):
            moment = dt.datetime(2026, 11, day, 3, tzinfo=dt.UTC)
            server.state.fire(variables["nightly"].schedule_id, moment)
            newest = next(variables["list_runs"](client=variables["client"]))
            folder = write_completions(tmp_path / "runs" / newest.run_id, sources, answers)
            config = EvaluationConfig(scorers=["numeric_match", "truncation"], target_column="answer")
            evaluate(config, folder, folder / "evaluation")

    parameters = {"OUTPUT_URI": str(tmp_path / "runs")}
    variables = execute("03_scheduled_evaluation.ipynb", parameters, before={"history = ": some_nights})
    assert list(variables["nights"]["run"]) == ["nightly-20261124", "nightly-20261123"]
    assert list(variables["nights"]["numeric_match"]) == ["90.0% (69.9% to 97.2%)", "100.0% (83.9% to 100.0%)"]
    assert list(variables["turned"]["row_id"]) == ["q0", "q1"]


@pytest.mark.vllm
def test_a_first_run_on_this_machine(tmp_path):
    parameters = {"FOLDER": str(tmp_path / "first"), "ROWS": 6}
    variables = execute("01_first_run.ipynb", parameters)
    assert list(variables["answers"]["status"]).count("invalid") == 1
    assert len(variables["answers"]) == 6


def test_the_plan_for_a_machine_is_shown_and_overridden(tmp_path):
    parameters = {
        "FOLDER": str(tmp_path / "tuning"),
        "MODEL_URI": "echo://",
        "RESULTS": str(FOLDER.parent / "benchmarks/results"),
    }
    variables = execute("04_tune_for_cpu.ipynb", parameters)
    short, long = variables["short_job"], variables["long_job"]
    # A machine without a compiler, or with little memory, compiles for neither, but not for the same reason.
    assert short.loc["enforce_eager", "reason"] != long.loc["enforce_eager", "reason"]
    changed = [name for name in short.index if str(short.loc[name, "value"]) != str(long.loc[name, "value"])]
    assert list(variables["differing"].index) == changed
    assert variables["used"].loc["max_num_seqs"].to_dict() == {"value": 16, "reason": "set by engine_options"}
    assert variables["measured"].loc["ours_step", "tokens_per_second"] > 0


def test_every_notebook_has_a_test():
    text = Path(__file__).read_text(encoding="utf-8")
    assert [path.name for path in NOTEBOOKS if f'execute("{path.name}"' not in text] == []
