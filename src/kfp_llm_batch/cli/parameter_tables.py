"""The table of parameters in the README beside each compiled file, generated from that file."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

_BEGIN, _END = "<!-- parameters: written by `kfp-llm-batch compile` -->", "<!-- end of parameters -->"
_BLOCK = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)
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
    specification = next(yaml.safe_load_all(compiled))
    parameters: dict[str, dict[str, Any]] = specification["root"].get("inputDefinitions", {}).get("parameters", {})
    rows = "\n".join(_row(name, entry) for name, entry in parameters.items())
    table = f"{_BEGIN}\n| parameter | type | default | meaning |\n|---|---|---|---|\n{rows}\n{_END}"
    return _BLOCK.sub(lambda _: table, readme)


def _row(name: str, entry: dict[str, Any]) -> str:
    kind = _TYPES[entry["parameterType"]]
    default = entry.get("defaultValue")
    if entry["parameterType"] == "NUMBER_INTEGER" and default is not None:
        default = int(default)  # the YAML writes 3 as 3.0
    shown = f"`{json.dumps(default)}`" if "defaultValue" in entry else "required"
    meaning = " ".join(entry.get("description", "").split()).replace("|", "\\|")
    return f"| `{name}` | {kind} | {shown} | {meaning} |"
