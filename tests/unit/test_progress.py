import io
import logging
import re
import sys

import pytest

from kfp_llm_batch.generation import progress
from kfp_llm_batch.generation.progress import ProgressReport


@pytest.fixture(autouse=True)
def _not_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.delenv("KFP_LLM_BATCH_TERMINAL", raising=False)


def test_a_line_says_rows_speed_and_time_left():
    with ProgressReport(2_000) as report:
        assert report.line() == "0 of 2,000 rows (0%), 0 tokens/s, time left unknown"
        report.add(1_000, 100)
        assert re.fullmatch(r"1,000 of 2,000 rows \(50%\), [\d,]+ tokens/s, time left 0m00s", report.line())


def test_an_empty_job_divides_nothing_by_zero():
    with ProgressReport(0) as report:
        assert report.line() == "0 of 0 rows (0%), 0 tokens/s, time left unknown"


def test_a_log_gets_lines_while_it_runs_and_at_the_end(monkeypatch, caplog):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with caplog.at_level(logging.INFO), ProgressReport(2) as report:
        report.add(1, 5)
        report.add(1, 5)
    assert [message.split(",")[0] for message in caplog.messages] == [
        "1 of 2 rows (50%)",
        "2 of 2 rows (100%)",
        "2 of 2 rows (100%)",
    ]


def test_a_log_is_not_flooded(caplog):
    with caplog.at_level(logging.INFO), ProgressReport(1_000) as report:
        for _ in range(1_000):
            report.add(1, 1)
    assert len(caplog.messages) == 1


def test_a_failed_run_does_not_end_with_a_line_that_looks_finished(caplog):
    with caplog.at_level(logging.INFO), pytest.raises(RuntimeError), ProgressReport(2):
        raise RuntimeError
    assert caplog.messages == []


@pytest.mark.parametrize("fails", [False, True], ids=["finished", "failed"])
def test_a_terminal_gets_a_bar_instead(tmp_path, monkeypatch, caplog, fails):
    terminal = tmp_path / "terminal"
    terminal.touch()
    monkeypatch.setenv("KFP_LLM_BATCH_TERMINAL", str(terminal))
    with caplog.at_level(logging.INFO):
        try:
            with ProgressReport(3) as report:
                report.add(3, 30)
                if fails:
                    raise RuntimeError
        except RuntimeError:
            assert fails
    shown = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", terminal.read_text())
    assert "3/3 rows" in shown
    assert "tokens/s" in shown
    assert caplog.messages == []
