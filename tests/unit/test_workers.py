"""Work in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from kfp_llm_batch.errors import DataError, InterruptedRunError
from kfp_llm_batch.workers import call_apart, worker_map


def squarer(most: int) -> Callable[[int], tuple[int, int]]:
    def square(number: int) -> tuple[int, int]:
        if number > most:
            raise DataError("The number is too large", received=number)
        if number < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return number**2, os.getpid()

    return square


def test_results_are_in_the_order_of_the_tasks_and_of_several_processes():
    with worker_map(3, squarer, 10**6) as results_of:
        results = list(results_of(range(100)))
        assert list(results_of([])) == []
    assert [square for square, _ in results] == [number**2 for number in range(100)]
    assert len({process for _, process in results} - {os.getpid()}) == 3


def test_tasks_are_taken_one_a_process_ahead():
    taken = []

    def tasks() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    with worker_map(2, squarer, 10**6) as results_of:
        next(results_of(tasks()))
        assert len(taken) == 3


def test_an_error_is_raised_here_after_the_results_before_it():
    with worker_map(2, squarer, 5) as results_of:
        results = results_of(range(10))
        assert [next(results)[0] for _ in range(6)] == [number**2 for number in range(6)]
        with pytest.raises(DataError, match=r"too large\. Received: 6"):
            next(results)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_one_call_in_a_process_of_its_own():
    assert call_apart(os.getpid) != os.getpid()
    with pytest.raises(InterruptedRunError, match=r"killed by SIGKILL.*raise resources_memory"):
        call_apart(die)


def test_a_process_that_is_killed_ends_the_work():
    with (
        worker_map(2, squarer, 5) as results_of,
        pytest.raises(InterruptedRunError, match=r"killed by SIGKILL.*memory"),
    ):
        list(results_of([1, -1, 2, 3]))


def test_no_process_outlives_the_one_that_started_it():
    code = (
        "import pathlib, time; from kfp_llm_batch.workers import worker_map\n"
        "with worker_map(1, int):\n"
        "    print(pathlib.Path('/proc/thread-self/children').read_text(), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        worker = int(parent.stdout.readline())
        parent.kill()
    for _ in range(100):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the worker is still there")
