"""The report's page and its short form, without a browser: what stands in them, and that nothing can act."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from kfp_llm_batch.evaluation.comparison import compare_runs
from kfp_llm_batch.evaluation.drift import drift
from kfp_llm_batch.evaluation.gate import GateConfig
from kfp_llm_batch.evaluation.report.charts import Mark, forest, histogram, history, shown
from kfp_llm_batch.evaluation.report.content import ReportInput
from kfp_llm_batch.evaluation.report.markdown import markdown_report
from kfp_llm_batch.evaluation.report.page import html_report
from kfp_llm_batch.evaluation.report.row_choice import MOST_ROWS
from tests.unit.evaluation.evaluated_runs import evaluated

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028"
SOURCES = [
    {"id": f"q{index}", "question": f"What is {index}? {ATTACK}", "answer": str(index), "kind": f"<i>{index % 2}</i>"}
    for index in range(120)
]
RIGHT = [source["answer"] for source in SOURCES]
SCORERS = ["numeric_match", "truncation", "length"]


def given(tmp_path, lost=30, gained=5, **options):
    """A run against a baseline: some rows turned worse, some better, one failed."""
    answers = [f"wrong {ATTACK} 999..." if index < lost else right for index, right in enumerate(RIGHT)]
    before = [f"wrong {ATTACK} 999" if lost <= index < lost + gained else right for index, right in enumerate(RIGHT)]
    options = {"scorers": SCORERS, "slice_columns": ["kind"], **options}
    run = evaluated(tmp_path / "run", SOURCES, [*answers[:-1], None], **options)
    baseline = evaluated(tmp_path / "baseline", SOURCES, before, **options)
    return ReportInput(
        run=run,
        comparison=compare_runs(run, baseline, GateConfig()),
        baseline=baseline,
        baseline_uri="s3://results/first/evaluation",
        earlier=[baseline.manifest],
        drift=drift(run, baseline),
    )


class Page(HTMLParser):
    """What a browser would make of the page: elements, attributes and texts."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.scripts, self._script = [], [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "script":
            self.scripts.append([dict(attrs), ""])

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "script" and self.scripts:
            self.scripts[-1][1] += data


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return given(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(report):
    return html_report(report)


def rows_of(page):
    (data,) = [text for attributes, text in Page(page).scripts if attributes.get("id") == "rows"]
    return json.loads(data)


def test_nothing_that_the_model_or_the_dataset_wrote_is_markup(page):
    parsed = Page(page)
    assert len(parsed.scripts) == 2
    assert not {"img", "i", "iframe", "link", "object"} & set(parsed.tags)
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    assert "alert(1)" in json.dumps(rows_of(page))
    assert "<script>alert" not in page
    assert "\u2028" not in page


def test_the_page_asks_the_network_for_nothing(page):
    parsed = Page(page)
    assert not [value for name, value in parsed.attributes if name in ("src", "href", "action", "srcset", "style")]
    found = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert found
    policy = found[1]
    assert policy.startswith("default-src &#39;none&#39;") or policy.startswith("default-src 'none'")
    assert policy.count("sha256-") == 2
    assert "unsafe" not in policy
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_rows_that_turned_worse_come_first(page):
    data = rows_of(page)
    rows = data["rows"]
    assert [row["turned"] for row in rows[:31]] == ["worse"] * 31
    assert [row["turned"] for row in rows[31:36]] == ["better"] * 5
    assert (data["total"], data["compared"], data["metric"]) == (120, True, "numeric_match")
    first = rows[0]
    assert (first["id"], first["before"], first["score"], first["score_before"]) == ("q0", "0", 0.0, 1.0)
    assert first["answer"].startswith("wrong </script>")
    assert first["status"] == "truncated"
    assert first["source"]["question"].startswith("What is 0?")
    assert first["extracted"] == {"numeric_match": "999"}
    (failed,) = [row for row in rows if row["answer"] is None]
    assert (failed["id"], failed["status"]) == ("q119", "failed")


def test_rows_that_turn_truncated_turn_worse(tmp_path):
    cut = ["1 and..." if index < 3 else "1" for index in range(9)]
    run = evaluated(tmp_path / "a", SOURCES[:9], cut, scorers=["truncation"])
    baseline = evaluated(tmp_path / "b", SOURCES[:9], ["1"] * 8 + ["1 or..."], scorers=["truncation"])
    comparison = compare_runs(run, baseline, GateConfig())
    data = rows_of(html_report(ReportInput(run=run, comparison=comparison, baseline=baseline)))
    assert [(row["id"], row["turned"]) for row in data["rows"][:5]] == [
        *(("q0", "worse"), ("q1", "worse"), ("q2", "worse")),
        *(("q8", "better"), ("q3", "")),
    ]
    assert data["best"] == 0


def test_rows_are_shown_by_the_metric_that_failed(tmp_path):
    failed = given(tmp_path, lost=10)
    page = html_report(failed)
    assert "Right and wrong by truncation, which failed the gate." in page
    assert [row["turned"] for row in rows_of(page)["rows"][:10]] == ["worse"] * 10
    assert "Right and wrong by numeric_match. " in html_report(ReportInput(run=failed.run))


def test_the_headline_says_what_was_found(page):
    text = re.sub(r"<[^>]+>", " ", page)
    assert "The gate failed" in text
    assert "truncation lost" in text
    assert "s3://results/first/evaluation" in text
    assert "120 (1 failed, 119 ok)" in text
    assert "119 of 120" in text  # the failed row has no length
    for heading in ("Metrics", "Gate", "Change against the baseline", "Slices", "History", "Drift", "Rows"):
        assert heading in text
    assert page.count("<svg") >= 6


def test_a_run_without_a_baseline_has_a_report(report, tmp_path):
    alone = html_report(ReportInput(run=report.run))
    assert "There is no baseline yet" in alone
    assert "Drift" not in alone
    assert rows_of(alone)["compared"] is False
    assert "before" not in rows_of(alone)["rows"][0]
    empty = evaluated(tmp_path / "empty", SOURCES[:1], [None], missing="exclude")
    assert "0 of 1" in html_report(ReportInput(run=empty))


def test_only_so_many_rows_are_in_the_page(tmp_path):
    sources = [{"id": str(index), "question": "q", "answer": "1"} for index in range(MOST_ROWS + 50)]
    run = evaluated(tmp_path / "many", sources, ["2" if index % 2 else "1" for index in range(len(sources))])
    page = html_report(ReportInput(run=run))
    rows = rows_of(page)["rows"]
    assert len(rows) == MOST_ROWS
    assert [row["score"] for row in rows[:1025]] == [0.0] * 1025
    assert "2,000 of 2,050 rows are here" in page
    long = [{"id": str(index), "question": "q", "answer": "1"} for index in range(1_500)]
    assert len(html_report(ReportInput(run=evaluated(tmp_path / "long", long, ["x" * 9_000] * 1_500)))) < 6_000_000


def test_the_short_form(report):
    text = markdown_report(report)
    assert text.startswith("# The gate failed")
    assert "| numeric&#95;match | 74.2% |" in text
    assert "alert" not in text
    assert "<" not in text


def test_drift_by_the_size_of_the_change(report):
    found = {entry.name: entry for entry in report.drift}
    assert found["finish reason"].effect > found["prompt tokens"].effect == 0
    assert found["finish reason"].verdict in ("moderate", "large")
    assert found["prompt tokens"].verdict == "small"
    assert "median 5" in found["prompt tokens"].now
    assert "stop 100.0%" in found["finish reason"].before
    assert report.drift[0].effect == max(entry.effect for entry in report.drift)


def test_numbers_as_people_read_them():
    assert shown(0.1234, "share") == "12.3%"
    assert shown(-0.05, "share", is_change=True) == "-5.0"
    assert shown(1234.5, "count") == "1,234.5"
    assert shown(2.0, "points", is_change=True) == "+2.0"


def test_charts_stay_within_their_frame_and_escape_their_labels():
    bars = [
        Mark(label="<b>" + "long " * 20, value=0.5, low=0.4, high=0.6, rows=10),
        Mark(label="b", value=0.5, low=None, high=None, rows=1),
    ]
    points = [Mark(label="<b>", value=0.2 * index, low=None, high=None, rows=1) for index in range(4)]
    spread = {"a": np.array([1.0, 1.0]), "b": np.array([1.0])}
    charts = [forest(bars, "share"), histogram(spread, "count"), history(points, "share")]
    for chart in charts:
        assert "<b>" not in chart
        places = [float(place) for place in re.findall(r'(?:x|x1|x2|cx)="(-?[\d.]+)"', chart)]
        assert all(0 <= place <= 720 for place in places)
        assert "nan" not in chart
