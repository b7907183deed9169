import json

import pytest

from kfp_llm_batch.engine import faults, supervisor
from kfp_llm_batch.engine.group import EngineGroup
from kfp_llm_batch.engine.messages import EngineSpecification, FinishedRequest, GenerationRequest
from kfp_llm_batch.errors import EngineError
from kfp_llm_batch.generation.chat_tokenizer import EchoTokenizer

NOTHING = EngineSpecification(model_path="")
POISON, SLOW = list(b"poison"), list(b"sleepy")


def request(number: int, text: str) -> GenerationRequest:
    (token_ids,) = EchoTokenizer().encode([[{"role": "user", "content": text}]])
    return GenerationRequest(request_id=number, token_ids=token_ids, sampling={"max_tokens": 50})


def answer_all(engine: EngineGroup, texts: list[str]) -> dict[int, FinishedRequest]:
    """Feed all texts as the answer loop does: some at the start, more while answers come in."""
    waiting = [request(number, text) for number, text in enumerate(texts)]
    answers: dict[int, FinishedRequest] = {}
    engine.submit(waiting[:20])
    waiting = waiting[20:]
    while len(answers) < len(texts):
        for finished in engine.receive(timeout_seconds=0.5):
            assert finished.request_id not in answers, "every request is answered once"
            answers[finished.request_id] = finished
        batch, waiting = waiting[:20], waiting[20:]
        if batch:
            engine.submit(batch)
    return answers


def test_without_a_fault_nothing_is_restarted():
    with EngineGroup("echo", [{}]) as engine:
        engine.load(NOTHING)
        answers = answer_all(engine, [f"text {number}" for number in range(50)])
    assert engine.restarts == 0
    texts = [output.text for number in range(50) if (output := answers[number].output)]
    assert texts == [f"text {number}" for number in range(50)]


@pytest.mark.parametrize(("fault", "code"), [("SIGKILL", "engine_killed"), ("SIGSEGV", "engine_killed")])
@pytest.mark.parametrize("place", [0, 7, 49], ids=["first", "middle", "last"])
def test_the_request_that_kills_is_found_and_the_others_answered(fault, code, place):
    texts = [f"text {number}" for number in range(50)]
    texts[place] = "some poison here"
    with EngineGroup("echo", [{faults.VARIABLE: json.dumps({fault: [POISON]})}]) as engine:
        engine.load(NOTHING)
        answers = answer_all(engine, texts)
    refused = {number: answer for number, answer in answers.items() if answer.output is None}
    assert list(refused) == [place]
    assert refused[place].refusal_code == code
    assert fault in (refused[place].refusal or "")
    assert engine.restarts <= 7, "a culprit among 50 is found by halving"


def test_several_culprits_are_all_found():
    texts = ["poison" if number % 17 == 3 else f"text {number}" for number in range(50)]
    with EngineGroup("echo", [{faults.VARIABLE: json.dumps({"SIGKILL": [POISON]})}]) as engine:
        engine.load(NOTHING)
        answers = answer_all(engine, texts)
    assert {number for number, answer in answers.items() if answer.output is None} == {3, 20, 37}


def test_a_request_that_hangs_is_found(monkeypatch):
    monkeypatch.setenv(supervisor.HANG_SECONDS_VARIABLE, "1")
    texts = ["so sleepy" if number == 5 else f"text {number}" for number in range(8)]
    with EngineGroup("echo", [{faults.VARIABLE: json.dumps({"hang": [SLOW]})}]) as engine:
        engine.load(NOTHING)
        answers = answer_all(engine, texts)
    assert answers[5].refusal_code == "engine_hung"
    assert sum(answer.output is not None for answer in answers.values()) == 7
    assert engine.seconds_lost > 0


def test_an_engine_that_dies_without_end_is_an_error(monkeypatch):
    monkeypatch.setattr(supervisor, "MAX_RESTARTS", 3)
    with EngineGroup("echo", [{faults.VARIABLE: json.dumps({"SIGKILL": [[]]})}]) as engine:
        engine.load(NOTHING)
        with pytest.raises(EngineError, match="died 4 times; the last time it was killed by SIGKILL"):
            answer_all(engine, ["text"] * 20)
