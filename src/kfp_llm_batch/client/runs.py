"""Runs: send one, look at it, wait for its end."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import kfp

from kfp_llm_batch.client.connection import connect
from kfp_llm_batch.client.experiments import experiment_id, find_experiment
from kfp_llm_batch.client.failures import ServerUnavailableError, server_errors
from kfp_llm_batch.client.macros import refuse_macros
from kfp_llm_batch.client.paging import pages
from kfp_llm_batch.client.requests import RUNS_PATH, CreateRequest, Submission, create_request, pipeline_of
from kfp_llm_batch.errors import InterruptedRunError, RunError
from kfp_llm_batch.shipped import CompiledPipeline

SUCCEEDED = "SUCCEEDED"
END_STATES: Mapping[str, str] = {
    SUCCEEDED: "succeeded",
    "FAILED": "failed",
    "SKIPPED": "was skipped",
    "CANCELED": "was cancelled",
}
"""Runs end in these; kfp's own waiter does not know the last one and waits on."""

_LOG = logging.getLogger("kfp_llm_batch")
_OUTAGE_SECONDS = 300.0
"""For so long a server may be away while a run is awaited: longer than it takes to start anew."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as the server described it."""

    run_id: str
    name: str
    url: str
    """Its page in the Kubeflow UI."""
    state: str
    """PENDING, RUNNING, PAUSED, CANCELING, or one of END_STATES."""
    created_at: dt.datetime | None = None
    finished_at: dt.datetime | None = None
    schedule_id: str = ""
    """The schedule that started it, if one did."""
    parameters: dict[str, Any] = field(default_factory=dict)
    failures: tuple[str, ...] = ()
    """Each failed step with its message."""

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in END_STATES

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        created, finished = (moment and moment.isoformat() for moment in (self.created_at, self.finished_at))
        return {**vars(self), "created_at": created, "finished_at": finished, "failures": list(self.failures)}


def run_request(
    pipeline: str | CompiledPipeline,
    parameters: Mapping[str, Any],
    *,
    name: str = "",
    submission: Submission | None = None,
) -> CreateRequest:
    """The request that `submit` sends, checked as far as that goes without a server.

    Args:
        pipeline: Name of a shipped pipeline, path of a compiled one, or a loaded one.
        parameters: By name; types as the pipeline declares them.
        name: How the run is called; the pipeline's name and the time if empty.
        submission: Experiment, caching, service account.

    Raises:
        ConfigurationError: A parameter is unknown, missing, of another type, or holds a macro.
    """
    pipeline = pipeline_of(pipeline)
    name = name or f"{pipeline.title} {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M:%S}"
    request = create_request(RUNS_PATH, pipeline, parameters, name, submission)
    refuse_macros(request.parameters)
    return request


def submit(
    pipeline: str | CompiledPipeline,
    parameters: Mapping[str, Any],
    *,
    name: str = "",
    submission: Submission | None = None,
    client: kfp.Client | None = None,
) -> Run:
    """Start a run.

    Raises:
        ConfigurationError: A parameter is wrong; nothing was sent.
        ServerError: The server did not answer, or refused.
    """
    request = run_request(pipeline, parameters, name=name, submission=submission)
    return send_run(request, client or connect())


def send_run(request: CreateRequest, client: kfp.Client) -> Run:
    """Send what `run_request` made.

    Raises:
        ServerError: The server did not answer, or refused.
    """
    body = {**request.body, "experiment_id": experiment_id(client, request.experiment)}
    with server_errors(f"The run {request.name!r} cannot be created"):
        return _run(client, client.runs.run_service_create_run(run=body))


def get_run(run_id: str, client: kfp.Client | None = None) -> Run:
    """The run as it is now.

    Raises:
        ServerError: There is none, or the server did not answer.
    """
    client = client or connect()
    with server_errors(f"The run {run_id} cannot be read"):
        return _run(client, client.get_run(run_id))


def list_runs(*, experiment: str = "", client: kfp.Client | None = None) -> Iterator[Run]:
    """Runs, the newest first.

    Args:
        experiment: Only those of the experiment of this name.
        client: Connection to the server.

    Raises:
        ServerError: The server did not answer, or has no such experiment.
    """
    client = client or connect()
    where = {"experiment_id": find_experiment(client, experiment).experiment_id} if experiment else {}
    for entry in pages("The runs cannot be listed", client.list_runs, "runs", sort_by="created_at desc", **where):
        yield _run(client, entry)


def wait(
    run_id: str,
    *,
    timeout_seconds: float = 86_400.0,
    interval_seconds: float = 10.0,
    client: kfp.Client | None = None,
) -> Run:
    """Wait until the run has succeeded.

    The server may be away for five minutes at a time.

    Args:
        run_id: Its id.
        timeout_seconds: After so long the waiting ends, not the run.
        interval_seconds: Time between two looks.
        client: Connection to the server.

    Raises:
        RunError: The run failed, was cancelled or was skipped.
        InterruptedRunError: The time is over and the run is not.
        ServerError: The server has no such run, refused, or stayed away.
    """
    deadline = time.monotonic() + timeout_seconds
    state = ""
    for run in _looks(run_id, client or connect(), interval_seconds, deadline):
        if run.state != state:
            _LOG.info("%s: %s", run.name, run.state)
        state = run.state
        if run.is_over:
            return _succeeded(run)
    raise InterruptedRunError(
        f"The run is not over after {timeout_seconds:.0f} s", received=state, remedy="It goes on; wait again."
    )


def _looks(run_id: str, client: kfp.Client, interval_seconds: float, deadline: float) -> Iterator[Run]:
    """The run each time that the server answers, at least once, until the deadline."""
    answered = time.monotonic()
    while True:
        try:
            yield get_run(run_id, client)
            answered = time.monotonic()
        except ServerUnavailableError:
            if time.monotonic() - answered > _OUTAGE_SECONDS:
                raise
            _LOG.warning("The server does not answer; the run goes on without it.")
        left = deadline - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(interval_seconds, left))


def _succeeded(run: Run) -> Run:
    if run.state == SUCCEEDED:
        return run
    steps = f": {'; '.join(run.failures)}" if run.failures else ""
    raise RunError(f"The run {run.name!r} {END_STATES[run.state]}{steps}", remedy=f"Its page: {run.url}")


def _run(client: kfp.Client, answer: Any) -> Run:
    """The server's answer; fields that it leaves out, as it does for a run that has not begun, are empty."""
    config = answer.runtime_config
    return Run(
        run_id=answer.run_id,
        name=answer.display_name or "",
        url=f"{client._get_url_prefix().rstrip('/')}/#/runs/details/{answer.run_id}",
        state=answer.state or "PENDING",
        created_at=answer.created_at,
        finished_at=answer.finished_at if answer.state in END_STATES else None,
        schedule_id=answer.recurring_run_id or "",
        parameters=dict((config and config.parameters) or {}),
        failures=tuple(_failures(answer)),
    )


def _failures(answer: Any) -> Iterator[str]:
    """What went wrong, by step. Graphs inside the pipeline are left out: the server may leave them running for ever."""
    if answer.error and answer.error.message:
        yield answer.error.message
    for task in (answer.run_details and answer.run_details.task_details) or []:
        if task.state == "FAILED" and not task.child_tasks:
            message = task.error.message if task.error else ""
            yield f"step {task.display_name} failed" + (f" ({message})" if message else "")
