"""From a dataset's row to chat messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jinja2
import jinja2.meta

from kfp_llm_batch.dataset.config import DatasetConfig, is_clean_text
from kfp_llm_batch.dataset.messages import Prompt, RowFaultError, check_text, checked_messages, with_preamble
from kfp_llm_batch.dataset.openai_lines import openai_prompt
from kfp_llm_batch.dataset.template_sandbox import MAX_PROMPT_CHARACTERS, TemplateEnvironment
from kfp_llm_batch.errors import ConfigurationError

Row = Mapping[str, Any]
Renderer = Callable[[Row], Prompt]

PARAMS_COLUMN = "params"


def make_renderer(config: DatasetConfig, columns: Collection[str], *, is_openai: bool) -> Renderer:
    """Choose how rows become prompts, and check it against the columns before any row is seen.

    Args:
        config: Template or messages column, system text and examples.
        columns: The dataset's columns; none if it is empty, and then nothing can be checked.
        is_openai: The rows are OpenAI batch lines.

    Returns:
        A function that raises RowFaultError for a row that cannot become a prompt.

    Raises:
        ConfigurationError: The template does not compile, or names what is not there.
    """
    own = openai_prompt if is_openai else _own_prompt(config, columns)

    def render(row: Row) -> Prompt:
        prompt = own(row)
        check_text(prompt.messages)
        if prompt.params and not is_clean_text(json.dumps(prompt.params, ensure_ascii=False)):
            raise RowFaultError("bad_params", "the parameters hold half of a surrogate pair")
        return Prompt(
            messages=with_preamble(prompt.messages, config.prompt_system, config.prompt_examples or ()),
            params=prompt.params,
        )

    return render


def compile_template(source: str, columns: Collection[str]) -> jinja2.Template:
    """Compile a prompt template in a sandbox; every name in it must be a column, or `row`.

    Raises:
        ConfigurationError: It does not compile, or uses other names.
    """
    environment = TemplateEnvironment()
    try:
        template = environment.from_string(source)
        names = jinja2.meta.find_undeclared_variables(environment.parse(source))
    except jinja2.TemplateSyntaxError as error:
        raise ConfigurationError(
            f"prompt_template does not compile (line {error.lineno}): {error.message}",
            received=source[:200],
            remedy="It is a Jinja2 template, as in {{ question }}.",
        ) from error
    except (RecursionError, MemoryError, OverflowError, SyntaxError, ValueError) as error:
        raise ConfigurationError(
            f"prompt_template is too large or too deeply nested to compile ({type(error).__name__})",
            received=source[:200],
            remedy="Simplify it.",
        ) from error
    undefined = sorted(names - set(columns) - environment.globals.keys() - {"row"})
    if columns and undefined:
        raise ConfigurationError(
            f"prompt_template uses names that are not columns of the dataset: {', '.join(undefined)}",
            received=undefined[0],
            allowed=list(columns),
        )
    return template


def _own_prompt(config: DatasetConfig, columns: Collection[str]) -> Renderer:
    if config.prompt_template is not None:
        return _template_renderer(compile_template(config.prompt_template, columns))
    if config.prompt_messages_column is not None:
        check_column("prompt_messages_column", config.prompt_messages_column, columns)
        return _messages_renderer(config.prompt_messages_column)
    raise ConfigurationError(
        "Nothing says how a row becomes a prompt",
        allowed=[f"column {name}" for name in columns],
        remedy='Give prompt_template, as in "{{ question }}", or prompt_messages_column.',
    )


def check_column(parameter: str, name: str, columns: Collection[str]) -> None:
    """Refuse a parameter that names no column; an empty dataset has none to compare with."""
    if columns and name not in columns:
        raise ConfigurationError(f"{parameter} is not a column of the dataset", received=name, allowed=list(columns))


def _template_renderer(template: jinja2.Template) -> Renderer:
    names = dict(template.globals)

    def render(row: Row) -> Prompt:
        # A context of our own takes half the time of `template.render`, which copies its globals through a ChainMap.
        context = template.new_context({**names, "row": row, **row}, shared=True)
        try:
            text = _joined(template.root_render_func(context))
        except Exception as error:  # whatever an expression does with this row's values is the row's fault
            raise RowFaultError("template_error", f"{type(error).__name__}: {error}") from error
        return Prompt(messages=[{"role": "user", "content": text}], params=_row_params(row))

    return render


def _joined(pieces: Iterable[str]) -> str:
    kept: list[str] = []
    size = 0
    for piece in pieces:
        kept.append(piece)
        size += len(piece)
        if size > MAX_PROMPT_CHARACTERS:
            raise OverflowError(f"the prompt is longer than {MAX_PROMPT_CHARACTERS} characters")
    return "".join(kept)


def _messages_renderer(column: str) -> Renderer:
    def render(row: Row) -> Prompt:
        return Prompt(messages=checked_messages(row[column]), params=_row_params(row))

    return render


def _row_params(row: Row) -> dict[str, Any] | None:
    """The row's own sampling parameters, from a column of objects or of their JSON text."""
    value = row.get(PARAMS_COLUMN)
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RowFaultError("bad_params", f"params is not JSON: {error}") from error
    if value is None:
        return None
    if not isinstance(value, dict):
        raise RowFaultError("bad_params", f"params must be a JSON object, not {type(value).__name__}")
    # A struct column gives every row all names; those that the row does not set are null.
    return {name: entry for name, entry in value.items() if entry is not None} or None
