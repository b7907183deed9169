"""Parameters as text become the types that a compiled pipeline declares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.shipped import CompiledPipeline

_TYPES: dict[str, tuple[str, tuple[type, ...]]] = {
    "STRING": ("a text", (str,)),
    "NUMBER_INTEGER": ("a whole number", (int,)),
    "NUMBER_DOUBLE": ("a number", (int, float)),
    "BOOLEAN": ("true or false", (bool,)),
    "LIST": ("a list as JSON, such as [1, 2]", (list,)),
    "STRUCT": ('an object as JSON, such as {"a": 1}', (dict,)),
}


def read_parameters(pipeline: CompiledPipeline, assignments: list[str], file: Path | None) -> dict[str, Any]:
    """Typed arguments from a file and from NAME=VALUE assignments, which win; checked against the declaration.

    Raises:
        ConfigurationError: A name is unknown, a value has the wrong type, or a required one is missing.
    """
    given: dict[str, Any] = {} if file is None else _from_file(file)
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigurationError("A parameter needs a value", received=assignment, remedy="Write -p name=value.")
        given[name] = _from_text(text, _declared_type(pipeline, name))
    return check_parameters(pipeline, given)


def check_parameters(pipeline: CompiledPipeline, given: Mapping[str, Any]) -> dict[str, Any]:
    """The same arguments, checked against the declaration.

    Raises:
        ConfigurationError: A name is unknown, a value has the wrong type, or a required one is missing.
    """
    typed = {name: _typed(name, value, _declared_type(pipeline, name)) for name, value in given.items()}
    _refuse_placeholders(typed)
    _check_complete(pipeline, typed)
    return typed


def _declared_type(pipeline: CompiledPipeline, name: str) -> str:
    if name not in pipeline.inputs:
        raise ConfigurationError(
            f"Pipeline {pipeline.name} has no such parameter", received=name, allowed=sorted(pipeline.inputs)
        )
    return str(pipeline.inputs[name]["parameterType"])


def _from_file(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"The parameter file cannot be read: {error.strerror}", received=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The parameter file is neither JSON nor YAML: {error}", received=str(path)) from error
    if not isinstance(content, dict):
        raise ConfigurationError("The parameter file must hold names and values", received=str(path))
    return content


def _from_text(text: str, kind: str) -> Any:
    if kind == "STRING":
        return text
    try:
        return json.loads(text.lower() if kind == "BOOLEAN" else text)
    except ValueError:
        return text


def _typed(name: str, value: Any, kind: str) -> Any:
    wanted, types = _TYPES[kind]
    wrong_boolean = isinstance(value, bool) and bool not in types
    if value is not None and (wrong_boolean or not isinstance(value, types)):
        raise ConfigurationError(f"Parameter {name} has the wrong type", received=value, allowed=[wanted])
    return float(value) if kind == "NUMBER_DOUBLE" and isinstance(value, int) else value


def _refuse_placeholders(given: Mapping[str, Any]) -> None:
    """Kubeflow Pipelines would put other parameters, or all of them, in place of such a text."""
    for name, value in given.items():
        if "{{$" in json.dumps(value, default=str):
            raise ConfigurationError(
                f"Parameter {name} holds a placeholder of Kubeflow Pipelines, which would be replaced",
                received="{{$",
                remedy="Write it with a space, as in {{ $, or put the text into the dataset.",
            )


def _check_complete(pipeline: CompiledPipeline, given: Mapping[str, Any]) -> None:
    required = [name for name, entry in pipeline.inputs.items() if not entry.get("isOptional")]
    if missing := [name for name in required if given.get(name) is None]:
        raise ConfigurationError(
            f"Pipeline {pipeline.name} needs more parameters: {', '.join(missing)}",
            remedy="Give them as -p name=value.",
        )
