"""A new component that compiles and has a test: `make component NAME=verb_noun`."""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

_RUNTIME = '''"""What the step NAME does; plain Python, without KFP."""

from __future__ import annotations

from pathlib import Path

from kfp_llm_batch.manifests import FILE_NAME, ResultManifest


def NAME(completions: Path) -> str:
    """Say how many rows there are.

    Args:
        completions: Folder with parts and a manifest.

    Raises:
        DataError: The manifest is not one of this product.
    """
    path = completions / FILE_NAME
    manifest = ResultManifest.from_json(path.read_bytes(), str(path))
    return f"Rows: {manifest.rows_out:,} of {manifest.rows_in:,}."
'''

_COMPONENT = '''"""KFP step: NAME."""

from kfp import dsl
from kfp_llm_batch.components.step_component import step_component


@step_component
def NAME(
    completions: dsl.Input[dsl.Dataset],
    report: dsl.Output[dsl.Markdown],
) -> None:
    """Say how many rows there are.

    Args:
        completions: Folder written by generate_completions.
        report: One line for people.
    """
    from pathlib import Path

    from kfp_llm_batch import NAME
    from kfp_llm_batch.steps import step, write_outputs

    with step(""):
        write_outputs({report.path: NAME.NAME(Path(completions.path))})
'''

_INIT = '''"""The component `NAME`."""
'''

_METADATA = """name: NAME
stability: alpha
dependencies:
  kubeflow:
    - name: Pipelines
      version: '>=2.15.0'
tags:
  - batch-inference
"""

_README = """# NAME

Says how many rows there are. Write here what it does, what it refuses, and what its outputs hold.

<!-- parameters: written by `kfp-llm-batch compile` -->
<!-- end of parameters -->
"""

_TEST = """from pathlib import Path

from kfp import dsl
from kfp_llm_batch.components import NAME


def test_it_says_how_many_rows_there_are(make_result, tmp_path):
    completions, report = dsl.Dataset(uri=str(make_result())), dsl.Markdown(uri=str(tmp_path / "report.md"))
    NAME.python_func(completions=completions, report=report)
    assert Path(report.path).read_text() == "Rows: 25 of 25."
"""


def files(name: str) -> dict[str, str]:
    """Paths of a new component's files with their texts."""
    templates = {
        f"src/kfp_llm_batch/{name}.py": _RUNTIME,
        f"components/{name}/__init__.py": _INIT,
        f"components/{name}/component.py": _COMPONENT,
        f"components/{name}/metadata.yaml": _METADATA,
        f"components/{name}/README.md": _README,
        f"tests/components/test_{name}.py": _TEST,
    }
    return {path: re.sub(r"\bNAME\b", name, template) for path, template in templates.items()}


def create(name: str, root: Path = ROOT) -> None:
    """Write the files of a new component, and list it where components are listed.

    Raises:
        SystemExit: The name is no verb_noun in lower case, or is taken.
    """
    if not re.fullmatch(r"[a-z]+(_[a-z0-9]+)+", name) or keyword.iskeyword(name):
        raise SystemExit(f"A component is called verb_noun in lower case. Received: {name!r}. For example: count_rows")
    new = {root / path: text for path, text in files(name).items()}
    if taken := [str(path.relative_to(root)) for path in new if path.exists()]:
        raise SystemExit(f"There is one of this name already: {', '.join(taken)}")
    for path, text in new.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    package = root / "components" / "__init__.py"
    _insert(package, "from kfp_llm_batch.components.{0}.component import {0}", name)
    _insert(package, '    "{0}",', name)
    _insert(root / "pyproject.toml", '    "kfp_llm_batch.components.{0}",', name)


def _insert(file: Path, form: str, name: str) -> None:
    """Add a line of this form, in the order of names among its like."""
    lines = file.read_text(encoding="utf-8").splitlines()
    pattern = re.compile(re.escape(form).replace(r"\{0\}", r"(\w+)", 1).replace(r"\{0\}", r"\1"))
    alike = [index for index, line in enumerate(lines) if pattern.fullmatch(line)]
    after = [index for index in alike if lines[index] < form.format(name)]
    lines.insert(after[-1] + 1 if after else alike[0], form.format(name))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    create(sys.argv[1] if len(sys.argv) > 1 else "")
