import json
import re
from typing import Any

import pytest

from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.generation.chat_tokenizer import EchoTokenizer
from kfp_llm_batch.generation.preparation import PreparedRow, RowPreparer
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.generation.special_tokens import Message

OVERHEAD = len("user") + 3
"""Tokens that the echo tokenizer puts around one user message."""


def preparer(**changes) -> RowPreparer:
    values: dict[str, Any] = {
        "tokenizer": EchoTokenizer(),
        "sampling": SamplingConfig(max_tokens=16),
        "model_digest": "m",
        "answer_settings": {"dtype": "bfloat16"},
        "max_model_len": 100,
    }
    return RowPreparer(**{**values, **changes})


def prepare(folder, **changes) -> list[PreparedRow]:
    return [row for batch in preparer(**changes).prepare(Prompts(folder).batches()) for row in batch]


def by_id(rows: list[PreparedRow]) -> dict[str, PreparedRow]:
    return {row.row_id: row for row in rows}


def test_good_rows_are_tokenized_and_keyed(make_prompts):
    first, second = prepare(make_prompts([{"question": "one"}, {"question": "three"}]))
    assert (first.row, first.row_id, first.fault) == (0, "0", None)
    assert len(first.token_ids) == OVERHEAD + 3
    assert first.room == 100 - len(first.token_ids)
    assert first.sampling == {"max_tokens": 16, "temperature": 0.0, "n": 1}
    assert first.request_key != second.request_key


def test_faults_of_the_first_step_keep_their_code_and_message(make_prompts):
    rows = [{"question": "good"}, {"question": "  "}, {"question": None}]
    good, empty, null = prepare(make_prompts(rows))
    assert good.fault is None
    assert empty.fault == ("empty_prompt", "the prompt is empty")
    assert null.fault
    assert null.fault[0] == "template_error"
    assert "null" in null.fault[1]


@pytest.mark.parametrize(
    ("letters", "is_too_long"),
    [(100 - OVERHEAD - 1, False), (100 - OVERHEAD, True), (500, True)],
    ids=["one-token-left", "no-token-left", "far-too-long"],
)
def test_a_prompt_must_leave_room_for_an_answer(make_prompts, letters, is_too_long):
    (row,) = prepare(make_prompts([{"question": "q" * letters}]))
    if is_too_long:
        tokens = letters + OVERHEAD
        message = f"The prompt has {tokens} tokens; the model takes 100 with the answer."
        assert row.fault == ("prompt_too_long", message)
    else:
        assert row.fault is None
        assert row.room == 1


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"max_token": 5}, r"Unknown sampling parameter. Received: 'max_token'.*Did you mean 'max_tokens'"),
        ({"max_tokens": 0}, "max_tokens is out of bounds"),
        ({"temperature": "hot"}, "temperature has the wrong type"),
        ({"n": 2}, "Several samples of a row are all the same at temperature 0"),
        ({"json_schema": {"type": "strange"}}, "JSON schema for answers is none"),
        ({"stop": [""]}, "stop has an element of no use"),
    ],
    ids=["name", "bound", "type", "samples", "schema", "stop"],
)
def test_a_row_with_bad_parameters_is_invalid_and_its_neighbours_are_not(make_prompts, params, message):
    folder = make_prompts([{"question": "a"}, {"question": "b", "params": json.dumps(params)}, {"question": "c"}])
    before, bad, after = prepare(folder)
    assert before.fault is after.fault is None
    assert bad.fault
    assert bad.fault[0] == "bad_params"
    assert re.search(message, bad.fault[1])


def test_a_rows_own_parameters_win_over_the_runs(make_prompts):
    folder = make_prompts(
        [
            {"question": "a", "params": {"max_tokens": 4}},
            {"question": "a", "params": {"temperature": 0.5, "seed": 9, "stop": ["x"]}},
            {"question": "a", "params": None},
        ]
    )
    sampling = SamplingConfig(max_tokens=16, temperature=1.0, seed=3, top_p=0.9)
    rows = [row.sampling for row in prepare(folder, sampling=sampling)]
    run = {"max_tokens": 16, "temperature": 1.0, "seed": 3, "top_p": 0.9, "n": 1}
    assert rows == [{**run, "max_tokens": 4}, {**run, "temperature": 0.5, "seed": 9, "stop": ["x"]}, run]


def test_a_key_does_not_depend_on_the_position(make_prompts):
    rows = [{"id": name, "question": f"question {name}"} for name in "abcdefgh"]
    forward = by_id(prepare(make_prompts(rows, "forward", id_column="id")))
    backward = by_id(prepare(make_prompts(rows[::-1], "backward", id_column="id")))
    assert {name: row.request_key for name, row in forward.items()} == {
        name: row.request_key for name, row in backward.items()
    }
    assert len({row.request_key for row in forward.values()}) == len(rows)


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling": SamplingConfig(max_tokens=17)},
        {"model_digest": "other"},
        {"answer_settings": {"dtype": "float32"}},
    ],
    ids=["sampling", "model", "engine"],
)
def test_a_key_depends_on_all_that_changes_the_answer(make_prompts, changes):
    folder = make_prompts([{"question": "q"}])
    assert prepare(folder)[0].request_key != prepare(folder, **changes)[0].request_key


def test_a_key_does_not_depend_on_what_changes_no_answer(make_prompts):
    folder = make_prompts([{"question": "q"}])
    other = prepare(folder, sampling=SamplingConfig(max_tokens=16, seed=5, top_p=0.5), max_model_len=200)
    assert prepare(folder)[0].request_key == other[0].request_key


class StrictTokenizer(EchoTokenizer):
    """Refuses conversations that do not start with the user, as some chat templates do."""

    def encode(self, conversations: list[list[Message]]) -> list[list[int]]:
        if any(conversation[0]["role"] != "user" for conversation in conversations):
            raise ValueError("Conversation roles must alternate user/assistant")
        return super().encode(conversations)


def test_a_conversation_that_the_template_refuses_leaves_its_neighbours(make_prompts):
    roles = ["user", "system", "user", "assistant", "user"]
    rows = [{"messages": [{"role": role, "content": f"{index}"}]} for index, role in enumerate(roles)]
    folder = make_prompts(rows, prompt_messages_column="messages")
    prepared = prepare(folder, tokenizer=StrictTokenizer())
    expected = prepare(folder)
    for role, row, without_refusal in zip(roles, prepared, expected, strict=True):
        if role == "user":
            assert row == without_refusal
        else:
            refusal = "The chat template refused the messages: Conversation roles must alternate user/assistant"
            assert row.fault == ("bad_messages", refusal)


def test_preparing_twice_gives_the_same(make_prompts):
    folder = make_prompts(
        [{"question": f"q{index % 7}", "params": {"max_tokens": 1 + index % 3}} for index in range(50)]
    )
    assert prepare(folder) == prepare(folder)
