"""Charts as inline SVG: no script, no request, colours by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from kfp_llm_batch.evaluation.scorers.protocol import SHARE, FloatArray

_WIDTH = 720
_LINE = 30
_LABELS = 210
_VALUES = 165
_MARGIN = 8
_BINS = 24


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A value with its interval: one line of a forest plot, or one run of a history."""

    label: str
    value: float
    low: float | None
    high: float | None
    rows: int
    is_special: bool = False
    """Drawn as a finding, or as the current run."""


def shown(value: float, unit: str, *, is_change: bool = False) -> str:
    """A number as people read it: shares as percent, changes of shares as points."""
    sign = "+" if is_change else ""
    # Adding zero makes of a negative zero one.
    rounded = round(100 * value if unit == SHARE else value, 1) + 0.0
    return f"{rounded:{sign},.1f}{'%' if unit == SHARE and not is_change else ''}"


def moment(stamp: str) -> str:
    """A time, ISO 8601, without what nobody reads."""
    return stamp[:16].replace("T", " ")


def forest(marks: Sequence[Mark], unit: str, *, is_change: bool = False) -> Markup:
    """A line with interval and value for each mark, on one scale; zero is marked if it is on it."""
    scale = _Scale(marks, _LABELS, _WIDTH - _VALUES)
    height = _LINE * len(marks) + 2 * _MARGIN
    zero = Markup("")
    if scale.low <= 0 <= scale.high:
        zero = Markup('<line class="axis" x1="{x}" x2="{x}" y1="4" y2="{y}"/>').format(x=scale(0), y=height - 4)
    lines = [_forest_line(mark, index, scale, unit, is_change=is_change) for index, mark in enumerate(marks)]
    return _svg(height, zero + Markup("").join(lines), f"Intervals of {len(marks)} values")


def _forest_line(mark: Mark, index: int, scale: _Scale, unit: str, *, is_change: bool) -> Markup:
    middle = _MARGIN + _LINE * index + _LINE // 2
    interval = Markup("")
    if mark.low is not None and mark.high is not None:
        interval = Markup('<line class="interval" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>').format(
            low=scale(mark.low), high=scale(mark.high), y=middle
        )
    return Markup(
        '<g class="{kind}"><title>{full}: {value} ({rows} rows)</title>'
        '<svg x="0" y="{top}" width="{labels}" height="{line}"><text x="0" y="{base}">{label}</text></svg>'
        '{interval}<circle cx="{x}" cy="{y}" r="4"/>'
        '<text x="{right}" y="{text}" text-anchor="end">{value} <tspan class="muted">n={rows}</tspan></text></g>'
    ).format(
        kind="marked" if mark.is_special else "plain",
        full=mark.label,
        # Cut at its frame, for a phone's letters are larger.
        label=mark.label,
        top=middle - _LINE // 2,
        labels=_LABELS - 2 * _MARGIN,
        line=_LINE,
        base=_LINE // 2 + 5,
        value=shown(mark.value, unit, is_change=is_change),
        rows=f"{mark.rows:,}",
        interval=interval,
        x=scale(mark.value),
        y=middle,
        text=middle + 5,
        right=_WIDTH,
    )


def histogram(series: Mapping[str, FloatArray], unit: str) -> Markup:
    """Distributions of one or two runs over the same bins, as shares of their rows."""
    low, high = min(values.min() for values in series.values()), max(values.max() for values in series.values())
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    shares = {name: np.histogram(values, edges)[0] / len(values) for name, values in series.items()}
    tallest = max(float(share.max()) for share in shares.values())
    height, floor, bin_width = 206, 150, _WIDTH / _BINS
    bar_width = (bin_width - 2) / len(series)
    bars = [
        Markup(
            '<rect class="series{series}" x="{x}" y="{y}" width="{width}" height="{height}">'
            "<title>{title}</title></rect>"
        ).format(
            series=number,
            x=round(index * bin_width + 1 + number * bar_width, 1),
            y=round(floor - 140 * share / tallest, 1),
            width=round(bar_width, 1),
            height=round(140 * share / tallest, 1),
            title=f"{name}, from {shown(edges[index], unit)}: {100 * share:.1f}% of rows",
        )
        for number, (name, run) in enumerate(shares.items())
        for index, share in enumerate(run.tolist())
        if share
    ]
    axis = Markup(
        '<line class="axis" x1="0" x2="{width}" y1="{floor}" y2="{floor}"/>'
        '<text x="0" y="{text}">{low}</text><text x="{width}" y="{text}" text-anchor="end">{high}</text>'
    ).format(width=_WIDTH, floor=floor, text=floor + 22, low=shown(edges[0], unit), high=shown(edges[-1], unit))
    legend = Markup("").join(
        Markup('<rect class="series{}" x="{}" y="188" width="12" height="12"/><text x="{}" y="200">{}</text>').format(
            number, 200 * number, 200 * number + 20, name
        )
        for number, name in enumerate(series)
    )
    return _svg(height, Markup("").join(bars) + axis + legend, f"Distribution of {' and '.join(series)}")


def history(marks: Sequence[Mark], unit: str) -> Markup:
    """One metric over the last runs, oldest first, with intervals."""
    scale = _Scale(marks, 150, 12)
    step = (_WIDTH - 140) / max(1, len(marks) - 1)
    places = [20 + step * index for index in range(len(marks))]
    path = " ".join(f"{x:.1f},{scale(mark.value)}" for x, mark in zip(places, marks, strict=True))
    drawn = [
        Markup(
            '<g class="{kind}"><title>{label}: {value}</title>'
            '<line class="interval" x1="{x}" x2="{x}" y1="{low}" y2="{high}"/><circle cx="{x}" cy="{y}" r="4"/></g>'
        ).format(
            kind="current" if mark.is_special else "plain",
            label=mark.label,
            value=shown(mark.value, unit),
            x=round(x, 1),
            y=scale(mark.value),
            low=scale(mark.value if mark.low is None else mark.low),
            high=scale(mark.value if mark.high is None else mark.high),
        )
        for x, mark in zip(places, marks, strict=True)
    ]
    labels = Markup(
        '<text x="20" y="182">{first}</text><text x="{right}" y="182" text-anchor="end">{last}</text>'
        '<text x="{side}" y="20">{high}</text><text x="{side}" y="152">{low}</text>'
    ).format(
        first=marks[0].label,
        last=marks[-1].label,
        right=_WIDTH - 120,
        side=_WIDTH - 90,
        high=shown(scale.high, unit),
        low=shown(max(scale.low, 0.0) if scale.lowest >= 0 else scale.low, unit),
    )
    line = Markup('<polyline class="path" points="{}"/>').format(path)
    return _svg(190, line + Markup("").join(drawn) + labels, f"The last {len(marks)} runs")


class _Scale:
    """Values to coordinates, with a little room beyond the lowest and the highest end of all intervals."""

    def __init__(self, marks: Sequence[Mark], start: float, end: float) -> None:
        ends = [end for mark in marks for end in (mark.low, mark.high, mark.value) if end is not None]
        self.lowest, highest = min(ends), max(ends)
        length = highest - self.lowest
        room = length * 0.05 if length > 0 else max(abs(highest) * 0.05, 1e-9)
        self.low, self.high = self.lowest - room, highest + room
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        place = self._start + share * (self._end - self._start)
        return round(place, 1) if math.isfinite(place) else self._start


def _svg(height: int, content: Markup, label: str) -> Markup:
    return Markup('<svg role="img" aria-label="{}" viewBox="0 0 {} {}" class="chart">{}</svg>').format(
        label, _WIDTH, height, content
    )
