import pytest

from kfp_llm_batch.engine import echo
from kfp_llm_batch.engine.echo import EchoEngine
from kfp_llm_batch.engine.messages import GenerationOutput, GenerationRequest
from kfp_llm_batch.engine.texts import whole_text, without_surrogates


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain \U0001f389", "plain \U0001f389"),
        ("\ud83c\udf89", "\U0001f389"),
        ("a\ud83cb", "a\ufffdb"),
        ("\udf89", "\ufffd"),
    ],
    ids=["well-formed", "pair", "first-half", "second-half"],
)
def test_halves_of_surrogate_pairs_become_text(text, expected):
    assert without_surrogates(text) == expected


@pytest.mark.parametrize(
    ("text", "decoded", "expected"),
    [
        ("ab", "ab", ("ab", False)),
        ("ab", "ab\ufffd", ("ab", True)),
        ("ab\ufffd", "ab\ufffd", ("ab", True)),
        ("ab", "ab \u65e5\ufffd", ("ab \u65e5", True)),
        ("a\ufffdb", "a\ufffdb", ("a\ufffdb", False)),
        (" ab", "ab\ufffd", (" ab", True)),
        ("ab", "abc", ("ab", False)),
    ],
    ids=["whole", "missing", "shown", "shared-token", "in-the-middle", "other-spacing", "stop-string"],
)
def test_an_incomplete_character_at_the_end_is_removed(text, decoded, expected):
    assert whole_text(text, decoded) == expected


def answer(text: str, max_tokens: int) -> GenerationOutput:
    engine = EchoEngine()
    token_ids = [echo.START_OF_MESSAGE, *b"user", echo.END_OF_ROLE, *text.encode(), echo.END_OF_PROMPT]
    engine.add(GenerationRequest(request_id=0, token_ids=token_ids, sampling={"max_tokens": max_tokens}))
    (finished,) = engine.step()
    assert finished.output
    return finished.output


@pytest.mark.parametrize(
    ("max_tokens", "text", "is_repaired"),
    [(1, "a", False), (2, "a", True), (3, "a\u00fc", False), (9, "a\u00fc", False)],
)
def test_the_echo_engine_flags_a_cut_inside_a_character(max_tokens, text, is_repaired):
    output = answer("a\u00fc", max_tokens)
    assert (output.text, output.is_repaired) == (text, is_repaired)
