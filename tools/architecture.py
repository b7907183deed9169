"""The picture of the packages in docs/architecture.md, from the layers that import-linter holds.

`make compile` draws it, a test compares it: `python -m tools.architecture`.
"""

from __future__ import annotations

import ast
import textwrap
import tomllib
from collections.abc import Iterator
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "pictures" / "packages.svg"
PACKAGE = ROOT / "src" / "kfp_llm_batch"
LAYERS = "Each package knows only those below it"
"""Name of the contract."""

_WIDTH, _HEIGHT, _GAP, _MARGIN, _CHARACTER = 960, 64, 14, 12, 6.3


def layers() -> list[list[str]]:
    """The packages of each layer, topmost first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (found,) = [contract["layers"] for contract in contracts if contract["name"] == LAYERS]
    return [[name.strip() for name in layer.split("|")] for layer in found]


def purpose(package: str) -> str:
    """The first sentence of a package's docstring, without its full stop."""
    module = ast.parse((PACKAGE / package / "__init__.py").read_text("utf-8"))
    return " ".join((ast.get_docstring(module) or "").split("\n\n")[0].split()).removesuffix(".").replace("`", "")


def picture() -> str:
    """The SVG, which is readable on light and dark pages."""
    rows = [list(_row(names, number)) for number, names in enumerate(layers())]
    height = 2 * _MARGIN + len(rows) * (_HEIGHT + _GAP) - _GAP
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img">',
            f"<title>{LAYERS}</title>",
            '<g font-family="sans-serif" font-size="11" text-anchor="middle">',
            *(box for row in rows for box in row),
            "</g></svg>\n",
        ]
    )


def _row(names: list[str], number: int) -> Iterator[str]:
    width = (_WIDTH - 2 * _MARGIN - (len(names) - 1) * _GAP) / len(names)
    top = _MARGIN + number * (_HEIGHT + _GAP)
    for place, name in enumerate(names):
        left = _MARGIN + place * (width + _GAP)
        yield (
            f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{_HEIGHT}" rx="6" fill="#eef3fb"'
            ' stroke="#5b7db1"/>'
        )
        middle = left + width / 2
        lines = textwrap.wrap(purpose(name), int(width / _CHARACTER))
        yield f'<text x="{middle:.0f}" y="{top + 20}" font-size="14" font-weight="bold" fill="#1f2a3d">{name}</text>'
        for line, text in enumerate(lines):
            yield f'<text x="{middle:.0f}" y="{top + 37 + 14 * line}" fill="#3d4a5f">{escape(text)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
