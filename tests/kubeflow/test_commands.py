"""The commands as a user types them, and what they print."""

import json
import os
import re
import shlex
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kfp_llm_batch.cli.main import app
from kfp_llm_batch.errors import ConfigurationError, InterruptedRunError, RunError, ServerError
from tests.kubeflow.contract import find_operation

GIVEN = ["-p", "dataset_uri=s3://data/q.jsonl", "-p", "prompt_template={{ question }}", "-p", "dataset_limit=5"]
PARAMETERS = [*GIVEN, "-p", "output_uri=s3://results/1"]
SCHEDULE = ["schedule", "add", "batch_inference", "--name", "nightly", "--cron", "0 3 * * 1-5"]


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception:
        raise result.exception
    return result.stdout


def call_json(*arguments: str):
    return json.loads(call(*arguments, "--output", "json"))


def test_a_dry_run_prints_what_is_sent_and_asks_nobody(server):
    shown = json.loads(call("submit", "batch_inference", *PARAMETERS, "--name", "first", "--dry-run"))
    assert server.requests == []
    assert shown["body"]["runtime_config"]["parameters"]["dataset_limit"] == 5
    call("submit", "batch_inference", *PARAMETERS, "--name", "first")
    request = server.sent("POST")[-1]
    assert (shown["method"], shown["path"]) == (request.method, request.path)
    assert request.body == {**shown["body"], "experiment_id": next(iter(server.state.experiments))}
    operation = find_operation(shown["method"], shown["path"])
    assert operation is not None
    assert operation.problems_of_request({}, shown["body"]) == []


def test_a_run_is_submitted_awaited_and_listed(server):
    run = call_json("submit", "batch_inference", *PARAMETERS, "--name", "first", "--experiment", "trial")
    assert run["state"] == "PENDING"
    assert call_json("wait", run["run_id"], "--interval", "0.1")["state"] == "SUCCEEDED"
    (listed,) = call_json("runs", "--experiment", "trial", "--state", "SUCCEEDED")
    assert (listed["run_id"], listed["name"]) == (run["run_id"], "first")
    assert call_json("runs", "--state", "FAILED") == []
    assert "first" in call("runs")
    assert call("runs", "--state", "FAILED") == "no runs\n"


def test_a_run_for_people_says_what_to_do_next(server):
    text = call("submit", "batch_inference", *PARAMETERS, "--name", "first")
    (run_id,) = server.state.runs
    assert text.splitlines() == [
        "run:   first, PENDING",
        f"id:    {run_id}",
        f"page:  {server.host}/#/runs/details/{run_id}",
        f"next:  kfp-llm-batch wait {run_id}",
    ]


@pytest.mark.parametrize(
    ("states", "error", "code"),
    [(("FAILED",), RunError, 9), (("CANCELED",), RunError, 9), (("RUNNING",), InterruptedRunError, 6)],
)
def test_the_exit_code_says_how_the_run_ended(states, error, code, server):
    server.state.next_states = states
    run = call_json("submit", "batch_inference", *PARAMETERS)
    with pytest.raises(error) as ended:
        call("wait", run["run_id"], "--timeout", "0.1", "--interval", "0.1")
    assert ended.value.exit_code == code


@pytest.fixture
def heard_ctrl_c() -> Iterator[None]:
    """Python hears nothing of Ctrl-C where the tests were started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard_ctrl_c")
def test_ctrl_c_ends_the_waiting_and_not_the_run(server):
    server.state.next_states = ("RUNNING",)
    run = call_json("submit", "batch_inference", *PARAMETERS)

    def interrupt() -> None:
        while not any(request.path.endswith(run["run_id"]) for request in server.requests):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    result = CliRunner().invoke(app, ["wait", run["run_id"], "--interval", "0.1"])
    assert result.exit_code == 130
    assert "the run goes on" in result.stderr
    assert [request.path for request in server.sent("POST")][-1].endswith("/runs")
    assert call_json("runs")[0]["state"] == "RUNNING"


def test_a_wrong_parameter_is_refused_before_any_request(server):
    with pytest.raises(ConfigurationError, match="Did you mean 'dataset_limit'"):
        call("submit", "batch_inference", *PARAMETERS, "-p", "datset_limit=5")
    with pytest.raises(ConfigurationError, match="dataset_limit has the wrong type"):
        call("submit", "batch_inference", *PARAMETERS, "-p", "dataset_limit=five")
    with pytest.raises(ConfigurationError, match="needs more parameters: output_uri"):
        call("submit", "batch_inference", *GIVEN)
    assert server.requests == []


def test_a_schedule_shows_its_next_five_times_in_the_servers_zone(server):
    text = call(*SCHEDULE, *PARAMETERS, "--timezone", "Europe/Berlin")
    assert "schedule: nightly, created, enabled" in text
    assert "cron:     0 0 3 * * 1-5 (seconds first): At 03:00 on Monday through Friday" in text
    times = re.findall(r"(\w{3}) \d{4}-\d\d-\d\d 03:00:00 \+0[12]00 = \d{4}-\d\d-\d\d 0[12]:00 UTC", text)
    assert len(times) == 5
    assert not {"Sat", "Sun"} & set(times)
    assert "CRON_SCHEDULE_TIMEZONE decides, UTC where that is not set" in text


def test_a_schedule_is_added_listed_switched_and_deleted(server):
    shown = json.loads(call(*SCHEDULE, *PARAMETERS, "--dry-run"))
    assert server.requests == []
    assert (shown["cron"], shown["server_timezone"], len(shown["next_times"])) == ("0 0 3 * * 1-5", "UTC", 5)
    made = call_json(*SCHEDULE, *PARAMETERS)
    assert (made["change"], made["enabled"], made["next_times"]) == ("created", True, shown["next_times"])
    assert call_json(*SCHEDULE, *PARAMETERS)["change"] == "unchanged"
    assert call_json("schedule", "disable", "nightly")["enabled"] is False
    assert call_json("schedule", "list")[0]["next_time"] is None
    assert call_json("schedule", "enable", "nightly")["enabled"] is True
    assert call_json("schedule", "list")[0]["next_time"] == made["next_times"][0]
    assert "nightly" in call("schedule", "list")
    assert call("schedule", "delete", "nightly") == "schedule: nightly, deleted\n"
    assert call("schedule", "list") == "no schedules\n"


def test_a_schedule_that_another_tool_made_is_listed(server):
    call(*SCHEDULE, *PARAMETERS)
    (record,) = server.state.recurring_runs.values()
    record["trigger"] = {"cron_schedule": {"cron": "@daily"}}
    assert call_json("schedule", "list")[0]["next_time"] is None
    record["trigger"] = {"periodic_schedule": {"interval_second": "3600"}}
    assert "interval" in call("schedule", "list")


def test_a_server_that_refuses_has_an_exit_code_of_its_own(server):
    server.fail(403, operation="ListExperiments")
    with pytest.raises(ServerError, match="403") as ended:
        call("submit", "batch_inference", *PARAMETERS)
    assert ended.value.exit_code == 8


COMMANDS = [
    "submit",
    "runs",
    "wait",
    "register",
    "schedule add",
    "schedule list",
    "schedule enable",
    "schedule disable",
]


@pytest.mark.parametrize("command", [*COMMANDS, "schedule delete"])
def test_the_example_of_every_command_works(command, server):
    call(*SCHEDULE, *PARAMETERS, "--experiment", "nightly")
    run = call_json("submit", "batch_inference", *PARAMETERS)
    text = " ".join(re.split("Options:|Arguments:", call(*command.split(), "--help"))[0].split())
    program, *arguments = shlex.split(text.partition("Example: ")[2])
    assert program == "kfp-llm-batch"
    if command == "wait":
        arguments[1] = run["run_id"]
        arguments += ["--interval", "0.1"]
    assert call(*arguments)


def test_readme_and_docs_name_every_command():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for command in ("submit", "schedule add", "runs", "wait"):
        assert f"kfp-llm-batch {command}" in readme
