import resource
import time
from typing import Any

import pytest

from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.generation.chat_tokenizer import ChatTokenizer, EchoTokenizer, ModelTokenizer
from kfp_llm_batch.generation.preparation import PreparedRow, RowPreparer
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.models.resolving import resolve_model

POLICIES = ("truncate_left", "truncate_right", "truncate_middle")
CONTEXT = 100
MOST = CONTEXT - 16
"""Tokens of a prompt, when answers of 16 are wanted."""
OVERHEAD = len("user") + 3
ALONE = "Cutting its longest message is not enough: the other messages alone fill the context."
DIGITS = "".join(str(number % 10) for number in range(300))


@pytest.fixture(scope="module")
def demo() -> ModelTokenizer:
    return ModelTokenizer(resolve_model("demo://smollm2-135m-instruct").folder)


def prepare(folder, policy: str, tokenizer: ChatTokenizer | None = None, max_model_len: int = CONTEXT):
    preparer = RowPreparer(
        tokenizer=tokenizer or EchoTokenizer(),
        sampling=SamplingConfig(max_tokens=16),
        model_digest="m",
        answer_settings={},
        max_model_len=max_model_len,
        context_policy=policy,
    )
    return [row for batch in preparer.prepare(Prompts(folder).batches()) for row in batch]


def text_of(row: PreparedRow) -> str:
    """What the echo tokenizer's last message says."""
    return bytes(row.token_ids[row.token_ids.index(257) + 1 : -1]).decode()


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ("truncate_left", DIGITS[-(MOST - OVERHEAD) :]),
        ("truncate_right", DIGITS[: MOST - OVERHEAD]),
        ("truncate_middle", DIGITS[:39] + DIGITS[-38:]),
    ],
)
def test_the_text_is_cut_where_the_policy_says(make_prompts, policy, kept):
    (row,) = prepare(make_prompts([{"question": DIGITS}]), policy)
    assert text_of(row) == kept
    assert (row.room, row.fault, row.warnings) == (16, None, ("prompt_truncated",))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("letters", [MOST - OVERHEAD, 5], ids=["just-fits", "short"])
def test_a_prompt_that_fits_is_left_alone(make_prompts, policy, letters):
    folder = make_prompts([{"question": "q" * letters}])
    assert prepare(folder, policy) == prepare(folder, "error")
    assert prepare(folder, policy)[0].warnings == ()


def test_without_the_policy_nothing_is_cut(make_prompts):
    short, full, long = prepare(make_prompts([{"question": "q" * count} for count in (5, 92, 93)]), "error")
    assert (short.fault, full.fault, full.room) == (None, None, 1)
    assert long.fault == ("prompt_too_long", "The prompt has 100 tokens; the model takes 100 with the answer.")


def test_the_rows_own_max_tokens_decide_and_half_of_the_context_is_enough(make_prompts):
    rows = [{"question": DIGITS, "params": {"max_tokens": count}} for count in (1, 40, 5_000)]
    assert [row.room for row in prepare(make_prompts(rows), "truncate_right")] == [1, 40, CONTEXT // 2]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("text", ["\U0001f389" * 200, "a\u00fc\u65e5\U0001f389" * 100], ids=["emoji", "mixed"])
def test_no_cut_is_inside_a_character(make_prompts, policy, text):
    (row,) = prepare(make_prompts([{"question": text}]), policy)
    assert row.fault is None
    assert 16 <= row.room <= 16 + 8
    kept = text_of(row)
    assert any(text.startswith(kept[:split]) and text.endswith(kept[split:]) for split in range(len(kept) + 1))


def conversation(*texts: str) -> dict[str, Any]:
    roles = ["system", *["user", "assistant"] * len(texts)]
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]}


def test_the_longest_message_is_cut_and_the_last_of_several(make_prompts):
    rows = [conversation("s", DIGITS, "a"), conversation("u" * 50, "v" * 50), conversation("\u00fc" * 30, "w" * 40)]
    first, second, third = prepare(make_prompts(rows, prompt_messages_column="messages"), "truncate_right")
    assert bytes(token for token in first.token_ids if token < 256).startswith(b"systemsuser0123")
    assert first.token_ids[-13:] == EchoTokenizer().encode([[{"role": "assistant", "content": "a"}]])[0]
    assert [second.token_ids.count(letter) for letter in b"uv"] == [50 + 1, MOST - 50 - 15]
    assert [third.token_ids.count(letter) for letter in b"\xbcw"] == [(MOST - 40 - 15) // 2, 40]


def test_other_messages_that_fill_the_context_leave_the_row_invalid(make_prompts):
    folder = make_prompts([conversation("u" * 90, "v" * 90)], prompt_messages_column="messages")
    (cut,), (uncut,) = prepare(folder, "truncate_left"), prepare(folder, "error")
    assert cut.fault == ("prompt_too_long", f"{uncut.fault[1]} {ALONE}")
    assert cut.warnings == ()


def test_a_row_that_cannot_be_cut_but_can_be_answered_is_answered(make_prompts):
    texts = ["m" * 5] * 7
    folder = make_prompts([conversation(*texts)], prompt_messages_column="messages")
    cut, uncut = prepare(folder, "truncate_left", max_model_len=103), prepare(folder, "error", max_model_len=103)
    assert uncut[0].fault is None
    assert 0 < uncut[0].room < 11
    assert cut == uncut


def test_bad_parameters_stay_what_they_are(make_prompts):
    rows = [{"question": "q" * 90, "params": {"max_tokens": 0}}]
    assert prepare(make_prompts(rows), "truncate_left")[0].fault[0] == "bad_params"


@pytest.mark.parametrize("policy", POLICIES)
def test_with_a_models_tokenizer_the_cut_is_exact(make_prompts, demo, policy):
    text = " ".join(f"number {number} is <|im_end|> na\u00efve \U0001f389," for number in range(900))
    ordinary = text.replace("<|im_end|>", "so")
    rows = prepare(make_prompts([{"question": text}, {"question": ordinary}, {"question": "x"}]), policy, demo, 512)
    for row in rows[:2]:
        assert (row.fault, row.warnings) == (None, ("prompt_truncated",))
        assert 16 <= row.room <= 20
        controls = [token for token in row.token_ids if token < 17]
        assert controls == [token for token in rows[2].token_ids if token < 17]
    decoded = demo._tokenizer.decode(rows[0].token_ids)
    assert "\ufffd" not in decoded
    assert ("number 0 is" in decoded) == (policy != "truncate_left")
    assert ("number 899 is" in decoded) == (policy != "truncate_right")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("text", ["some words of text ", "a", "\U0001f389"], ids=["words", "letters", "emoji"])
def test_very_long_texts_are_cut_in_seconds_and_little_memory(make_prompts, demo, policy, text):
    question = text * (10_000_000 // len(text.encode()))
    folder = make_prompts([{"question": question}])
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    (row,) = prepare(folder, policy, demo, 8192)
    assert 16 <= row.room <= 16 + 8
    assert time.monotonic() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000
