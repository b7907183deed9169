import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path

import pytest

from kfp_llm_batch.engine import echo
from kfp_llm_batch.engine.messages import EngineSpecification, GenerationOutput, GenerationRequest
from kfp_llm_batch.engine.process import EngineProcess
from kfp_llm_batch.errors import EngineError

NOTHING = EngineSpecification(model_path="")


def request(number: int, text: bytes = b"hello", max_tokens: int = 100_000) -> GenerationRequest:
    token_ids = [echo.START_OF_MESSAGE, *b"user", echo.END_OF_ROLE, *text, echo.END_OF_PROMPT]
    return GenerationRequest(request_id=number, token_ids=token_ids, sampling={"max_tokens": max_tokens})


def load(engine: EngineProcess) -> None:
    engine.begin_load(NOTHING)
    engine.finish_load()


def child_of_this_process() -> int:
    children = map(int, Path("/proc/thread-self/children").read_text().split())
    (engine,) = (pid for pid in children if b"engine.child" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return engine


@pytest.fixture
def engine() -> Iterator[EngineProcess]:
    with EngineProcess("echo", {}) as process:
        load(process)
        yield process


@pytest.fixture
def child(engine) -> int:
    """The process of `engine`."""
    return child_of_this_process()


def answers(engine: EngineProcess, count: int) -> dict[int, GenerationOutput]:
    found: dict[int, GenerationOutput] = {}
    deadline = time.monotonic() + 60
    while len(found) < count:
        assert time.monotonic() < deadline
        wait([engine.connection], timeout=5)
        received = engine.receive() or []
        found |= {finished.request_id: finished.output for finished in received if finished.output}
    return found


def is_gone(pid: int, within_seconds: float = 10) -> bool:
    deadline = time.monotonic() + within_seconds
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive(pid)


def is_alive(pid: int) -> bool:
    """Whether the process runs; an orphan that has ended waits a while for its new parent to look."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_answers_arrive_for_every_request(engine):
    engine.submit([request(1, b"one"), request(2, "zwei \u00fc".encode())])
    engine.submit([request(3, b"three", max_tokens=2)])
    found = answers(engine, 3)
    assert {number: (output.text, output.finish_reason, output.num_tokens) for number, output in found.items()} == {
        1: ("one", "stop", 3),
        2: ("zwei \u00fc", "stop", 7),
        3: ("th", "length", 2),
    }


def test_nothing_is_received_before_something_was_sent(engine):
    assert engine.receive() is None


def test_large_messages_in_both_directions_do_not_block_each_other(engine):
    text = b"x" * 50_000
    for number in range(400):
        engine.submit([request(number, text)])
    found = answers(engine, 400)
    assert {output.num_tokens for output in found.values()} == {50_000}


def test_a_killed_engine_is_an_error_that_names_the_signal_and_memory(engine, child):
    os.kill(child, signal.SIGKILL)
    with pytest.raises(EngineError, match=r"was killed by SIGKILL.*memory limit.*raise resources_memory"):
        answers(engine, 1)
    with pytest.raises(EngineError, match="SIGKILL"):
        engine.submit([request(1)])


def test_another_signal_says_nothing_of_memory(engine, child):
    os.kill(child, signal.SIGSEGV)
    with pytest.raises(EngineError, match="was killed by SIGSEGV") as caught:
        answers(engine, 1)
    assert "memory" not in str(caught.value)


def test_an_engine_that_fails_in_the_middle_shows_its_log(engine):
    engine.submit([GenerationRequest(request_id=1, token_ids=request(1).token_ids, sampling={})])
    with pytest.raises(EngineError, match=r"failed: KeyError: 'max_tokens'") as caught:
        answers(engine, 1)
    assert "The end of its log:" in str(caught.value)
    assert "echo.py" in str(caught.value)


def test_an_engine_that_cannot_be_imported_says_why(tmp_path):
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm/__init__.py").write_text("raise ImportError('libnuma.so.1 is missing')")
    with (
        EngineProcess("vllm", {"PYTHONPATH": str(tmp_path)}) as engine,
        pytest.raises(EngineError, match=r"failed: ImportError: libnuma.so.1 is missing") as caught,
    ):
        load(engine)
    assert "The end of its log:" in str(caught.value)
    assert str(tmp_path / "vllm/__init__.py") in str(caught.value)


def test_an_engine_that_ends_before_it_speaks(tmp_path):
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm/__init__.py").write_text("import os\nprint('gave up', flush=True)\nos._exit(7)")
    with (
        EngineProcess("vllm", {"PYTHONPATH": str(tmp_path)}) as engine,
        pytest.raises(EngineError, match=r"exited with code 7.*The end of its log:\ngave up"),
    ):
        load(engine)


def test_variables_are_there_before_the_interpreter_starts():
    with EngineProcess("echo", {"OMP_NUM_THREADS": "3"}) as engine:
        load(engine)
        pid = child_of_this_process()
        assert b"OMP_NUM_THREADS=3" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def test_leaving_ends_the_engine():
    with EngineProcess("echo", {}) as engine:
        load(engine)
        pid = child_of_this_process()
        started = time.monotonic()
    assert is_gone(pid, within_seconds=0)
    assert time.monotonic() - started < 5


def test_leaving_ends_a_busy_engine():
    with EngineProcess("echo", {}) as engine:
        load(engine)
        pid = child_of_this_process()
        engine.submit([request(number, b"x" * 10_000) for number in range(2_000)])
    assert is_gone(pid, within_seconds=0)


ORPHAN = """
import sys, time
from pathlib import Path
from kfp_llm_batch.engine import echo
from kfp_llm_batch.engine.messages import EngineSpecification, GenerationRequest
from kfp_llm_batch.engine.process import EngineProcess

what, sign, modules = sys.argv[1:]
kind = "vllm" if what == "loads" else "echo"
with EngineProcess(kind, {"PYTHONPATH": modules}) as engine:
    print(Path("/proc/thread-self/children").read_text().split()[0], flush=True)
    if what in ("waits", "hangs"):
        engine.begin_load(EngineSpecification(model_path=""))
        engine.finish_load()
    if what == "hangs":
        tokens = [echo.START_OF_MESSAGE, echo.END_OF_ROLE, echo.END_OF_PROMPT]
        engine.submit([GenerationRequest(request_id=1, token_ids=tokens, sampling={"max_tokens": 1})])
        time.sleep(0.5)
    if what != "loads":
        Path(sign).touch()
    time.sleep(60)
"""
SLOW_VLLM = """
import os, time
from pathlib import Path

Path(os.environ["SIGN"]).touch()
time.sleep(60)
"""


@pytest.mark.parametrize("what", ["starts", "loads", "waits", "hangs"])
def test_a_killed_parent_takes_the_engine_with_it_whatever_it_does(what, tmp_path):
    sign = tmp_path / "sign"
    (tmp_path / "vllm.py").write_text(SLOW_VLLM)
    command = [sys.executable, "-c", ORPHAN, what, str(sign), str(tmp_path)]
    environment = {**os.environ, "SIGN": str(sign), "KFP_LLM_BATCH_FAULTS": '{"hang": [[]]}'}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        while not sign.exists():
            time.sleep(0.01)
        assert is_alive(pid)
        parent.kill()
        assert is_gone(pid, within_seconds=3 if what == "starts" else 1)
