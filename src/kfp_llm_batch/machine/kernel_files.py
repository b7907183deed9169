"""The small texts in which the kernel tells of itself; what is missing or malformed reads as nothing."""

from __future__ import annotations

import re
from pathlib import Path


def read_text(path: Path) -> str:
    """The whole file; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def read_number(path: Path) -> int | None:
    """A file that holds one whole number; None if it does not, as with `max`."""
    text = read_text(path).strip()
    return int(text) if text.isdecimal() else None


def field(text: str, name: str) -> str:
    """The value of the first line `name : value`; empty if there is none."""
    match = re.search(rf"^{re.escape(name)}[ \t]*:[ \t]*(.*)$", text, re.MULTILINE)
    return match.group(1).strip() if match else ""


def kibibytes(text: str, name: str) -> int | None:
    """The value of a line `name: number kB`, in bytes."""
    match = re.search(rf"\b{re.escape(name)}:\s*(\d+) kB", text)
    return int(match.group(1)) * 1024 if match else None


def number_list(text: str) -> tuple[int, ...]:
    """The numbers of a list such as `0-3,8`; empty if it is malformed."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None:
            return ()
        first, last = int(match.group(1)), int(match.group(2) or match.group(1))
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))
