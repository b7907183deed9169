"""What the commands print that speak to Kubeflow Pipelines."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kfp_llm_batch.client import Change, CreateRequest, CronSchedule, Run, Schedule, parse_cron
from kfp_llm_batch.errors import ConfigurationError

_TIME = "%a %Y-%m-%d %H:%M:%S %z"


def print_json(value: Any) -> None:
    """For programs."""
    print(json.dumps(value, indent=2))


def print_request(request: CreateRequest, times: CronSchedule | None = None) -> None:
    """A dry run: the request as it would be sent, as JSON; for a schedule with its times."""
    print_json({**request.as_dict(), **({} if times is None else _times(times))})


def print_run(run: Run, *, as_json: bool, is_new: bool = False) -> None:
    """One run; a new one with what to do next."""
    if as_json:
        print_json(run.as_dict())
        return
    print(f"run:   {run.name}, {run.state}")
    print(f"id:    {run.run_id}")
    print(f"page:  {run.url}")
    if is_new:
        print(f"next:  kfp-llm-batch wait {run.run_id}")


def print_runs(runs: Sequence[Run], *, as_json: bool) -> None:
    """Runs as a table."""
    if as_json:
        print_json([run.as_dict() for run in runs])
        return
    rows = [(run.run_id, run.name, run.state, _time(run.created_at), _duration(run)) for run in runs]
    _print_table(("id", "name", "state", "created", "took"), rows, "no runs")


def print_schedule(made: Schedule, change: Change, times: CronSchedule, *, as_json: bool) -> None:
    """What became of a schedule, and when it is due."""
    if as_json:
        print_json({**made.as_dict(), "change": change, **_times(times)})
        return
    print(f"schedule: {made.name}, {change}, {'enabled' if made.enabled else 'disabled'}")
    print(f"id:       {made.schedule_id}")
    print(f"cron:     {times.sent} (seconds first): {times.meaning}")
    for number, moment in enumerate(times.next_times()):
        print(f"{'' if number else 'next:':9} {_both(moment)}")
    print(
        f"zone:     {times.timezone}, if the server counts in it: its CRON_SCHEDULE_TIMEZONE decides, UTC where that "
        "is not set. Tell it with --timezone."
    )


def print_schedules(schedules: Sequence[Schedule], timezone: str, *, as_json: bool) -> None:
    """Schedules as a table, each with its next time."""
    if as_json:
        print_json([{**schedule.as_dict(), "next_time": _next(schedule, timezone)} for schedule in schedules])
        return
    rows = [
        (entry.name, "on" if entry.enabled else "off", entry.cron or "interval", _next(entry, timezone) or "-")
        for entry in schedules
    ]
    _print_table(("name", "state", "cron (seconds first)", "next time"), rows, "no schedules")


def _next(schedule: Schedule, timezone: str) -> str | None:
    """When an enabled schedule is due next; other tools may have written what is not understood, such as @daily."""
    if schedule.enabled and len(schedule.cron.split()) == 6:
        with contextlib.suppress(ConfigurationError):
            return parse_cron(schedule.cron, timezone).next_times(1)[0].isoformat()
    return None


def _times(times: CronSchedule) -> dict[str, Any]:
    return {
        "cron": times.sent,
        "meaning": times.meaning,
        "server_timezone": times.timezone,
        "next_times": [moment.isoformat() for moment in times.next_times()],
    }


def _both(moment: dt.datetime) -> str:
    """In the server's zone, and in UTC where that is another one."""
    utc = moment.astimezone(dt.UTC)
    return moment.strftime(_TIME) + (f" = {utc:%Y-%m-%d %H:%M} UTC" if moment.utcoffset() else "")


def _time(moment: dt.datetime | None) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S") if moment else "-"


def _duration(run: Run) -> str:
    if not run.created_at or not run.finished_at:
        return "-"
    return str(dt.timedelta(seconds=round((run.finished_at - run.created_at).total_seconds())))


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    if not rows:
        print(empty)
        return
    table = Table(*columns)
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*map(Text, row))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 140).print(table)
