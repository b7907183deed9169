"""From rows to messages: templates, ready messages, OpenAI lines, and every way in which a row can be bad."""

import json
from typing import Any

import pytest

from kfp_llm_batch.dataset.config import DatasetConfig
from kfp_llm_batch.dataset.messages import Prompt, RowFaultError
from kfp_llm_batch.dataset.rendering import make_renderer
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.schemas import FAULT_CODES

USER = {"role": "user", "content": "hi"}


def render(row: dict[str, Any], *, is_openai: bool = False, **config: Any) -> Prompt:
    return make_renderer(DatasetConfig(uri="x", **config), list(row), is_openai=is_openai)(row)


def openai(body: object, url: str | None = "/v1/chat/completions") -> Prompt:
    return render({"custom_id": "a", "url": url, "body": json.dumps(body)}, is_openai=True)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Q: {{ q }}\n", "Q: <b>&\n"),
        ("{{ row['two words'] }}", "2"),
        ("{% for i in range(n) %}{{ i }},{% endfor %}", "0,1,2,"),
        ("{{ nothing or 'none' }}", "none"),
        ("{% if nothing %}x{% else %}y{% endif %}", "y"),
        ("{{ meta.a }}{{ tags | join('+') }}", "1x+y"),
        ("{% set z = n * 2 %}{{ z }}", "6"),
        ("{{ 2 ** 3 * 4 % 5 }} {{ 'x' * 3 }} {{ '%3d|%%' % n }} {{ '%d-%s' | format(n, q) }}", "2 xxx   3|% 3-<b>&"),
        ("{{ '{:05d} 12345'.format(n) }}{{ '{:*>3}'.format(n) }}{{ '3' | center(5) }}|", "00003 12345**3  3  |"),
        ("{{ tags }} {{ (1, 2.5) }} {{ true }} {{ meta.items() | list }}", "['x', 'y'] (1, 2.5) True [('a', 1)]"),
        ("{{ q | tojson }}", '"\\u003cb\\u003e\\u0026"'),
    ],
)
def test_template_sees_the_columns(template, text):
    row = {"q": "<b>&", "two words": 2, "n": 3, "nothing": None, "meta": {"a": 1}, "tags": ["x", "y"]}
    assert render(row, prompt_template=template).messages == [{"role": "user", "content": text}]


def test_system_is_literal_and_examples_come_before_the_row():
    prompt = render(
        {"q": "3"},
        prompt_template="{{ q }}",
        prompt_system="Not a {{ template }}",
        prompt_examples=[{"user": "1", "assistant": "one"}, {"assistant": "two", "user": "2"}],
    )
    assert [(message["role"], message["content"]) for message in prompt.messages] == [
        ("system", "Not a {{ template }}"),
        ("user", "1"),
        ("assistant", "one"),
        ("user", "2"),
        ("assistant", "two"),
        ("user", "3"),
    ]


@pytest.mark.parametrize("value", [[USER], json.dumps([USER]), [{"role": "user", "content": "hi", "name": None}]])
def test_messages_column_holds_lists_or_their_json(value):
    assert render({"m": value}, prompt_messages_column="m").messages == [USER]


def test_own_system_message_wins_and_examples_follow_it():
    own = {"role": "system", "content": "own"}
    pair = [{"user": "a", "assistant": "b"}]
    prompt = render({"m": [own, USER]}, prompt_messages_column="m", prompt_system="general", prompt_examples=pair)
    assert [message["content"] for message in prompt.messages] == ["own", "a", "b", "hi"]
    prompt = render({"m": [USER]}, prompt_messages_column="m", prompt_system="general", prompt_examples=pair)
    assert [message["content"] for message in prompt.messages] == ["general", "a", "b", "hi"]


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "image_url": None}]
    assert (
        render({"m": [{"role": "user", "content": parts}]}, prompt_messages_column="m").messages[0]["content"] == "a\nb"
    )


@pytest.mark.parametrize(
    ("value", "params"),
    [({"seed": 1, "stop": None}, {"seed": 1}), ('{"seed": 1}', {"seed": 1}), (None, None), ("", None), ({}, None)],
)
def test_params_column(value, params):
    assert render({"q": "a", "params": value}, prompt_template="{{ q }}").params == params


def test_openai_body_becomes_our_parameters():
    body = {
        "model": "gpt",
        "messages": [USER],
        "max_completion_tokens": 5,
        "temperature": 0.5,
        "stop": "x",
        "logprobs": True,
        "top_logprobs": 3,
        "top_p": None,
        "user": "me",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
    }
    prompt = openai(body)
    assert prompt.messages == [USER]
    assert prompt.params == {
        "max_tokens": 5,
        "temperature": 0.5,
        "stop": ["x"],
        "logprobs": 3,
        "json_schema": {"type": "object"},
    }
    assert openai({"messages": [USER], "response_format": {"type": "text"}}, url=None).params is None


def test_empty_tools_and_logit_bias_ask_for_nothing():
    assert openai({"messages": [USER], "tools": [], "logit_bias": {}}).params is None


IMAGE = {"type": "image_url", "image_url": {"url": "http://x"}}

BAD_MESSAGES = {
    "null": (None, "bad_messages: messages must be a list, not null"),
    "object": (USER, "bad_messages: messages must be a list, not dict"),
    "broken JSON": ("[{", "bad_messages: the text is not the JSON of a list of messages"),
    "text inside": (["hi"], "bad_messages: message 1 must be an object, not str"),
    "role": ([USER, {"role": "bot", "content": "x"}], "bad_messages: message 2 has the role 'bot'; allowed: system,"),
    "no content": ([{"role": "user"}], "bad_messages: message 1: the content must be a text, not null"),
    "number": ([{"role": "user", "content": 1}], "bad_messages: message 1: the content must be a text, not int"),
    "image": ([{"role": "user", "content": [IMAGE]}], "bad_messages: message 1 has a content part of type 'image_url'"),
    "tools": ([{"role": "assistant", "content": "", "tool_calls": [1]}], "bad_messages: message 1 holds tool calls"),
    "no messages": ([], "empty_prompt: there are no messages"),
    "blank": ([{"role": "user", "content": " \n"}], "empty_prompt: the prompt is empty"),
    "surrogate": ('[{"role": "user", "content": "\\ud800"}]', "bad_text: message 1 holds a NUL or half of a surrogate"),
    "NUL": ([USER, {"role": "user", "content": "a\0"}], "bad_text: message 2 holds a NUL"),
}


@pytest.mark.parametrize(("value", "message"), BAD_MESSAGES.values(), ids=BAD_MESSAGES)
def test_bad_messages_are_faults_of_the_row(value, message):
    with pytest.raises(RowFaultError) as caught:
        render({"m": value}, prompt_messages_column="m")
    assert str(caught.value).startswith(message)
    assert str(caught.value).partition(":")[0] in FAULT_CODES


BAD_ROWS = {
    "blank": ("{{ q }}", {"q": "  "}, "empty_prompt: "),
    "null": ("a {{ q }}", {"q": None}, "template_error: ValueError: a null value would be printed"),
    "expression": ("{{ 1 / q }}", {"q": 0}, "template_error: ZeroDivisionError: division by zero"),
    "no attribute": ("{{ q.a }}", {"q": {}}, "template_error: UndefinedError: 'dict object' has no attribute 'a'"),
    "no such key": ("{{ row['x y'] }}", {"q": 1}, "template_error: UndefinedError: "),
    "unsafe": ("{{ q.__class__.__mro__ }}", {"q": "a"}, "template_error: SecurityError: access to attribute"),
    "changes data": ("{{ q.append(1) }}", {"q": []}, "template_error: SecurityError: "),
    "method": ("{{ q.title }}", {"q": "a"}, "template_error: TypeError: a builtin_function_or_method would be printed"),
    "method of the row": ("{{ row.keys }}", {"q": "a"}, "template_error: TypeError: a builtin_function_or_method "),
    "generator": ("{{ q | map('upper') }}", {"q": "a"}, "template_error: TypeError: a generator would be printed"),
    "class": ("{{ cycler }}", {"q": "a"}, "template_error: TypeError: a type would be printed"),
    "endless macro": ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", {"q": "a"}, "template_error: RecursionError"),
    "long text": ("{{ 'x' * 10 ** 10 }}", {"q": "a"}, "template_error: OverflowError: a product is longer"),
    "long list": ("{{ 10 ** 10 * q }}", {"q": ["a"]}, "template_error: OverflowError: a product is longer"),
    "long power": ("{{ 10 ** (10 ** 8) }}", {"q": "a"}, "template_error: OverflowError: a number has more than"),
    "unprinted power": (
        "{% set x = 10 ** (10 ** 8) %}x",
        {"q": "a"},
        "template_error: OverflowError: a number has more",
    ),
    "wide operator": ("{{ '%9999999999d' % q }}", {"q": 1}, "template_error: OverflowError: a format asks"),
    "wide by value": ("{{ '%*d' % (9999999999, q) }}", {"q": 1}, "template_error: OverflowError: a format asks"),
    "wide filter": ("{{ '%9999999999d' | format(q) }}", {"q": 1}, "template_error: OverflowError: a format asks"),
    "wide format": ("{{ '{:9999999999}'.format(q) }}", {"q": 1}, "template_error: OverflowError: a format asks"),
    "wide nested format": (
        "{{ '{:{}}'.format(q, 10 ** 10) }}",
        {"q": 1},
        "template_error: OverflowError: a format asks",
    ),
    "wide method": ("{{ q.center(9999999999) }}", {"q": "a"}, "template_error: OverflowError: a width is beyond"),
    "wide center": ("{{ q | center(9999999999) }}", {"q": "a"}, "template_error: OverflowError: a width is beyond"),
    "long prompt": (
        "{% for i in range(90000) %}{{ 'x' * 100000 }}{% endfor %}",
        {"q": "a"},
        "template_error: OverflowError: the prompt is longer than 16777216 characters",
    ),
    "params no JSON": ("{{ q }}", {"q": "a", "params": "{"}, "bad_params: params is not JSON: "),
    "params list": ("{{ q }}", {"q": "a", "params": "[1]"}, "bad_params: params must be a JSON object, not list"),
    "params text": ("{{ q }}", {"q": "a", "params": '{"stop": ["\\ud800"]}'}, "bad_params: the parameters hold half"),
}


@pytest.mark.parametrize(("template", "row", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_template_errors_are_faults_of_the_row(template, row, message):
    with pytest.raises(RowFaultError) as caught:
        render(row, prompt_template=template)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


BAD_BODIES = {
    "tools": ({"tools": [{}]}, "bad_params: body.tools is not supported; allowed: frequency_penalty"),
    "JSON mode": ({"response_format": {"type": "json_object"}}, 'bad_params: body.response_format {"type": "json_obj'),
    "logit bias": ({"logit_bias": {"5": 1}}, "bad_params: body.logit_bias is not supported"),
    "logprobs": ({"top_logprobs": 2}, "bad_params: body.logprobs must be true"),
    "no messages": ({"messages": None}, "bad_messages: messages must be a list, not null"),
}


@pytest.mark.parametrize(("change", "message"), BAD_BODIES.values(), ids=BAD_BODIES)
def test_bad_openai_bodies_are_faults_of_the_row(change, message):
    with pytest.raises(RowFaultError) as caught:
        openai({"messages": [USER]} | change)
    assert str(caught.value).startswith(message)


def test_other_endpoints_and_bodies_are_faults_of_the_row():
    with pytest.raises(RowFaultError, match=r"bad_params: endpoint '/v1/embeddings' is not supported"):
        openai({"input": "a"}, url="/v1/embeddings")
    with pytest.raises(RowFaultError, match="bad_messages: body must be an object, not NoneType"):
        openai(None)


BAD_CONFIGS = {
    "near miss": (
        {"prompt_template": "{{ qestion }}"},
        r"not columns.*'qestion'.*question, id.*mean 'question'",
    ),
    "several": ({"prompt_template": "{{ b }}{{ a }}{{ id }}"}, r"not columns of the dataset: a, b\. "),
    "syntax": ({"prompt_template": "a\n{{ question "}, r"does not compile \(line 2\): unexpected end of template"),
    "filter": ({"prompt_template": "{{ question | shout }}"}, r"does not compile.*No filter named 'shout'"),
    "random": ({"prompt_template": "{{ question | random }}"}, r"No filter named 'random'"),
    "nested": ({"prompt_template": "{{ " + "(" * 5000 + "question" + ")" * 5000 + " }}"}, r"too deeply nested to comp"),
    "long number": ({"prompt_template": "{{ " + "9" * 5000 + " }}"}, r"too large or too deeply nested to compile"),
    "messages": ({"prompt_messages_column": "mesages"}, r"prompt_messages_column is not a column.*'mesages'"),
    "nothing": ({}, r"Nothing says how a row becomes a prompt.*column question.*Give prompt_template"),
}


@pytest.mark.parametrize(("config", "message"), BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_what_fits_no_row_is_refused_before_any_row(config, message):
    with pytest.raises(ConfigurationError, match=message):
        make_renderer(DatasetConfig(uri="x", **config), ["question", "id"], is_openai=False)
