"""The source of the docs' site: the repository's pages under their own paths, what they link to, and the reference.

`make docs` runs this, and then mkdocs over what it wrote. Since every page keeps its path, a link that works on GitHub
works on the site as well.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "build" / "site-source"
PAGES = ("*.md", "docs/**/*.md", "components/*/README.md", "pipelines/*/README.md")

_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_ELSEWHERE = ("http://", "https://", "mailto:")


def main() -> None:
    """Write the source of the site anew."""
    from tools.reference import reference_pages

    shutil.rmtree(SOURCE, ignore_errors=True)
    for path, text in reference_pages().items():
        _write(SOURCE / "docs" / "reference" / path, text)
    for page in pages():
        take_over(page)


def pages() -> list[Path]:
    """Every page that the site takes over."""
    return sorted(path for pattern in PAGES for path in ROOT.glob(pattern))


def take_over(page: Path) -> None:
    """Write a page of the repository, and what it links to, under the same paths."""
    _write(SOURCE / page.relative_to(ROOT), _with_folder_pages(page))
    for target in linked(page):
        _bring(target)


def linked(page: Path) -> Iterator[Path]:
    """The files and folders of the repository that a page links to, whether they exist or not."""
    for prose in _FENCE.split(page.read_text(encoding="utf-8"))[::2]:
        for _, address, _ in _LINK.findall(prose):
            if not address.startswith(_ELSEWHERE):
                yield Path(os.path.normpath(page.parent / address))


def _with_folder_pages(page: Path) -> str:
    """The page with links to folders leading to the pages that list them."""

    def replaced(link: re.Match[str]) -> str:
        if not link[2].startswith(_ELSEWHERE) and (page.parent / link[2]).is_dir():
            return f"{link[1]}{link[2].rstrip('/')}/README.md)"
        return link[0]

    parts = _FENCE.split(page.read_text(encoding="utf-8"))
    return "".join(part if index % 2 else _LINK.sub(replaced, part) for index, part in enumerate(parts))


def _bring(target: Path) -> None:
    """Copy what a page links to; of a folder everything, with a page that lists it."""
    if target.is_dir():
        files = sorted(path for path in target.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        lines = "\n".join(f"- [{path.relative_to(target)}]({path.relative_to(target).as_posix()})" for path in files)
        if not (target / "README.md").exists():
            _write(SOURCE / target.relative_to(ROOT) / "README.md", f"# {target.relative_to(ROOT)}\n\n{lines}\n")
        for path in files:
            _bring(path)
    elif target.is_file() and target not in pages():
        copy = SOURCE / target.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(target, copy)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
