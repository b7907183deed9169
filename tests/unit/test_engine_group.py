import json
import os
import signal
from pathlib import Path

from kfp_llm_batch.engine import faults
from kfp_llm_batch.engine.group import PREFIX_TOKENS, EngineGroup, spread
from kfp_llm_batch.engine.messages import EngineSpecification, GenerationRequest
from kfp_llm_batch.generation.chat_tokenizer import EchoTokenizer

NOTHING = EngineSpecification(model_path="")


def request(number: int, token_ids: list[int], max_tokens: int = 10) -> GenerationRequest:
    return GenerationRequest(request_id=number, token_ids=token_ids, sampling={"max_tokens": max_tokens})


def echo_request(number: int, text: str) -> GenerationRequest:
    (token_ids,) = EchoTokenizer().encode([[{"role": "user", "content": text}]])
    return request(number, token_ids, max_tokens=1_000)


def numbers(shares: list[list[GenerationRequest]]) -> list[list[int]]:
    return [[each.request_id for each in share] for share in shares]


def test_tokens_are_spread_and_not_requests():
    requests = [request(0, [1] * 90), request(1, [2] * 40), request(2, [3] * 30), request(3, [4] * 10)]
    assert numbers(spread(requests, [0, 0])) == [[0], [1, 2, 3]]


def test_an_engine_that_has_work_already_gets_less():
    requests = [request(number, [number] * 10) for number in range(4)]
    assert numbers(spread(requests, [60, 0])) == [[3], [0, 1, 2]]


def test_neighbours_with_a_common_beginning_stay_together_unless_they_are_most_of_the_work():
    documents = [[document] * PREFIX_TOKENS for document in range(8)]
    few = [
        request(3 * number + question, [*document, question])
        for number, document in enumerate(documents)
        for question in range(3)
    ]
    for share in spread(few, [0, 0]):
        assert len(share) == 12
        assert len({each.token_ids[0] for each in share}) == 4
    many = [request(number, [*documents[0], number]) for number in range(10)]
    assert [len(share) for share in spread(many, [0, 0])] == [5, 5]


def test_several_engines_answer_every_request_once():
    with EngineGroup("echo", [{}, {}, {}]) as group:
        group.load(NOTHING, is_first_alone=True)
        assert answer(group, [echo_request(number, f"text {number}") for number in range(100)]) == {
            number: f"text {number}" for number in range(100)
        }


def test_an_engine_that_is_killed_does_not_disturb_the_others():
    with EngineGroup("echo", [{}, {}]) as group:
        group.load(NOTHING)
        children = map(int, Path("/proc/thread-self/children").read_text().split())
        engine = next(pid for pid in children if b"engine.child" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(engine, signal.SIGKILL)
        found = answer(group, [echo_request(number, f"text {number}") for number in range(40)])
        assert found == {number: f"text {number}" for number in range(40)}
        assert group.restarts > 0


def test_a_culprit_is_found_in_whichever_engine_it_is():
    environment = {faults.VARIABLE: json.dumps({"SIGKILL": [list(b"poison")]})}
    with EngineGroup("echo", [environment, environment]) as group:
        group.load(NOTHING)
        found = answer(group, [echo_request(number, "poison" if number == 7 else "text") for number in range(20)])
    assert [number for number, text in found.items() if text is None] == [7]


def answer(group: EngineGroup, requests: list[GenerationRequest]) -> dict[int, str | None]:
    """Texts by request; None where it was refused."""
    group.submit(requests)
    texts: dict[int, str | None] = {}
    while len(texts) < len(requests):
        for finished in group.receive(timeout_seconds=0.5):
            assert finished.request_id not in texts
            texts[finished.request_id] = finished.output.text if finished.output else None
    return dict(sorted(texts.items()))
