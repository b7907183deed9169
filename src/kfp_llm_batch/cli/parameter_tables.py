"""The tables of parameters: in the README beside each compiled file, and all pipelines' on the page about the form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import yaml

_BEGIN, _END = "<!-- parameters: written by `kfp-llm-batch compile` -->", "<!-- end of parameters -->"
_BLOCK = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)
_FILLED_IN = "TASK_FINAL_STATUS"
"""What Kubeflow gives to an exit step itself."""
_FORMS_BEGIN, _FORMS_END = "<!-- forms: written by `kfp-llm-batch compile` -->", "<!-- end of forms -->"
_FORMS = re.compile(f"{re.escape(_FORMS_BEGIN)}.*?{re.escape(_FORMS_END)}", re.DOTALL)
_TYPES = {
    "STRING": "text",
    "NUMBER_INTEGER": "whole number",
    "NUMBER_DOUBLE": "number",
    "BOOLEAN": "true or false",
    "LIST": "list",
    "STRUCT": "object",
}


def with_parameter_table(readme: str, compiled: str) -> str:
    """The README with its table of parameters renewed; one without the marks stays as it is."""
    block = f"{_BEGIN}\n{parameter_table(next(yaml.safe_load_all(compiled)))}\n{_END}"
    return _BLOCK.sub(lambda _: block, readme)


def with_forms(page: str, pipelines: Iterable[str]) -> str:
    """The page with a section for each compiled pipeline: what it does, and its parameters in the form's order."""
    specifications = [next(yaml.safe_load_all(compiled)) for compiled in pipelines]
    sections = "\n\n".join(_form(specification) for specification in specifications)
    return _FORMS.sub(lambda _: f"{_FORMS_BEGIN}\n{sections}\n{_FORMS_END}", page)


def _form(specification: dict[str, Any]) -> str:
    name, description = (specification["pipelineInfo"].get(field, "") for field in ("name", "description"))
    picture = f"![Steps of {name}](pictures/{name}.svg)"
    return f"### {name}\n\n{description}\n\n{picture}\n\n{parameter_table(specification)}"


def parameter_table(specification: dict[str, Any]) -> str:
    """The Markdown table of a compiled component's or pipeline's parameters."""
    parameters: dict[str, dict[str, Any]] = specification["root"].get("inputDefinitions", {}).get("parameters", {})
    rows = "\n".join(_row(name, entry) for name, entry in parameters.items() if entry["parameterType"] != _FILLED_IN)
    return f"| parameter | type | default | meaning |\n|---|---|---|---|\n{rows}"


def _row(name: str, entry: dict[str, Any]) -> str:
    kind = _TYPES[entry["parameterType"]]
    default = entry.get("defaultValue")
    if entry["parameterType"] == "NUMBER_INTEGER" and default is not None:
        default = int(default)  # the YAML writes 3 as 3.0
    shown = f"`{json.dumps(default)}`" if "defaultValue" in entry else "required"
    meaning = " ".join(entry.get("description", "").split()).replace("|", "\\|")
    return f"| `{name}` | {kind} | {shown} | {meaning} |"
