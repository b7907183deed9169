"""The graph of a compiled pipeline as SVG: a box for each step, as the run's page in Kubeflow shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

import yaml

_BOX_WIDTH, _BOX_HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 220, 40, 24, 36, 16


@dataclass(frozen=True, kw_only=True)
class _Step:
    after: frozenset[str]
    is_repeated: bool
    """Once for each shard."""


def graph_svg(compiled: str) -> tuple[str, str]:
    """Name of the pipeline, and its picture, which is readable on light and dark pages."""
    specification = next(yaml.safe_load_all(compiled))
    steps = dict(_steps(specification["root"]["dag"], specification["components"], frozenset(), is_repeated=False))
    places = _places(steps)
    width = max(x for x, _ in places.values()) + _BOX_WIDTH + _MARGIN
    height = max(y for _, y in places.values()) + _BOX_HEIGHT + _MARGIN
    lines = [
        _arrow(places[before], places[name]) for name in sorted(steps) for before in sorted(_right_before(name, steps))
    ]
    boxes = [_box(name, steps[name], places[name]) for name in sorted(steps)]
    pipeline = str(specification["pipelineInfo"]["name"])
    return pipeline, "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">',
            f"<title>Steps of {pipeline}</title>",
            '<g fill="none" stroke="#8a8f98" stroke-width="1.5">',
            *lines,
            '</g><g font-family="sans-serif" font-size="14" text-anchor="middle">',
            *boxes,
            "</g></svg>\n",
        ]
    )


def _steps(
    dag: dict[str, Any], components: Mapping[str, Any], before: frozenset[str], *, is_repeated: bool
) -> Iterator[tuple[str, _Step]]:
    """Each step of a graph with those right before it; the graphs inside loops and exit handlers are taken apart."""
    tasks = dag["tasks"]
    inside: dict[str, dict[str, _Step]] = {}
    for name in TopologicalSorter(
        {name: sorted(tasks[name].get("dependentTasks", ())) for name in sorted(tasks)}
    ).static_order():
        task = tasks[name]
        after = before.union(*(_ends(inside[earlier]) for earlier in task.get("dependentTasks", ())))
        component, repeated = components[task["componentRef"]["name"]], is_repeated or "parameterIterator" in task
        if "dag" in component:
            inside[name] = dict(_steps(component["dag"], components, after, is_repeated=repeated))
        else:
            inside[name] = {name: _Step(after=after, is_repeated=repeated)}
        yield from inside[name].items()


def _ends(steps: Mapping[str, _Step]) -> frozenset[str]:
    return frozenset(steps).difference(*(step.after for step in steps.values()))


def _right_before(name: str, steps: Mapping[str, _Step]) -> frozenset[str]:
    """Those before a step that stand before no other of them."""
    after = steps[name].after
    return after.difference(*(_all_before(earlier, steps) for earlier in after))


def _all_before(name: str, steps: Mapping[str, _Step]) -> frozenset[str]:
    after = steps[name].after
    return after.union(*(_all_before(earlier, steps) for earlier in after))


def _places(steps: Mapping[str, _Step]) -> dict[str, tuple[float, float]]:
    """Left upper corners: a row for each length of the longest way to a step, centred."""
    level: dict[str, int] = {}
    for name, step in steps.items():  # those before a step stand before it
        level[name] = 1 + max((level[before] for before in step.after), default=-1)
    rows = [[name for name in steps if level[name] == number] for number in range(max(level.values()) + 1)]
    middle = max(map(len, rows)) * (_BOX_WIDTH + _GAP_X) / 2 - _GAP_X / 2 + _MARGIN
    return {
        name: (
            middle + (place - len(row) / 2) * (_BOX_WIDTH + _GAP_X) + _GAP_X / 2,
            _MARGIN + number * (_BOX_HEIGHT + _GAP_Y),
        )
        for number, row in enumerate(rows)
        for place, name in enumerate(row)
    }


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = start, end
    x1, x2, y1 = x1 + _BOX_WIDTH / 2, x2 + _BOX_WIDTH / 2, y1 + _BOX_HEIGHT
    bend = (y2 - y1) / 2
    return f'<path d="M{x1:g} {y1:g}C{x1:g} {y1 + bend:g} {x2:g} {y2 - bend:g} {x2:g} {y2:g}"/>'


def _box(name: str, step: _Step, place: tuple[float, float]) -> str:
    x, y = place
    label = f"{name}, each shard" if step.is_repeated else name
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" rx="6"'
        ' fill="#eef3fb" stroke="#1f6fb4"/>'
        f'<text x="{x + _BOX_WIDTH / 2:g}" y="{y + 25:g}" fill="#1b2430">{label}</text>'
    )
