"""Components and pipelines to the YAML that is committed beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kfp import compiler

import kfp_llm_batch.components
import kfp_llm_batch.pipelines
from kfp_llm_batch.cli.parameter_tables import with_forms, with_parameter_table
from kfp_llm_batch.cli.pipeline_graphs import graph_svg
from kfp_llm_batch.disk import temporary_folder
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.shipped import PIPELINE_FILE


def compile_all(output: Path | None, *, check: bool) -> None:
    """Compile everything that is shipped into `output` or beside its source; with `check`, compare with what is there.

    Raises:
        ConfigurationError: With `check`: a file is not what its source makes it.
    """
    made = dict(_generated(output))
    stale = [path for path, text in made.items() if not (path.exists() and path.read_text("utf-8") == text)]
    if check and stale:
        names = ", ".join(f"{path.parent.name}/{path.name}" for path in stale)
        raise ConfigurationError(f"Not what the sources make of them: {names}", remedy="Run: kfp-llm-batch compile")
    if check:
        print("All compiled files are up to date.")
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made[path], encoding="utf-8")
        print(f"wrote {path}")


def _generated(output: Path | None) -> Iterator[tuple[Path, str]]:
    """Each file that is made from sources, with its text: compiled YAML, tables in READMEs and on one page, graphs."""
    pipelines = []
    for place, function in _sources().items():
        compiled = _compiled(function)
        if place.name == PIPELINE_FILE:
            pipelines.append(compiled)
        if output is not None:
            yield output / place.parent.name / place.name, compiled
            continue
        yield place, compiled
        readme = place.with_name("README.md")
        if readme.exists():
            yield readme, with_parameter_table(readme.read_text(encoding="utf-8"), compiled)
    page = Path(kfp_llm_batch.pipelines.__path__[0]).parent / "docs" / "kubeflow-ui.md"
    if output is None and page.exists():
        yield page, with_forms(page.read_text(encoding="utf-8"), pipelines)
        for name, svg in map(graph_svg, pipelines):
            yield page.parent / "pictures" / f"{name}.svg", svg


def _sources() -> dict[Path, object]:
    """Each file with the function that it is compiled from."""
    return {
        Path(module.__path__[0]) / name / f"{kind}.yaml": getattr(module, name)
        for kind, module in (("component", kfp_llm_batch.components), ("pipeline", kfp_llm_batch.pipelines))
        for name in module.__all__
    }


def _compiled(function: object) -> str:
    with temporary_folder() as folder:
        path = folder / "compiled.yaml"
        compiler.Compiler().compile(function, str(path))
        return path.read_text(encoding="utf-8")
