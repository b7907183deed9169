"""The report as one HTML file, which asks no network for anything and runs nothing that the model wrote."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from kfp_llm_batch.evaluation.report.content import ReportInput, content

# What an HTML parser could take for the end of the script, and what JavaScript takes for the end of a line.
_DANGEROUS = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def html_report(given: ReportInput) -> str:
    """The whole page."""
    values = content(given)
    style, script = _resource("page.css"), _resource("page.js")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(_resource("page.html")).render(
        **values,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        rows_json=_json(values["row_data"]),
    )


def _resource(name: str) -> str:
    return files("kfp_llm_batch.evaluation.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What a content security policy names an inline script or style by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _json(value: Any) -> Markup:
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character, escaped in _DANGEROUS.items():
        text = text.replace(character, escaped)
    return Markup(text)
