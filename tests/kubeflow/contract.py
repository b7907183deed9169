"""The server's API as its contract says it: routes, queries and schemas of bodies, stricter than the server itself."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

_FILE = Path(__file__).parents[1] / "contracts" / "kfp_api_v2beta1.json"


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one path."""

    name: str
    path_values: dict[str, str]
    description: dict[str, Any]

    def problems_of_request(self, query: dict[str, str], body: Any) -> list[str]:
        """What the contract does not allow in a request."""
        known = {entry["name"]: entry for entry in self.description.get("parameters", [])}
        found = [f"unknown query parameter {name}" for name in query if known.get(name, {}).get("in") != "query"]
        found += [
            f"query parameter {name} is no number"
            for name, value in query.items()
            if known.get(name, {}).get("type") == "integer" and not value.isdecimal()
        ]
        schema = next((entry["schema"] for entry in known.values() if entry["in"] == "body"), None)
        if schema is None:
            return found + (["a body is not expected"] if body else [])
        return found + problems(body, schema)

    def problems_of_response(self, status: int, body: Any) -> list[str]:
        """What the contract does not allow in an answer."""
        responses = self.description["responses"]
        return problems(body, responses.get(str(status), responses["default"])["schema"])


def find_operation(method: str, path: str) -> Operation | None:
    """The operation that a request is for."""
    for template, operations in contract()["paths"].items():
        match = re.fullmatch(_pattern(template), path)
        if match and method.lower() in operations:
            description = operations[method.lower()]
            return Operation(name=description["operationId"], path_values=match.groupdict(), description=description)
    return None


def problems(value: Any, schema: dict[str, Any]) -> list[str]:
    """Where a value is not what a schema of the contract says."""
    validator = jsonschema.Draft4Validator({**schema, "definitions": contract()["definitions"]})
    return [f"{'/'.join(map(str, error.path))}: {error.message[:200]}" for error in validator.iter_errors(value)]


@cache
def contract() -> dict[str, Any]:
    """The committed part of the server's contract, in which an object has no fields but those that are named."""
    found: dict[str, Any] = _closed(json.loads(_FILE.read_text(encoding="utf-8")))
    return found


def _closed(node: Any) -> Any:
    if isinstance(node, list):
        return [_closed(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    closed = {name: _closed(entry) for name, entry in node.items()}
    if isinstance(node.get("properties"), dict) and node.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


def _pattern(template: str) -> str:
    """`/runs/{run_id}:retry` as a pattern whose groups are the values."""
    parts = re.split(r"\{([\w.]+)\}", template)
    return "".join(
        f"(?P<{part.rpartition('.')[2]}>[^/:]+)" if index % 2 else re.escape(part) for index, part in enumerate(parts)
    )
