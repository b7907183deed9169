"""Charts as inline SVG: no script, no request, colours by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from kfp_llm_batch.evaluation.scorers.protocol import SHARE

_WIDTH = 720
_LINE = 30
_LABELS = 210
_VALUES = 165
_MARGIN = 8


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One line of a forest plot."""

    label: str
    value: float
    low: float | None
    high: float | None
    rows: int
    is_marked: bool = False
    """Drawn as a finding."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run of a history."""

    label: str
    value: float
    low: float | None
    high: float | None
    is_current: bool = False


def shown(value: float, unit: str, *, is_change: bool = False) -> str:
    """A number as people read it: shares as percent, changes of shares as points."""
    sign = "+" if is_change else ""
    # Adding zero makes of a negative zero one.
    rounded = round(100 * value if unit == SHARE else value, 1) + 0.0
    return f"{rounded:{sign},.1f}{'%' if unit == SHARE and not is_change else ''}"


def forest(bars: Sequence[Bar], unit: str, *, is_change: bool = False) -> Markup:
    """A line with interval and value for each bar, on one scale; zero is marked if it is on it."""
    ends = [end for bar in bars for end in (bar.low, bar.high, bar.value) if end is not None]
    scale = _Scale(min(ends), max(ends), _LABELS, _WIDTH - _VALUES)
    height = _LINE * len(bars) + 2 * _MARGIN
    zero = Markup("")
    if scale.low <= 0 <= scale.high:
        zero = Markup('<line class="axis" x1="{x}" x2="{x}" y1="4" y2="{y}"/>').format(x=scale(0), y=height - 4)
    lines = [_forest_line(bar, index, scale, unit, is_change=is_change) for index, bar in enumerate(bars)]
    return _svg(height, zero + Markup("").join(lines), f"Intervals of {len(bars)} values")


def _forest_line(bar: Bar, index: int, scale: _Scale, unit: str, *, is_change: bool) -> Markup:
    middle = _MARGIN + _LINE * index + _LINE // 2
    interval = Markup("")
    if bar.low is not None and bar.high is not None:
        interval = Markup('<line class="interval" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>').format(
            low=scale(bar.low), high=scale(bar.high), y=middle
        )
    return Markup(
        '<g class="{kind}"><title>{full}: {value} ({rows} rows)</title>'
        '<svg x="0" y="{top}" width="{labels}" height="{line}"><text x="0" y="{base}">{label}</text></svg>'
        '{interval}<circle cx="{x}" cy="{y}" r="4"/>'
        '<text x="{right}" y="{text}" text-anchor="end">{value} <tspan class="muted">n={rows}</tspan></text></g>'
    ).format(
        kind="marked" if bar.is_marked else "plain",
        full=bar.label,
        # Cut at its frame, for a phone's letters are larger.
        label=bar.label,
        top=middle - _LINE // 2,
        labels=_LABELS - 2 * _MARGIN,
        line=_LINE,
        base=_LINE // 2 + 5,
        value=shown(bar.value, unit, is_change=is_change),
        rows=f"{bar.rows:,}",
        interval=interval,
        x=scale(bar.value),
        y=middle,
        text=middle + 5,
        right=_WIDTH,
    )


def histogram(values: Sequence[Sequence[float]], names: Sequence[str], unit: str) -> Markup:
    """Distributions of one or two runs over the same bins, as shares of their rows."""
    low, high = min(map(min, values)), max(map(max, values))
    edges = np.linspace(low, high if high > low else low + 1, 25)
    shares = [np.histogram(series, edges)[0] / len(series) for series in values]
    tallest = max(float(share.max()) for share in shares)
    scale, height, floor = _Scale(edges[0], edges[-1], 0, _WIDTH), 206, 150
    bars = [
        Markup(
            '<rect class="series{series}" x="{x}" y="{y}" width="{width}" height="{height}">'
            "<title>{title}</title></rect>"
        ).format(
            series=series,
            x=round(scale(edge) + 1 + series * (_WIDTH / 24 - 2) / len(values), 1),
            y=round(floor - 140 * share / tallest, 1),
            width=round((_WIDTH / 24 - 2) / len(values), 1),
            height=round(140 * share / tallest, 1),
            title=f"{names[series]}, from {shown(edge, unit)}: {100 * share:.1f}% of rows",
        )
        for series, run in enumerate(shares)
        for edge, share in zip(edges[:-1], run.tolist(), strict=True)
        if share
    ]
    axis = Markup(
        '<line class="axis" x1="0" x2="{width}" y1="{floor}" y2="{floor}"/>'
        '<text x="0" y="{text}">{low}</text><text x="{width}" y="{text}" text-anchor="end">{high}</text>'
    ).format(width=_WIDTH, floor=floor, text=floor + 22, low=shown(edges[0], unit), high=shown(edges[-1], unit))
    legend = Markup("").join(
        Markup('<rect class="series{}" x="{}" y="188" width="12" height="12"/><text x="{}" y="200">{}</text>').format(
            series, 200 * series, 200 * series + 20, name
        )
        for series, name in enumerate(names)
    )
    return _svg(height, Markup("").join(bars) + axis + legend, f"Distribution of {' and '.join(names)}")


def history(points: Sequence[Point], unit: str) -> Markup:
    """One metric over the last runs, oldest first, with intervals."""
    ends = [end for point in points for end in (point.low, point.high, point.value) if end is not None]
    scale = _Scale(min(ends), max(ends), 150, 12)
    step = (_WIDTH - 140) / max(1, len(points) - 1)
    places = [20 + step * index for index in range(len(points))]
    path = " ".join(f"{x:.1f},{scale(point.value)}" for x, point in zip(places, points, strict=True))
    marks = [
        Markup(
            '<g class="{kind}"><title>{label}: {value}</title>'
            '<line class="interval" x1="{x}" x2="{x}" y1="{low}" y2="{high}"/><circle cx="{x}" cy="{y}" r="4"/></g>'
        ).format(
            kind="current" if point.is_current else "plain",
            label=point.label,
            value=shown(point.value, unit),
            x=round(x, 1),
            y=scale(point.value),
            low=scale(point.value if point.low is None else point.low),
            high=scale(point.value if point.high is None else point.high),
        )
        for x, point in zip(places, points, strict=True)
    ]
    labels = Markup(
        '<text x="20" y="182">{first}</text><text x="{right}" y="182" text-anchor="end">{last}</text>'
        '<text x="{side}" y="20">{high}</text><text x="{side}" y="152">{low}</text>'
    ).format(
        first=points[0].label,
        last=points[-1].label,
        right=_WIDTH - 120,
        side=_WIDTH - 90,
        high=shown(scale.high, unit),
        low=shown(max(scale.low, 0.0) if min(ends) >= 0 else scale.low, unit),
    )
    line = Markup('<polyline class="path" points="{}"/>').format(path)
    return _svg(190, line + Markup("").join(marks) + labels, f"The last {len(points)} runs")


class _Scale:
    """Values to coordinates, with a little room at both ends."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        room = (high - low) * 0.05 if high > low else max(abs(high) * 0.05, 1e-9)
        is_plot_of_intervals = start != 0
        self.low, self.high = (low - room, high + room) if is_plot_of_intervals else (low, high)
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        place = self._start + share * (self._end - self._start)
        return round(place, 1) if math.isfinite(place) else self._start


def _svg(height: int, content: Markup, label: str) -> Markup:
    return Markup('<svg role="img" aria-label="{}" viewBox="0 0 {} {}" class="chart">{}</svg>').format(
        label, _WIDTH, height, content
    )
