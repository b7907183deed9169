"""The compiled pipelines that this package ships, and those of a user's own."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from kfp_llm_batch.errors import ConfigurationError

PIPELINE_FILE = "pipeline.yaml"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times as fast where PyYAML has it."""
_PACKAGE = "kfp_llm_batch.pipelines"


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
    def title(self) -> str:
        """The name that Kubeflow shows."""
        return str(self.specification["pipelineInfo"]["name"])

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
    shipped = shipped_pipelines()
    if name not in shipped:
        raise ConfigurationError("Unknown pipeline", received=name, allowed=[*shipped, "the path of a compiled .yaml"])
    return _parse(name, _read(_folder() / name / PIPELINE_FILE))


def shipped_pipelines() -> list[str]:
    """The names of the pipelines that this package ships."""
    return sorted(file.parent.name for file in _folder().glob(f"*/{PIPELINE_FILE}"))


def _folder() -> Path:
    """Where the package lies; importing it would load KFP and put every pipeline together, for a second."""
    specification = find_spec(_PACKAGE)
    assert specification is not None
    assert specification.submodule_search_locations
    return Path(specification.submodule_search_locations[0])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The pipeline cannot be read: {error}", received=str(path)) from error


def _parse(name: str, text: str) -> CompiledPipeline:
    try:
        documents = [document for document in yaml.load_all(text, _LOADER) if document]
        pipeline = CompiledPipeline(name=name, documents=documents)
        _ = pipeline.inputs, pipeline.specification["root"]["dag"]["tasks"], pipeline.specification["deploymentSpec"]
    except (yaml.YAMLError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ConfigurationError("Not a compiled pipeline", received=name) from error
    return pipeline
