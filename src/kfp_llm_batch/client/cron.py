"""Cron expressions as people write them, as the server takes them, and when they are due.

The server's library (robfig/cron 1.2) reads six fields, seconds first, and takes five for six without the last one:
`0 3 * * *` then runs three minutes past every hour. It knows no L, W and #, and Sunday is 0 alone.
"""

from __future__ import annotations

import datetime as dt
import itertools
import zoneinfo
from dataclasses import dataclass

from cronsim import CronSim, CronSimError

from kfp_llm_batch.errors import ConfigurationError

_FIELDS = ("second", "minute", "hour", "day of month", "month", "day of week")
_DAY_OF_WEEK = 5
_REMEDY = "Write five fields (minute hour day-of-month month day-of-week) or six with the seconds first."


@dataclass(frozen=True, kw_only=True)
class CronSchedule:
    """When a recurring run is due."""

    given: str
    """As the user wrote it."""
    sent: str
    """Six fields, as the server takes it."""
    timezone: str
    """Zone that the server counts in."""

    @property
    def meaning(self) -> str:
        """The expression in words."""
        return str(CronSim(self.sent, dt.datetime.now(dt.UTC)).explain())

    def next_times(self, count: int = 5, after: dt.datetime | None = None) -> list[dt.datetime]:
        """The next moments in the schedule's zone.

        A time that a change of the clock skips is left out, one that it repeats comes twice, as on the server.

        Args:
            count: How many; fewer if there are fewer in the next 50 years.
            after: Start; now if it is left out.
        """
        start = (after or dt.datetime.now(dt.UTC)).astimezone(zoneinfo.ZoneInfo(self.timezone))
        return list(itertools.islice(CronSim(self.sent, start), count))


def parse_cron(text: str, timezone: str = "UTC") -> CronSchedule:
    """Understand a cron expression of five or six fields.

    Args:
        text: Five fields as in crontab, or six with the seconds first.
        timezone: Zone that the server counts in: its CRON_SCHEDULE_TIMEZONE, UTC where that is not set.

    Raises:
        ConfigurationError: The expression or the zone is none, the server could not keep it, or it is never due.
    """
    fields = text.replace("?", "*").upper().split()
    if len(fields) not in (5, 6):
        raise ConfigurationError("A cron expression has five or six fields", received=text, remedy=_REMEDY)
    fields = fields if len(fields) == 6 else ["0", *fields]
    weekdays = _weekdays(text, fields)
    days = fields[_DAY_OF_WEEK]
    if not days.startswith("*") and ("7" in days or "/" in days):
        # 7 is Sunday in crontab and an error on the server, where a step ends at 6.
        fields[_DAY_OF_WEEK] = ",".join(str(day) for day in sorted({day % 7 for day in weekdays}))
    schedule = CronSchedule(given=text, sent=" ".join(fields), timezone=_known_zone(timezone))
    if not schedule.next_times(1):
        raise ConfigurationError("The cron expression is never due", received=text)
    return schedule


def _weekdays(text: str, fields: list[str]) -> list[int]:
    """The days of the week, of an expression that the server can keep."""
    for name, field in zip(_FIELDS, fields, strict=True):
        if "," in field and "*" in field:
            raise ConfigurationError(f"The field {name} of the cron expression mixes * with a list", received=text)
    try:
        parsed = CronSim(" ".join(fields), dt.datetime.now(dt.UTC))
    except CronSimError as error:
        raise ConfigurationError(f"Not a cron expression: {error}", received=text, remedy=_REMEDY) from None
    weekdays = [day for day in parsed.weekdays if isinstance(day, int)]
    if len(weekdays) < len(parsed.weekdays) or min(parsed.days) < 0:
        raise ConfigurationError("Kubeflow's scheduler knows no L, W and # in a cron expression", received=text)
    return weekdays


def _known_zone(name: str) -> str:
    try:
        return zoneinfo.ZoneInfo(name).key
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigurationError("Unknown time zone", received=name, allowed=_near_zones(name)) from None


def _near_zones(name: str) -> list[str]:
    """Zones with that name in them, since there are 600."""
    word = name.rpartition("/")[2].lower()
    return ["UTC", *sorted(zone for zone in zoneinfo.available_timezones() if word and word in zone.lower())[:5]]
