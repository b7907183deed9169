"""The page about the architecture, held against the code."""

import ast
import re
from pathlib import Path

import pytest

from tools import architecture

SOURCE = architecture.PACKAGE
PAGE = (architecture.ROOT / "docs" / "architecture.md").read_text()
PLACES = sorted(set(re.findall(r"`([\w/]+\.py): (\w+)`", PAGE)))
FOLDERS = {
    path.parent.name for path in SOURCE.glob("*/__init__.py") if path.parent.name not in ("components", "pipelines")
}


def defined(path: Path) -> set[str]:
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            found |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    return found


@pytest.mark.parametrize(("file", "name"), PLACES)
def test_every_place_that_the_data_passes_is_there(file, name):
    path = architecture.ROOT / file if file.startswith("pipelines/") else SOURCE / file
    assert name in defined(path)


def test_every_package_has_its_layer():
    assert {name for layer in architecture.layers() for name in layer} == FOLDERS


def test_the_picture_is_that_of_the_layers():
    assert architecture.PICTURE.read_text() == architecture.picture()
