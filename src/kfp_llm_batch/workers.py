"""Work in processes of their own: for what Python computes on one processor at a time, and for what takes memory."""

from __future__ import annotations

import contextlib
import functools
import itertools
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from kfp_llm_batch.errors import BatchError, InterruptedRunError
from kfp_llm_batch.garbage import rare_garbage_collection
from kfp_llm_batch.machine import read_machine

_BYTES = 512 * 2**20
"""Of free memory for each process, which takes 150 MiB and a few batches."""
_MOST = 16
"""More would wait for the process that deals out the work."""
_END_SECONDS = 10

Task = TypeVar("Task")
Result = TypeVar("Result")


def worker_count() -> int:
    """How many processes the pod has processors and memory for; 1 if it is not worth while."""
    machine = read_machine()
    return max(1, min(machine.usable_cpus, machine.memory_available_bytes // _BYTES, _MOST))


@contextlib.contextmanager
def worker_map(
    number: int, make: Callable[..., Callable[[Task], Result]], *arguments: Any
) -> Iterator[Callable[[Iterable[Task]], Iterator[Result]]]:
    """Processes that each hold one function, as a map over tasks; leaving the context ends them.

    They are no fork of this process, which may have threads, and do not import its main module. The map gives the
    result of each task, in their order; each process has one task at a time. It raises what the function raised if
    that is a BatchError, and InterruptedRunError if a process ended before its time.

    Args:
        number: Of processes.
        make: Makes the function in each process; found by its name, like all that is pickled.
        arguments: What `make` gets.
    """
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_worker((make, arguments))) for _ in range(number)]
        yield functools.partial(_mapped, workers)


def call_apart(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in a process of its own, so that what it loads leaves memory with it; errors as `worker_map`."""
    with worker_map(1, _caller, function) as call:
        result: Result = next(call([arguments]))
    return result


def _caller(function: Callable[..., Result]) -> Callable[[tuple[Any, ...]], Result]:
    return lambda arguments: function(*arguments)


def _mapped(workers: Sequence[_Worker], tasks: Iterable[Any]) -> Iterator[Any]:
    busy: list[_Worker] = []
    for worker, task in zip(itertools.cycle(workers), tasks, strict=False):
        done = [busy.pop(0).receive()] if len(busy) == len(workers) else []
        worker.send(task)
        busy.append(worker)
        yield from done
    for worker in busy:
        yield worker.receive()


class _Worker:
    def __init__(self, process: subprocess.Popen[bytes], connection: Connection) -> None:
        self._process = process
        self._connection = connection

    def send(self, task: Any) -> None:
        try:
            self._connection.send(task)
        except OSError:
            raise self._ended() from None

    def receive(self) -> Any:
        try:
            error, result = self._connection.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if error is None:
            return result
        raise error

    def _ended(self) -> InterruptedRunError:
        code = self._process.wait(_END_SECONDS)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        return InterruptedRunError(
            f"A process of this step {how}",
            remedy="Most often the pod's memory limit was reached: raise resources_memory and run again.",
        )


@contextlib.contextmanager
def _worker(start: tuple[Callable[..., Any], tuple[Any, ...]]) -> Iterator[_Worker]:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "kfp_llm_batch.workers", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
    with Connection(ours.detach()) as connection:
        worker = _Worker(process, connection)
        try:
            worker.send(start)
            yield worker
        except BaseException:
            process.kill()
            raise
        finally:
            connection.close()
            process.wait()


def main() -> None:
    """Serve the connection of the first argument until the other side hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end is ours
    connection = Connection(int(sys.argv[1]))
    with contextlib.suppress(EOFError, OSError), rare_garbage_collection():
        make, arguments = connection.recv()
        function = make(*arguments)
        while True:
            connection.send(_outcome(function, connection.recv()))


def _outcome(function: Callable[[Any], Any], task: Any) -> tuple[Exception | None, Any]:
    try:
        return None, function(task)
    except BatchError as error:
        return error, None
    except Exception:
        return RuntimeError(traceback.format_exc()), None  # a defect keeps its traceback


if __name__ == "__main__":
    main()
