"""The rules of robfig/cron 1.2, which the server uses, written down a second time and without any shortcut."""

from __future__ import annotations

import datetime as dt
import zoneinfo

_BOUNDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NAMES: tuple[dict[str, int], ...] = (
    {},
    {},
    {},
    {},
    {n: i + 1 for i, n in enumerate(_MONTHS)},
    {n: i for i, n in enumerate(_DAYS)},
)

Fields = tuple[frozenset[int], ...]


def parse_robfig(expression: str) -> tuple[Fields, bool]:
    """The values of each field, and whether a day must match both of its fields.

    Raises:
        ValueError: The server would refuse the expression.
    """
    fields = expression.split()
    if len(fields) not in (5, 6):
        raise ValueError(f"Expected 5 to 6 fields, found {len(fields)}")
    fields = [*fields, "*"][:6]
    values = tuple(_values(text, bounds, names) for text, bounds, names in zip(fields, _BOUNDS, _NAMES, strict=True))
    return values, any(part[:1] in ("*", "?") for index in (3, 5) for part in fields[index].split(","))


def next_times(expression: str, timezone: str, start: dt.datetime, count: int) -> list[dt.datetime]:
    """The first moments after `start`, found by trying second after second, or minute after minute at second 0."""
    (seconds, *rest), both = parse_robfig(expression)
    step = 60 if seconds == {0} else 1
    zone, moment = zoneinfo.ZoneInfo(timezone), int(start.timestamp()) // step * step
    found: list[dt.datetime] = []
    while len(found) < count:
        moment += step
        local = dt.datetime.fromtimestamp(moment, zone)
        if local.second in seconds and _matches(local, tuple(rest), both):
            found.append(local)
    return found


def _matches(local: dt.datetime, fields: Fields, both: bool) -> bool:
    minutes, hours, days, months, weekdays = fields
    if local.minute not in minutes or local.hour not in hours or local.month not in months:
        return False
    day, weekday = local.day in days, local.isoweekday() % 7 in weekdays
    return (day and weekday) if both else (day or weekday)


def _values(text: str, bounds: tuple[int, int], names: dict[str, int]) -> frozenset[int]:
    return frozenset(value for part in text.split(",") for value in _range(part, bounds, names))


def _range(part: str, bounds: tuple[int, int], names: dict[str, int]) -> range:
    span, slash, step = part.partition("/")
    low, dash, high = span.partition("-")
    if low in ("*", "?"):
        first, last = bounds
    else:
        first = _number(low, names)
        last = _number(high, names) if dash else first
        if slash and not dash:
            last = bounds[1]
    if first < bounds[0] or last > bounds[1] or first > last or step == "0":
        raise ValueError(f"{part} is out of range")
    return range(first, last + 1, _number(step, {}) if slash else 1)


def _number(text: str, names: dict[str, int]) -> int:
    if text.lower() in names:
        return names[text.lower()]
    if not text.isdecimal():
        raise ValueError(f"Failed to parse int from {text}")
    return int(text)
