"""The compiled pipelines that this package ships, and those of a user's own."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from kfp_llm_batch.errors import ConfigurationError

PIPELINE_FILE = "pipeline.yaml"


@dataclass(frozen=True)
class CompiledPipeline:
    """A compiled pipeline: the specification and, if there is one, the Kubernetes settings behind it."""

    name: str
    documents: list[dict[str, Any]]

    @property
    def specification(self) -> dict[str, Any]:
        """The pipeline's own document."""
        return self.documents[0]

    @property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """Declared parameters: type, default, whether it may be left out."""
        definitions: dict[str, dict[str, Any]] = self.specification["root"].get("inputDefinitions", {})
        return definitions.get("parameters", {})


def load_pipeline(name: str) -> CompiledPipeline:
    """A shipped pipeline by its name, or a compiled one by its path.

    Raises:
        ConfigurationError: There is none of this name, or the file is not a compiled pipeline.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return _parse(name, _read(path))
    folder = files("kfp_llm_batch.pipelines")
    shipped = sorted(entry.name for entry in folder.iterdir() if entry.joinpath(PIPELINE_FILE).is_file())
    if name not in shipped:
        raise ConfigurationError("Unknown pipeline", received=name, allowed=[*shipped, "the path of a compiled .yaml"])
    return _parse(name, folder.joinpath(name, PIPELINE_FILE).read_text(encoding="utf-8"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The pipeline cannot be read: {error}", received=str(path)) from error


def _parse(name: str, text: str) -> CompiledPipeline:
    try:
        documents = [document for document in yaml.safe_load_all(text) if document]
        pipeline = CompiledPipeline(name=name, documents=documents)
        _ = pipeline.inputs, pipeline.specification["root"]["dag"]["tasks"], pipeline.specification["deploymentSpec"]
    except (yaml.YAMLError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ConfigurationError("Not a compiled pipeline", received=name) from error
    return pipeline
