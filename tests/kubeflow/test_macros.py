import pytest

from kfp_llm_batch.client import Recurrence, run_request, schedule_request
from kfp_llm_batch.errors import ConfigurationError

NIGHTLY = Recurrence(cron="0 3 * * *")


def parameters(**others):
    return {"dataset_uri": "d.jsonl", "output_uri": "out", **others}


@pytest.mark.parametrize(
    "text", ["s3://r/[[ScheduledTime]]", "s3://r/[[ScheduledTime.2006-01-02]]", "r/[[Index]]-[[RunUUID]]"]
)
def test_a_text_of_a_schedule_may_hold_macros(text):
    request = schedule_request("batch_inference", parameters(output_uri=text), NIGHTLY)
    assert request.parameters["output_uri"] == text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"output_uri": "r/[[ScheduleTime]]"}, "Did you mean 'ScheduledTime'"),
        ({"output_uri": "r/[[scheduledtime]]"}, "Did you mean 'ScheduledTime'"),
        ({"output_uri": "r/[[ScheduledTime.%Y-%m-%d]]"}, "taken literally"),
        ({"output_uri": "r/[[ScheduledTime.YYYY]]"}, "taken literally"),
        ({"output_uri": "r/[[Index.3]]"}, "taken literally"),
        ({"generation_stop": ["[[Index]]"]}, "only in texts"),
        ({"engine_options": {"name": "[[RunUUID]]"}}, "only in texts"),
    ],
)
def test_macros_that_would_stay_as_they_are_are_refused(given, message):
    with pytest.raises(ConfigurationError, match=message):
        schedule_request("batch_inference", parameters(**given), NIGHTLY)


def test_nothing_replaces_macros_in_a_single_run():
    with pytest.raises(ConfigurationError, match="only a schedule replaces"):
        run_request("batch_inference", parameters(output_uri="r/[[ScheduledTime]]"))


def test_other_words_in_double_brackets_are_the_users_own():
    given = parameters(prompt_template="Explain [[wiki]] and [[links]]: {{ question }}")
    assert run_request("batch_inference", given).parameters == given
    assert schedule_request("batch_inference", given, NIGHTLY).parameters == given
