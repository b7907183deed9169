"""The reference pages of the site, from signatures, schemas and compiled files."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterable, Iterator
from enum import EnumType
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pyarrow as pa
import typer
import yaml
from typer.cli import get_docs_for_click

from kfp_llm_batch import client, errors, manifests, schemas
from kfp_llm_batch.cli.main import app
from kfp_llm_batch.cli.parameter_tables import parameter_table
from kfp_llm_batch.evaluation.scorers.registry import make_scorer, scorer_class, scorer_names

ROOT = Path(__file__).parents[1]


def reference_pages() -> dict[str, str]:
    """File names with the Markdown of each page."""
    return {
        "components.md": _assets("Components", "components", "component.yaml"),
        "pipelines.md": _assets("Pipelines", "pipelines", "pipeline.yaml"),
        "commands.md": _commands(),
        "client.md": _client(),
        "scorers.md": _scorers(),
        "columns.md": _columns(),
        "manifests.md": _manifests(),
        "errors.md": _errors(),
    }


def _assets(title: str, folder: str, file: str) -> str:
    """One section for each compiled file: what it does, its artifacts, its parameters."""
    sections = [f"# {title}\n\nFrom their signatures. The parameters are in the order of Kubeflow's form."]
    for path in sorted((ROOT / folder).glob(f"*/{file}")):
        specification = next(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        name = path.parent.name
        sections += [
            f"## {name}",
            specification["pipelineInfo"].get("description", ""),
            f"[What it does, in words](../../{folder}/{name}/README.md)",
            *_artifacts(specification["root"]),
            parameter_table(specification),
        ]
    return "\n\n".join(sections) + "\n"


def _artifacts(root: dict[str, Any]) -> Iterator[str]:
    rows = [
        (f"`{name}`", direction, artifact["artifactType"]["schemaTitle"], artifact.get("description", ""))
        for direction, key in (("input", "inputDefinitions"), ("output", "outputDefinitions"))
        for name, artifact in root.get(key, {}).get("artifacts", {}).items()
    ]
    if rows:
        yield _table(("artifact", "direction", "type", "meaning"), rows)


def _commands() -> str:
    command = typer.main.get_command(app)
    # typer's own annotation names a narrower context than the one that it makes.
    with cast(Any, command.make_context("kfp-llm-batch", [], resilient_parsing=True)) as context:
        text = get_docs_for_click(obj=command, ctx=context, name="kfp-llm-batch", title="Commands")
    return text.replace("```console\n$ ", "```text\n")


def _client() -> str:
    sections = ["# The client", "From `kfp_llm_batch.client`; examples are in [runs and schedules](../kubeflow.md)."]
    for name in client.__all__:
        item = getattr(client, name)
        if dataclasses.is_dataclass(item):
            sections += [f"## {name}", inspect.getdoc(item) or "", _fields(item), *_methods(item)]
        elif isinstance(item, EnumType):
            values = [(f"`{member.value}`",) for member in list[Any](item)]
            sections += [f"## {name}", inspect.getdoc(item) or "", _table(("value",), values)]
        else:
            sections += [f"## {name}", *_callable(name, item)]
    return "\n\n".join(sections) + "\n"


def _methods(kind: Any) -> Iterator[str]:
    for name, member in vars(kind).items():
        if inspect.isfunction(member) and not name.startswith("_"):
            yield f"### {kind.__name__}.{name}"
            yield from _callable(name, member)


def _callable(name: str, function: Any) -> Iterator[str]:
    signature = inspect.signature(function)
    lines = [f"    {_parameter(entry)},\n" for entry in signature.parameters.values() if entry.name != "self"]
    inside = f"\n{''.join(lines)}" if lines else ""
    yield f"```text\n{name}({inside}) -> {signature.return_annotation}\n```"
    yield _prose(inspect.getdoc(function) or "")


def _parameter(parameter: inspect.Parameter) -> str:
    text = f"{parameter.name}: {parameter.annotation}"
    return text if parameter.default is parameter.empty else f"{text} = {parameter.default!r}"


def _prose(docstring: str) -> str:
    """A docstring in Google's form as Markdown: its sections as lists."""
    blocks = []
    for block in docstring.split("\n\n"):
        title, _, rest = block.partition("\n")
        if title in ("Args:", "Returns:", "Raises:", "Yields:"):
            entries = re.split(r"\n(?! )", textwrap.dedent(rest))
            blocks.append(f"{title}\n\n" + "\n".join(f"- {_entry(' '.join(entry.split()))}" for entry in entries))
        else:
            blocks.append(" ".join(block.split()))
    return "\n\n".join(blocks)


def _entry(text: str) -> str:
    name, separator, rest = text.partition(": ")
    return f"`{name}`: {rest}" if separator and name.isidentifier() else text


def _scorers() -> str:
    sections = [
        "# Scorers",
        "What `evaluation_scorers` may name; their use is in [evaluation](../evaluation.md#scorers).",
    ]
    for name in scorer_names():
        kind: Any = scorer_class(name)
        sections += [f"## {name}", _prose(inspect.getdoc(kind) or "")]
        if dataclasses.fields(kind):
            sections.append(_fields(kind))
        if not any(field.default is dataclasses.MISSING for field in dataclasses.fields(kind)):
            sections.append(_metrics(name))
    return "\n\n".join(sections) + "\n"


def _metrics(name: str) -> str:
    direction = {True: "higher", False: "lower", None: "neither"}
    rows = [
        (f"`{metric.name}`", metric.unit, direction[metric.higher_is_better]) for metric in make_scorer(name).metrics
    ]
    return _table(("metric", "unit", "better"), rows)


def _columns() -> str:
    notes = _notes(schemas)
    return "\n\n".join(
        [
            "# Columns",
            "From the Arrow schemas. The source's own columns follow ours in both.",
            "## Prompts",
            _schema(schemas.PROMPT_FIELDS),
            notes["PROMPT_FIELDS"],
            "## Completions",
            _schema(schemas.COMPLETION_FIELDS),
            notes["COMPLETION_FIELDS"],
            f"`logprobs` of `outputs`: {notes['LOGPROBS']}",
            f"`provenance`: {notes['PROVENANCE']}",
        ]
    )


def _schema(fields: Iterable[pa.Field]) -> str:
    rows = [(f"`{field.name}`", f"`{field.type}`", "yes" if field.nullable else "no") for field in fields]
    return _table(("column", "type", "may be null"), rows)


def _manifests() -> str:
    sections = [f"# Manifests\n\n`{manifests.FILE_NAME}` in a folder of prompts or a result, JSON, written last."]
    for kind in (manifests.PromptsManifest, manifests.ResultManifest, manifests.StoredFile):
        sections += [f"## {kind.__name__}", inspect.getdoc(kind) or "", _fields(kind)]
    return "\n\n".join(sections) + "\n"


def _errors() -> str:
    rows = [
        (f"`{kind.__name__}`", str(kind.exit_code), " ".join((inspect.getdoc(kind) or "").split()))
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, errors.BatchError) and kind is not errors.BatchError
    ]
    notes = _notes(schemas)
    warnings = [(f"`{getattr(schemas, name)}`", notes[name]) for name in ("PROMPT_TRUNCATED", "TEXT_REPAIRED")]
    return "\n\n".join(
        [
            "# Errors and exit codes",
            "## Exit codes",
            _table(("error", "exit code", "what to do"), rows),
            "Exit code 1 is a defect of this package, with its traceback.",
            "## Codes of rows",
            "In the column `error`; each is explained in [reliability](../reliability.md#rows-without-an-answer).",
            f"{notes['FAULT_CODES']} {_listed(schemas.FAULT_CODES)}.",
            f"{notes['FAILURE_CODES']} {_listed(schemas.FAILURE_CODES)}.",
            "## Warnings of rows",
            _table(("code", "meaning"), warnings),
        ]
    )


def _listed(codes: Iterable[str]) -> str:
    return ", ".join(f"`{code}`" for code in codes)


def _fields(kind: Any) -> str:
    """The fields of a dataclass with the texts that stand below them in its source."""
    notes = {name: text for base in reversed(kind.__mro__[:-1]) for name, text in _class_notes(base).items()}
    rows = [
        (f"`{field.name}`", f"`{field.type}`", _default(field), notes.get(field.name, ""))
        for field in dataclasses.fields(kind)
    ]
    return _table(("field", "type", "default", "meaning"), rows)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return f"`{field.default_factory()}`"
    return "required" if field.default is dataclasses.MISSING else f"`{field.default!r}`"


def _class_notes(kind: type) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    return _texts_below(definition.body) if isinstance(definition, ast.ClassDef) else {}


def _notes(module: ModuleType) -> dict[str, str]:
    return _texts_below(ast.parse(inspect.getsource(module)).body)


def _texts_below(statements: list[ast.stmt]) -> dict[str, str]:
    """Names of assignments with the text that follows each."""
    found = {}
    for statement, following in itertools.pairwise(statements):
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        match (target, following):
            case ast.Name(id=name), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
