import dataclasses
import html
import itertools

import pytest
from markdown_it import MarkdownIt

from kfp_llm_batch.generation.report import SAMPLE_CHARACTERS, escape, markdown_report, metrics
from kfp_llm_batch.manifests import ResultManifest
from kfp_llm_batch.results.publishing import fetch_result, publish_result

MARKDOWN = MarkdownIt("commonmark").enable("table").enable("strikethrough")

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "image": '<img src=x onerror="alert(1)">',
    "comment": "<!-- hidden",
    "link": "[click](javascript:alert(1))",
    "picture": "![x](https://evil.example/x.png)",
    "reference": "[click][1] [1]: https://evil.example",
    "autolink": "<https://evil.example>",
    "bare-address": "see https://evil.example/path",
    "pipes": "a | b || c \\| d |",
    "backticks": "`code` ``more`` ```fence",
    "emphasis": "*one* **two** _three_ __four__ ~~five~~",
    "entities": "&lt;b&gt; &amp; &#60;b&#62;",
    "backslash": "\\*not\\* \\",
    "heading": "# heading",
    "quote": "> quote",
    "rule": "---",
    "template": "{{ 1 }} ${x} <%= x %>",
    "other-scripts": "Grüße, 你好, \u202eabc",
}


def manifest_of(folder) -> ResultManifest:
    return ResultManifest.from_json((folder / "manifest.json").read_text(), "manifest")


def cells(report: str) -> list[list[str]]:
    """Rendered cells of every table's body."""
    tokens = MARKDOWN.parse(report)
    rows: list[list[str]] = []
    for token, following in itertools.pairwise(tokens):
        if token.type == "tr_open":
            rows.append([])
        if token.type == "td_open":
            rows[-1].append(MARKDOWN.renderer.render([following], MARKDOWN.options, {}))
    return [row for row in rows if row]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_escaped_text_is_shown_as_it_is_and_never_acts(text):
    assert MARKDOWN.renderInline(escape(text)) == html.escape(text)
    assert "://" not in escape(text)  # viewers other than CommonMark's make a link of any address


def test_line_ends_cannot_leave_the_table():
    assert escape("one\n\n# two\r\n| three\u2028four") == "one &#35; two &#124; three four"


def test_long_text_is_shortened_before_it_is_escaped():
    assert escape("|" * 10_000) == "&#124;" * SAMPLE_CHARACTERS + " ..."


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_model_cannot_change_the_report(make_result, text):
    folder = make_result(rows=8, answer=text)
    report = markdown_report(manifest_of(folder), folder)
    shown = {row[0]: row for row in cells(report)}
    assert shown["row-0"] == ["row-0", "ok", html.escape(f"{text} 0 \u00fc")]
    assert shown["row-6"] == ["row-6", "engine", "it ended"]
    assert MARKDOWN.render(report).count("<h1>") == 1


def test_the_report_of_an_empty_result(make_result):
    folder = make_result(rows=0)
    report = markdown_report(manifest_of(folder), folder)
    assert "<h1>Completions by echo://</h1>" in MARKDOWN.render(report)
    assert "without an answer" not in report


def test_metrics_are_finite_numbers(make_result):
    made = dataclasses.replace(
        manifest_of(make_result(rows=8)), timings_seconds={"generate": 2.0, "load": float("nan"), "wait": float("inf")}
    )
    values = metrics(made)
    assert values["rows"] == 8
    assert (values["rows_ok"], values["rows_failed"], values["rows_invalid"]) == (7, 1, 0)
    assert values["completion_tokens_per_second"] == 21 / 2
    assert values["generate_seconds"] == 2
    assert not {"load_seconds", "wait_seconds"} & values.keys()
    assert all(type(value) is float for value in values.values())


def test_a_reused_result_without_timings_has_no_speed(make_result):
    assert metrics(manifest_of(make_result(rows=1)))["completion_tokens_per_second"] == 0


@pytest.mark.parametrize("output_format", ["jsonl", "openai"])
def test_a_reused_result_in_another_format_is_reported_without_answers(make_result, tmp_path, output_format):
    publish_result(make_result(rows=8), str(tmp_path / "output"), output_format=output_format)
    manifest = fetch_result(str(tmp_path / "output"), tmp_path / "fetched")
    report = markdown_report(manifest, tmp_path / "fetched")
    assert "| rows | 8 |" in report
    assert "First" not in report
