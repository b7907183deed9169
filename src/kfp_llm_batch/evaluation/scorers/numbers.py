"""Numbers in texts: `1,234.50`, `$18`, `-3`, `50%`, `1e6`."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal

_CURRENCY = r"[$\u20ac\u00a3\u00a5\u20b9]"
# A hyphen between digits or letters joins them, as in 5-3 or COVID-19; it is no sign.
_NUMBER = re.compile(
    rf"""(?<![\w.])(?P<sign>[-\u2212])?(?:{_CURRENCY}\s?)?
    (?P<digits>(?:\d{{1,3}}(?:,\d{{3}})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][+-]?\d{{1,3}}(?!\d))?|\.\d+)""",
    re.VERBOSE | re.ASCII,
)
_MOST_DIGITS = 300


def numbers_in(text: str) -> list[Decimal]:
    """All numbers, in their order; a percent sign and a currency are not part of a number."""
    matches = _NUMBER.finditer(unicodedata.normalize("NFKC", text))
    return [_parsed(match) for match in matches if len(match["digits"]) <= _MOST_DIGITS]


def _parsed(match: re.Match[str]) -> Decimal:
    value = Decimal(match["digits"].replace(",", ""))
    return -value if match["sign"] else value
