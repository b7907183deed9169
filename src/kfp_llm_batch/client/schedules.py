"""Schedules: Kubeflow's recurring runs, one of a name, replaced because the server cannot change one."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import kfp

from kfp_llm_batch.client.connection import connect
from kfp_llm_batch.client.cron import CronSchedule, parse_cron
from kfp_llm_batch.client.experiments import experiment_id, namespace_of
from kfp_llm_batch.client.failures import NotFoundOnServerError, server_errors
from kfp_llm_batch.client.macros import check_macros
from kfp_llm_batch.client.paging import pages
from kfp_llm_batch.client.requests import RECURRING_RUNS_PATH, CreateRequest, Submission, create_request, pipeline_of
from kfp_llm_batch.errors import ConfigurationError, ServerError
from kfp_llm_batch.shipped import CompiledPipeline

_STATUS = {"ENABLE": "ENABLED", "DISABLE": "DISABLED"}
_MAX_CONCURRENCY = 10


class Change(StrEnum):
    """What `schedule` did."""

    CREATED = "created"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A recurring run as the server described it."""

    schedule_id: str
    name: str
    enabled: bool
    cron: str
    """Six fields, as the server has it; empty for one with a fixed interval."""
    parameters: dict[str, Any] = field(default_factory=dict)
    created_at: dt.datetime | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "created_at": self.created_at and self.created_at.isoformat()}


@dataclass(frozen=True, kw_only=True)
class Recurrence:
    """When and how often a schedule runs.

    Args:
        cron: Five fields, or six with the seconds first.
        timezone: Zone that the server counts in (its CRON_SCHEDULE_TIMEZONE). It is not sent: the server has one for
            all schedules, and this one tells what the expression comes to.
        max_concurrency: Runs of this schedule at a time.
        catch_up: Whether times that passed while the schedule was off are made up for.
        enabled: Whether it starts at once.

    Raises:
        ConfigurationError: The expression, the zone or the number is none that the server takes.
    """

    cron: str
    timezone: str = "UTC"
    max_concurrency: int = 1
    catch_up: bool = False
    enabled: bool = True

    def __post_init__(self) -> None:
        _ = self.times
        if not 1 <= self.max_concurrency <= _MAX_CONCURRENCY:
            raise ConfigurationError("max_concurrency must be from 1 to 10", received=self.max_concurrency)

    @property
    def times(self) -> CronSchedule:
        """The expression, understood."""
        return parse_cron(self.cron, self.timezone)


def schedule_request(
    pipeline: str | CompiledPipeline,
    parameters: Mapping[str, Any],
    recurrence: Recurrence,
    *,
    name: str = "",
    submission: Submission | None = None,
) -> CreateRequest:
    """The request that `schedule` sends, checked as far as that goes without a server.

    Args:
        pipeline: Name of a shipped pipeline, path of a compiled one, or a loaded one.
        parameters: By name; texts may hold macros such as [[ScheduledTime.2006-01-02]].
        recurrence: When.
        name: How the schedule is called; as the pipeline if empty.
        submission: Experiment, caching, service account.

    Raises:
        ConfigurationError: A parameter is unknown, missing, of another type, or holds a macro that would stay as it is.
    """
    pipeline = pipeline_of(pipeline)
    request = create_request(RECURRING_RUNS_PATH, pipeline, parameters, name or pipeline.title, submission)
    check_macros(request.parameters)
    when = {
        "trigger": {"cron_schedule": {"cron": recurrence.times.sent}},
        "mode": "ENABLE" if recurrence.enabled else "DISABLE",
        "max_concurrency": str(recurrence.max_concurrency),  # the contract writes 64-bit numbers as texts
        "no_catchup": not recurrence.catch_up,
    }
    return dataclasses.replace(request, body=request.body | when)


def schedule(
    pipeline: str | CompiledPipeline,
    parameters: Mapping[str, Any],
    *,
    cron: str,
    timezone: str = "UTC",
    name: str = "",
    submission: Submission | None = None,
    client: kfp.Client | None = None,
) -> tuple[Schedule, Change]:
    """Run a pipeline again and again; a schedule of the same name is replaced.

    Raises:
        ConfigurationError: A parameter or the expression is wrong; nothing was sent.
        ServerError: The server did not answer, or refused.
    """
    recurrence = Recurrence(cron=cron, timezone=timezone)
    request = schedule_request(pipeline, parameters, recurrence, name=name, submission=submission)
    return send_schedule(request, client or connect())


def send_schedule(request: CreateRequest, client: kfp.Client) -> tuple[Schedule, Change]:
    """Send what `schedule_request` made, so that exactly one schedule of its name remains.

    The new one is created switched off, the old ones are deleted, then it is switched on: at no time do two of them
    start runs, and a request that the server refuses leaves the old one as it was.

    Raises:
        ServerError: The server did not answer, or refused; the message says what stands there then.
    """
    earlier = list(_answers(client, request.name))
    body = {**request.body, "experiment_id": experiment_id(client, request.experiment)}
    if len(earlier) == 1 and _is_same(earlier[0], body):
        return _schedule(earlier[0]), Change.UNCHANGED
    if not earlier:
        return _schedule(_create(client, body)), Change.CREATED
    replacement = _create(client, {**body, "mode": "DISABLE"})
    _delete_earlier(client, earlier, replacement)
    if request.body["mode"] == "ENABLE":
        _switch(client, replacement, on=True)
    return _read(client, replacement.recurring_run_id), Change.REPLACED


def list_schedules(client: kfp.Client | None = None) -> list[Schedule]:
    """All schedules of the namespace.

    Raises:
        ServerError: The server did not answer, or refused.
    """
    return [_schedule(entry) for entry in _answers(client or connect())]


def enable(name: str, client: kfp.Client | None = None) -> Schedule:
    """Switch the schedule on.

    Raises:
        ServerError: There is none of this name, or the server did not answer.
    """
    return _switched(name, client or connect(), on=True)


def disable(name: str, client: kfp.Client | None = None) -> Schedule:
    """Switch the schedule off; runs that have begun go on.

    Raises:
        ServerError: There is none of this name, or the server did not answer.
    """
    return _switched(name, client or connect(), on=False)


def delete(name: str, client: kfp.Client | None = None) -> int:
    """Delete every schedule of this name, of which other tools may have made several; how many there were.

    Raises:
        ServerError: There is none of this name, or the server did not answer.
    """
    client = client or connect()
    found = _existing(client, name)
    for entry in found:
        _delete(client, entry)
    return len(found)


def _switched(name: str, client: kfp.Client, *, on: bool) -> Schedule:
    found = _existing(client, name)
    if on and len(found) > 1:
        ids = ", ".join(entry.recurring_run_id for entry in found)
        raise ConfigurationError(
            f"There are {len(found)} schedules of this name, which would all run",
            received=name,
            remedy=f"`schedule add` leaves one of them; their ids: {ids}.",
        )
    for entry in found:
        _switch(client, entry, on=on)
    return _read(client, found[0].recurring_run_id)


def _existing(client: kfp.Client, name: str) -> list[Any]:
    if not name:  # which to the server means all of them
        raise ConfigurationError("The name of the schedule is empty")
    found = list(_answers(client, name))
    if not found:
        names = sorted({entry.display_name for entry in _answers(client)})
        raise NotFoundOnServerError("There is no such schedule", received=name, allowed=names)
    return found


def _answers(client: kfp.Client, name: str = "") -> Iterator[Any]:
    """The server's descriptions of all schedules, or of those of this name."""
    what, where = "The schedules cannot be listed", namespace_of(client)
    return pages(what, client.list_recurring_runs, "recurring_runs", name=name, **where)


def _create(client: kfp.Client, body: dict[str, Any]) -> Any:
    with server_errors(f"The schedule {body['display_name']!r} cannot be created"):
        return client.recurring_runs.recurring_run_service_create_recurring_run(recurring_run=body)


def _delete_earlier(client: kfp.Client, earlier: list[Any], replacement: Any) -> None:
    """Delete what is replaced; if that fails, the replacement goes, and what stands is as it was."""
    for number, entry in enumerate(earlier):
        try:
            _delete(client, entry)
        except ServerError:
            if not number:
                _delete(client, replacement)
            raise


def _delete(client: kfp.Client, entry: Any) -> None:
    """Delete it; one that is gone already, by an earlier try whose answer was lost, is no error."""
    what = f"The schedule {entry.display_name!r} ({entry.recurring_run_id}) cannot be deleted"
    with contextlib.suppress(NotFoundOnServerError), server_errors(what):
        client.delete_recurring_run(entry.recurring_run_id)


def _switch(client: kfp.Client, entry: Any, *, on: bool) -> None:
    change = client.enable_recurring_run if on else client.disable_recurring_run
    with server_errors(f"The schedule {entry.display_name!r} cannot be switched {'on' if on else 'off'}"):
        change(entry.recurring_run_id)


def _read(client: kfp.Client, schedule_id: str) -> Schedule:
    with server_errors(f"The schedule {schedule_id} cannot be read"):
        return _schedule(client.get_recurring_run(schedule_id))


def _is_same(entry: Any, body: Mapping[str, Any]) -> bool:
    """Whether the server has just this already, switched on or off as it is wanted."""
    account = body.get("service_account")
    return (
        entry.experiment_id == body["experiment_id"]
        and entry.pipeline_spec == body["pipeline_spec"]
        and entry.runtime_config.parameters == body["runtime_config"]["parameters"]
        and _cron(entry) == body["trigger"]["cron_schedule"]["cron"]
        and str(entry.max_concurrency) == body["max_concurrency"]
        and bool(entry.no_catchup) == body["no_catchup"]
        and entry.status == _STATUS[body["mode"]]
        and account in (None, entry.service_account)  # the server fills in its own
    )


def _cron(answer: Any) -> str:
    trigger = answer.trigger and answer.trigger.cron_schedule
    return (trigger and trigger.cron) or ""


def _schedule(answer: Any) -> Schedule:
    config = answer.runtime_config
    return Schedule(
        schedule_id=answer.recurring_run_id,
        name=answer.display_name or "",
        enabled=answer.status == _STATUS["ENABLE"],
        cron=_cron(answer),
        parameters=dict((config and config.parameters) or {}),
        created_at=answer.created_at,
    )
