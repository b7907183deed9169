"""Components and pipelines to the YAML that is committed beside them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from kfp import compiler

import kfp_llm_batch.components
import kfp_llm_batch.pipelines
from kfp_llm_batch.errors import ConfigurationError


def compile_all(output: Path | None, *, check: bool) -> None:
    """Compile everything that is shipped; with `check`, compare with the files that are there.

    Raises:
        ConfigurationError: With `check`: a file is not what its source compiles to.
    """
    stale = []
    for place, function in _sources().items():
        target = place if output is None else output / place.parent.name / place.name
        compiled = _compiled(function)
        if target.exists() and target.read_text(encoding="utf-8") == compiled:
            continue
        stale.append(f"{target.parent.name}/{target.name}")
        if not check:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(compiled, encoding="utf-8")
            print(f"wrote {target}")
    if check and stale:
        raise ConfigurationError(
            f"Not what the sources compile to: {', '.join(stale)}", remedy="Run: kfp-llm-batch compile"
        )
    if check:
        print(f"{len(_sources())} compiled files are up to date")


def _sources() -> dict[Path, object]:
    """Each file with the function that it is compiled from."""
    return {
        Path(module.__path__[0]) / name / f"{kind}.yaml": getattr(module, name)
        for kind, module in (("component", kfp_llm_batch.components), ("pipeline", kfp_llm_batch.pipelines))
        for name in module.__all__
    }


def _compiled(function: object) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "compiled.yaml"
        compiler.Compiler().compile(function, str(path))
        return path.read_text(encoding="utf-8")
