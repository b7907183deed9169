"""Facts of all rows together."""

import pytest

from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.generation.chat_tokenizer import EchoTokenizer
from kfp_llm_batch.generation.preparation import PreparedRow, RowPreparer
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.generation.survey import Survey

OVERHEAD = len("user") + 3
"""Tokens that the echo tokenizer puts around one user message."""


def prepare(folder) -> list[PreparedRow]:
    preparer = RowPreparer(
        tokenizer=EchoTokenizer(),
        sampling=SamplingConfig(max_tokens=16),
        model_digest="m",
        answer_settings={"dtype": "bfloat16"},
        max_model_len=100,
    )
    return [row for batch in preparer.prepare(Prompts(folder).batches()) for row in batch]


def test_the_facts_of_a_job(make_prompts):
    folder = make_prompts(
        [
            {"question": "q" * 10},
            {"question": "q" * 50, "params": {"n": 3, "temperature": 1.0}},
            {"question": "q" * 200},
            {"question": "q" * 80, "params": {"max_tokens": 1000}},
        ]
    )
    survey = Survey()
    for row in prepare(folder):
        survey.add(row)
    assert (survey.rows, survey.requests, survey.faults) == (4, 5, 1)
    job = survey.job()
    assert job.longest_prompt_tokens == 80 + OVERHEAD
    assert job.max_tokens == 16
    assert job.mean_prompt_tokens == pytest.approx((10 + 3 * 50 + 80) / 5 + OVERHEAD)


def test_the_keys_checksum_covers_faulty_rows_too(make_prompts):
    def checksum(name: str, rows: list[dict[str, str]]) -> str:
        survey = Survey()
        for row in prepare(make_prompts(rows, name)):
            survey.add(row)
        return survey.keys.hexdigest()

    one = checksum("one", [{"question": "a"}])
    assert one == checksum("again", [{"question": "a"}])
    assert one != checksum("two", [{"question": "a"}, {"question": " "}])
