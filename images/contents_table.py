"""Write where the bytes of the built images are into a page: `python images/contents_table.py docs/images.md`.

What has 10 MB or more has a line of its own; the rest is summed up. Sizes are those of the files.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

IMAGES = ("vllm-cpu", "data")
LEAST_BYTES = 10_000_000
SITE = "opt/venv/lib/python3.11/site-packages/"
LIST_FILES = "find / -xdev -type f ! -path '/proc/*' ! -path '/sys/*' ! -path '/dev/*' -printf '%s %P\\n'"
ROOT = Path(__file__).parents[1]


def part_of(path: str) -> str:
    """The line that a file counts for."""
    if not path.startswith(SITE):
        return "Python environment, the rest" if path.startswith("opt/venv/") else "Debian and Python"
    inside = Path(path.removeprefix(SITE))
    if inside.suffix == ".pyc":
        return "bytecode"
    if inside.name == "libtorch_cpu.so" or (inside.parts[0] == "vllm" and ".so" in inside.name):
        return f"`{inside.as_posix()}`"
    return f"`{inside.parts[0].removesuffix('.libs')}`"


def count_parts(image: str) -> Counter[str]:
    """Bytes of each part of a built image."""
    docker = subprocess.run([ROOT / "images/docker"], capture_output=True, text=True, check=True).stdout.strip()
    command = [docker, "run", "--rm", "--user=0", "--network=none", image, "sh", "-c", LIST_FILES]
    parts: Counter[str] = Counter()
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        number_of_bytes, path = line.split(" ", 1)
        parts[part_of(path)] += int(number_of_bytes)
    return parts


def table(name: str, parts: Counter[str]) -> str:
    """The parts as Markdown, the greatest first."""
    big = [(part, size) for part, size in parts.most_common() if size >= LEAST_BYTES]
    rest = (f"{len(parts) - len(big)} smaller ones", parts.total() - sum(size for _, size in big))
    lines = [f"| {part} | {size / 1e6:,.0f} |" for part, size in (*big, rest, ("**all**", parts.total()))]
    return "\n".join([f"| `{name}` | MB |", "|---|---:|", *lines])


def main(page: Path) -> None:
    """Replace the tables between the page's marks."""
    images = (ROOT / "src/kfp_llm_batch/images.py").read_text(encoding="utf-8")
    (registry,) = re.findall(r'^REGISTRY = "(.*)"', images, re.MULTILINE)
    (version,) = re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    text = page.read_text(encoding="utf-8")
    for name in IMAGES:
        begin, end = f"<!-- contents of {name} -->\n", "\n<!-- end -->"
        before, after = text.split(begin)
        text = before + begin + table(name, count_parts(f"{registry}/{name}:{version}")) + end + after.split(end, 1)[1]
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
