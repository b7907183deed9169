import datetime as dt

import pytest

from kfp_llm_batch.client import Recurrence, parse_cron
from kfp_llm_batch.errors import ConfigurationError
from tests.kubeflow.robfig_cron import next_times, parse_robfig

BEFORE_SPRING = dt.datetime(2026, 3, 27, 12, tzinfo=dt.UTC)
BEFORE_AUTUMN = dt.datetime(2026, 10, 23, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("0 3 * * *", "0 0 3 * * *"),
        ("0 0 3 * * *", "0 0 3 * * *"),
        ("0 3 * * 1-5", "0 0 3 * * 1-5"),
        ("*/15 * * * ?", "0 */15 * * * *"),
        ("0 3 * * mon-fri", "0 0 3 * * MON-FRI"),
        ("0 3 * * 7", "0 0 3 * * 0"),
        ("0 3 * * 5-7", "0 0 3 * * 0,5,6"),
        ("0 3 1 jan *", "0 0 3 1 JAN *"),
    ],
)
def test_five_fields_get_their_second_and_six_stay(text, sent):
    assert parse_cron(text).sent == sent


@pytest.mark.parametrize("start", [BEFORE_SPRING, BEFORE_AUTUMN], ids=["spring", "autumn"])
@pytest.mark.parametrize(
    "text",
    ["0 3 * * 1-5", "30 2 * * *", "*/20 1-3 * * *", "0 3 1,15 * 1", "0 3 * * 7", "0 3 */2 * 1", "0 4 ? * 1/3"],
)
def test_the_times_are_those_of_the_servers_own_rules(text, start):
    schedule = parse_cron(text, "Europe/Berlin")
    assert schedule.next_times(after=start) == next_times(schedule.sent, "Europe/Berlin", start, 5)


def test_seconds_are_understood():
    schedule = parse_cron("*/20 59 23 * * *")
    assert schedule.next_times(after=BEFORE_SPRING) == next_times(schedule.sent, "UTC", BEFORE_SPRING, 5)


def test_three_in_berlin_stays_three_when_the_clock_changes():
    times = parse_cron("0 3 * * 1-5", "Europe/Berlin").next_times(after=BEFORE_SPRING)
    assert [moment.isoformat() for moment in times] == [
        "2026-03-30T03:00:00+02:00",
        "2026-03-31T03:00:00+02:00",
        "2026-04-01T03:00:00+02:00",
        "2026-04-02T03:00:00+02:00",
        "2026-04-03T03:00:00+02:00",
    ]


def test_what_the_server_would_make_of_five_fields():
    # The trap that the translation is for: three minutes past every hour.
    first, second, *_ = next_times("0 3 * * *", "UTC", BEFORE_SPRING, 2)
    assert second - first == dt.timedelta(hours=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 3 * *", "five or six fields"),
        ("@daily", "five or six fields"),
        ("0 25 * * *", "Bad hour"),
        ("0 3 L * *", "no L, W and #"),
        ("0 3 * * 1#2", "no L, W and #"),
        ("0 3 30 2 *", "Bad day-of-month"),
        ("0 3 *,2 * 1", "mixes"),
    ],
)
def test_what_the_server_cannot_keep_is_refused(text, message):
    with pytest.raises(ConfigurationError, match=message):
        parse_cron(text)


def test_a_zone_that_does_not_exist_is_named_with_near_ones():
    with pytest.raises(ConfigurationError, match="Allowed: UTC, Europe/Berlin"):
        parse_cron("0 3 * * *", "Berlin")


@pytest.mark.parametrize("text", ["0 3 * * 1-5", "0 3 * * 7", "*/7 */5 */3 */2 */5", "0 4 ? * 1/3"])
def test_the_server_takes_what_is_sent(text):
    parse_robfig(parse_cron(text).sent)


def test_a_schedule_runs_one_to_ten_at_a_time():
    with pytest.raises(ConfigurationError, match="from 1 to 10"):
        Recurrence(cron="0 3 * * *", max_concurrency=11)
