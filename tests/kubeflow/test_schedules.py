import datetime as dt

import pytest

from kfp_llm_batch.client import (
    Change,
    Recurrence,
    delete,
    disable,
    enable,
    list_schedules,
    results,
    schedule,
    schedule_request,
    send_schedule,
    wait,
)
from kfp_llm_batch.client.failures import NotFoundOnServerError
from kfp_llm_batch.errors import ConfigurationError, ServerError
from tests.kubeflow.contract import find_operation
from tests.kubeflow.robfig_cron import next_times

PARAMETERS = {
    "dataset_uri": "s3://data/q.jsonl",
    "prompt_template": "{{ question }}",
    "output_uri": "s3://results/[[ScheduledTime.2006-01-02]]",
}


def add(client, **settings):
    arguments = {"cron": "0 3 * * 1-5", "name": "nightly", **settings}
    return schedule("batch_inference", arguments.pop("parameters", PARAMETERS), client=client, **arguments)


def states(server) -> list[tuple[str, str]]:
    return [(entry["display_name"], entry["status"]) for entry in server.state.recurring_runs.values()]


def test_a_schedule_is_created(server, client):
    made, change = add(client)
    assert (change, made.name, made.enabled, made.cron) == (Change.CREATED, "nightly", True, "0 0 3 * * 1-5")
    body = server.sent("POST")[-1].body
    assert body["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * 1-5"}}
    assert (body["max_concurrency"], body["no_catchup"], body["mode"]) == ("1", True, "ENABLE")


def test_the_request_is_the_one_that_was_shown_and_what_the_contract_allows(server, client):
    shown = schedule_request("batch_inference", PARAMETERS, Recurrence(cron="0 3 * * 1-5"), name="nightly")
    add(client)
    assert server.sent("POST")[-1].body == {**shown.body, "experiment_id": next(iter(server.state.experiments))}
    operation = find_operation("POST", shown.path)
    assert operation is not None
    assert operation.problems_of_request({}, shown.body) == []


def test_what_is_due_is_what_was_shown(server, client):
    """03:00 in Berlin over a change of the clock, on a server that counts in that zone."""
    start = dt.datetime(2026, 10, 22, 12, tzinfo=dt.UTC)
    shown = Recurrence(cron="0 3 * * 1-5", timezone="Europe/Berlin").times.next_times(after=start)
    made, _ = add(client, timezone="Europe/Berlin")
    assert shown == next_times(made.cron, "Europe/Berlin", start, 5)
    assert {(moment.hour, moment.isoweekday() <= 5) for moment in shown} == {(3, True)}
    assert {moment.utcoffset() for moment in shown} == {dt.timedelta(hours=1), dt.timedelta(hours=2)}


def test_the_same_schedule_again_changes_nothing(server, client):
    first, _ = add(client)
    second, change = add(client)
    assert change is Change.UNCHANGED
    assert second == first
    assert [request.method for request in server.requests].count("DELETE") == 0


@pytest.mark.parametrize(
    "settings", [{"cron": "0 4 * * *"}, {"parameters": PARAMETERS | {"generation_max_tokens": 5}}], ids=["time", "work"]
)
def test_another_schedule_of_that_name_takes_its_place(settings, server, client):
    first, _ = add(client)
    second, change = add(client, **settings)
    assert (change, second.enabled) == (Change.REPLACED, True)
    assert list(server.state.recurring_runs) == [second.schedule_id]
    assert second.schedule_id != first.schedule_id


def test_two_of_a_name_are_never_on_while_one_is_replaced(server, client, monkeypatch):
    add(client)
    seen = []
    check = server.answer

    def answer(request, file):
        outcome = check(request, file)
        seen.append([status for _, status in states(server)].count("ENABLED"))
        return outcome

    monkeypatch.setattr(server, "answer", answer)
    add(client, cron="0 4 * * *")
    assert max(seen) == 1
    assert states(server) == [("nightly", "ENABLED")]


def test_several_of_a_name_that_other_tools_made_become_one(server, client):
    add(client)
    body = server.sent("POST")[-1].body
    server.state.create_recurring_run(body)
    with pytest.raises(ConfigurationError, match="There are 2 schedules of this name"):
        enable("nightly", client)
    _, change = add(client)
    assert change is Change.REPLACED
    assert states(server) == [("nightly", "ENABLED")]


def test_a_schedule_that_the_server_refuses_leaves_the_old_one_alone(server, client):
    first, _ = add(client)
    with pytest.raises(ServerError, match="exceed maximum size"):
        add(client, parameters=PARAMETERS | {"prompt_template": "x" * 10_001})
    assert list(server.state.recurring_runs) == [first.schedule_id]
    assert states(server) == [("nightly", "ENABLED")]


def test_an_old_schedule_that_cannot_be_deleted_stays_the_only_one(server, client):
    first, _ = add(client)
    server.fail(403, operation="DeleteRecurringRun")
    with pytest.raises(ServerError, match="cannot be deleted"):
        add(client, cron="0 4 * * *")
    assert list(server.state.recurring_runs) == [first.schedule_id]
    assert states(server) == [("nightly", "ENABLED")]


def test_a_schedule_can_wait_to_be_switched_on(server, client):
    recurrence = Recurrence(cron="0 3 * * *", enabled=False)
    request = schedule_request("batch_inference", PARAMETERS, recurrence, name="nightly")
    made, _ = send_schedule(request, client)
    assert not made.enabled
    assert send_schedule(request, client)[1] is Change.UNCHANGED
    assert enable("nightly", client).enabled
    assert not disable("nightly", client).enabled


@pytest.mark.parametrize("change", [enable, disable, delete])
def test_no_name_is_not_all_names(server, client, change):
    add(client)
    with pytest.raises(ConfigurationError, match="name of the schedule is empty"):
        change("", client)
    assert [entry.enabled for entry in list_schedules(client)] == [True]


def test_schedules_are_listed_and_deleted(server, client):
    for name in ("nightly", "weekly", "hourly"):
        add(client, name=name)
    assert [entry.name for entry in list_schedules(client)] == ["nightly", "weekly", "hourly"]
    assert delete("weekly", client) == 1
    assert [entry.name for entry in list_schedules(client)] == ["nightly", "hourly"]


def test_a_schedule_that_is_gone_when_its_turn_comes_is_deleted(server, client):
    add(client)
    server.fail(404, operation="DeleteRecurringRun")
    assert delete("nightly", client) == 1


@pytest.mark.parametrize("change", [enable, disable, delete])
def test_a_name_that_is_not_there_is_named_with_the_nearest(change, server, client):
    add(client)
    with pytest.raises(NotFoundOnServerError, match="Did you mean 'nightly'"):
        change("nightl", client)


def test_the_run_of_a_schedule_knows_its_result(server, client):
    made, _ = add(client)
    run_id = server.state.fire(made.schedule_id, dt.datetime(2026, 11, 23, 3, tzinfo=dt.UTC))
    run = wait(run_id, interval_seconds=0.01, client=client)
    assert run.schedule_id == made.schedule_id
    assert results(run).uri == "s3://results/2026-11-23"
