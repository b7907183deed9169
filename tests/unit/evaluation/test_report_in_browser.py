"""The report in a real browser: it works by clicks, asks for nothing, and runs nothing that a model wrote."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kfp_llm_batch.evaluation.report.page import html_report
from tests.unit.evaluation.browser import CHROMIUM, Browser
from tests.unit.evaluation.test_report import given

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

ROWS = "[...document.querySelectorAll('details.row')]"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    path = folder / "report.html"
    path.write_text(html_report(given(folder)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.fixture
def page(browser: Browser, report: Path) -> Browser:
    browser.resize(1100, 900)
    browser.open(report)
    return browser


def test_the_page_complains_of_nothing_and_asks_for_nothing(page, report):
    page.unfold("details.row")
    page.type("#search", "what is")
    assert page.complaints() == []
    assert page.requests() == [report.as_uri()]


def test_what_the_model_wrote_stays_text(page):
    page.unfold("details.row")
    texts = page.evaluate("[...document.querySelectorAll('pre')].map((node) => node.textContent).join(' ')")
    assert "<script>alert(1)</script><img src=x onerror=alert(2)>" in texts
    assert page.evaluate("document.querySelectorAll('#list script, #list img, table i').length") == 0


def test_rows_that_turned_worse_come_first_and_are_compared(page):
    assert page.evaluate(f"{ROWS}.map((row) => row.querySelector('strong').textContent)")[:3] == ["q0", "q1", "q2"]
    page.unfold("details.row")
    titles = page.evaluate("[...document.querySelectorAll('details[open] h3')].map((node) => node.textContent)")
    assert titles[:3] == ["Baseline, numeric_match 1", "This run, numeric_match 0", "Target"]
    marked = page.evaluate("[...document.querySelectorAll('details[open] mark')].map((node) => node.textContent)")
    assert "0" in marked
    assert "wrong" in marked


def test_filters_search_and_pages(page):
    def count():
        return page.evaluate("document.getElementById('count').textContent")

    assert count() == "120 rows"
    assert page.evaluate("document.getElementById('place').textContent") == "page 1 of 5"
    page.click("#next")
    assert page.evaluate("document.getElementById('place').textContent") == "page 2 of 5"
    page.choose("#filter", "worse")
    assert count() == "31 rows"
    assert page.evaluate("document.getElementById('place').textContent") == "page 1 of 2"
    page.choose("#filter", "missing")
    assert page.evaluate(f"{ROWS}.map((row) => row.querySelector('strong').textContent)") == ["q119"]
    page.choose("#filter", "all")
    page.type("#search", "WHAT IS 77?")
    assert page.evaluate(f"{ROWS}.map((row) => row.querySelector('strong').textContent)") == ["q77"]


def test_both_themes(page, report):
    colour = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(colour) == "rgb(255, 255, 255)"
    page.click("#theme")
    assert page.evaluate(colour) == "rgb(20, 23, 28)"
    page.resize(1100, 900, is_dark=True)
    page.open(report)
    assert page.evaluate(colour) == "rgb(20, 23, 28)"
    page.click("#theme")
    assert page.evaluate(colour) == "rgb(255, 255, 255)"


def test_a_phone_shows_all_without_scrolling_sideways(page, report):
    page.resize(390, 800)
    page.open(report)
    page.unfold("details.row")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
