from typing import Any

from kfp_llm_batch.engine.group import PREFIX_TOKENS
from kfp_llm_batch.engine.messages import FinishedRequest, GenerationOutput
from kfp_llm_batch.generation import answering
from kfp_llm_batch.generation.answering import pending_answers
from kfp_llm_batch.generation.answers import PendingAnswer
from kfp_llm_batch.generation.parts import PartWriter
from kfp_llm_batch.generation.preparation import PreparedRow
from kfp_llm_batch.schemas import OUTPUTS, PROMPT_TRUNCATED, TEXT_REPAIRED

SAMPLING = {"max_tokens": 8, "temperature": 0.0, "n": 1}


def row(number: int, token_ids: list[int], **changes) -> PreparedRow:
    values = {"row_id": str(number), "request_key": repr(token_ids), "sampling": SAMPLING, "room": 100}
    return PreparedRow(row=number, token_ids=token_ids, **{**values, **changes})


class CollectingWriter(PartWriter):
    def __init__(self) -> None:
        self.written: list[dict[str, Any]] = []

    def add(self, row: int, completion: dict[str, Any]) -> None:
        self.written.append(completion)


def order(rows: list[PreparedRow]) -> list[list[str]]:
    answers = pending_answers([rows], CollectingWriter(), bytearray(10))
    return [[row.row_id for row in answer.rows] for answer in answers]


def test_identical_requests_run_once():
    assert order([row(0, [1]), row(1, [2, 2]), row(2, [1])]) == [["1"], ["0", "2"]]


def test_shared_prefixes_stand_together_and_long_prompts_first():
    shared = list(range(PREFIX_TOKENS))
    rows = [row(0, [5]), row(1, [*shared, 7]), row(2, [5, 6, 7]), row(3, [*shared, 8, 9])]
    assert order(rows) == [["3"], ["1"], ["2"], ["0"]]


def test_invalid_rows_never_reach_the_engine():
    writer = CollectingWriter()
    rows = [row(0, [], fault=("empty_prompt", "The prompt is empty.")), row(1, [1])]
    assert [answer.rows[0].row_id for answer in pending_answers([rows], writer, bytearray(10))] == ["1"]
    assert writer.written[0]["status"] == "invalid"
    assert writer.written[0]["error"] == {"code": "empty_prompt", "message": "The prompt is empty."}


def finish(answer: PendingAnswer, sample: int, reason: str = "stop") -> bool:
    output = GenerationOutput(text=f"text {sample}", finish_reason=reason, num_tokens=2)
    return answer.add(sample, FinishedRequest(request_id=0, output=output))


def test_samples_are_kept_in_order_each_with_its_own_seed():
    sampling = {"max_tokens": 8, "temperature": 0.7, "n": 2, "seed": 5}
    answer = PendingAnswer(rows=[row(0, [1], sampling=sampling)])
    assert not finish(answer, 1)
    assert finish(answer, 0)
    (_, completion), *_ = answer.completions()
    assert completion["completion"] == "text 0"
    assert [output["text"] for output in completion["outputs"]] == ["text 0", "text 1"]
    assert completion["num_completion_tokens"] == 4
    assert completion["seed"] == answer.sampling(0)["seed"] != answer.sampling(1)["seed"]


def test_truncation_names_what_cut_the_answer():
    by_tokens, by_context = PendingAnswer(rows=[row(0, [1])]), PendingAnswer(rows=[row(0, [1], room=3)])
    assert by_context.sampling(0)["max_tokens"] == 3
    for answer in (by_tokens, by_context):
        finish(answer, 0, "length")
    assert next(by_tokens.completions())[1]["truncated_by"] == "max_tokens"
    assert next(by_context.completions())[1]["truncated_by"] == "context"


def test_rows_that_are_done_are_left_out():
    answers = pending_answers([[row(0, [1]), row(1, [2])]], CollectingWriter(), bytearray([1, 0]))
    assert [answer.rows[0].row_id for answer in answers] == ["1"]


def test_a_window_ends_at_its_tokens(monkeypatch):
    monkeypatch.setattr(answering, "TOKENS_PER_WINDOW", 5)
    assert order([row(0, [1]), row(1, [1, 2, 3, 4]), row(2, [1, 2])]) == [["1"], ["0"], ["2"]]


def test_an_answer_that_the_engine_ended_is_a_failed_row():
    answer = PendingAnswer(rows=[row(0, [1])])
    finish(answer, 0, "abort")
    completion = next(answer.completions())[1]
    assert (completion["status"], completion["error"]["code"]) == ("failed", "engine_aborted")


def test_a_refused_request_is_a_failed_row():
    answer = PendingAnswer(rows=[row(0, [1])])
    assert answer.add(0, FinishedRequest(request_id=0, refusal="no such token"))
    completion = next(answer.completions())[1]
    assert completion["status"] == "failed"
    assert completion["error"] == {"code": "engine_refused", "message": "no such token"}


def test_warnings_are_those_of_the_row_and_of_any_sample():
    sampling = {"max_tokens": 8, "temperature": 0.7, "n": 2, "seed": 5}
    answer = PendingAnswer(
        rows=[row(0, [1], sampling=sampling), row(1, [1], sampling=sampling, warnings=(PROMPT_TRUNCATED,))]
    )
    finish(answer, 0)
    output = GenerationOutput(text="", finish_reason="length", num_tokens=2, is_repaired=True)
    answer.add(1, FinishedRequest(request_id=0, output=output))
    first, second = (completion for _, completion in answer.completions())
    assert (first["warnings"], second["warnings"]) == ([TEXT_REPAIRED], [PROMPT_TRUNCATED, TEXT_REPAIRED])
    assert all(set(output) == set(OUTPUTS.value_type.names) for output in first["outputs"])


def test_without_warnings_there_is_no_list():
    answer = PendingAnswer(rows=[row(0, [1])])
    finish(answer, 0)
    assert next(answer.completions())[1]["warnings"] is None
