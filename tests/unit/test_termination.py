import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from kfp_llm_batch import termination
from kfp_llm_batch.errors import EngineError, InterruptedRunError, StorageError
from kfp_llm_batch.termination import CallCutError, Termination, limited_call

LONG_SECONDS = 20


@pytest.fixture
def short_times(monkeypatch):
    monkeypatch.setattr(termination, "STORE_SECONDS", 0.1)
    monkeypatch.setattr(termination, "LATE_CALL_SECONDS", 0.05)


def test_the_end_is_asked_for_only_while_the_context_is_open():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)
    with Termination():
        termination.check()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(InterruptedRunError, match="interrupted"):
            termination.check()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)) == before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    with Termination():
        termination.check()
    termination.check()


def raise_after_the_signal(error: Exception) -> None:
    signal.raise_signal(signal.SIGTERM)
    raise error


def raise_without_a_signal(error: Exception) -> None:
    raise error


def test_a_store_that_fails_after_the_signal_is_part_of_the_interruption():
    message = r"interrupted.*store failed: The store burns\. Put it out\."
    with pytest.raises(InterruptedRunError, match=message), Termination():
        raise_after_the_signal(StorageError("The store burns", remedy="Put it out."))


@pytest.mark.parametrize(
    ("end", "kind"), [(raise_without_a_signal, StorageError), (raise_after_the_signal, EngineError)]
)
def test_other_errors_stay_what_they_are(end, kind):
    with pytest.raises(kind), Termination():
        end(kind("Something else failed"))


def test_the_signal_ends_a_sleep_and_shortens_the_next():
    late = threading.Event()
    timers = [
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)),
        threading.Timer(LONG_SECONDS / 2, late.set),
    ]
    with Termination():
        for timer in timers:
            timer.start()
        termination.sleep(LONG_SECONDS)
        termination.sleep(LONG_SECONDS)
    assert not late.is_set()
    timers[1].cancel()


def test_a_sleep_without_a_signal_is_as_long_as_was_asked_for():
    started = time.monotonic()
    termination.sleep(0.3)
    assert time.monotonic() - started >= 0.3


@pytest.mark.usefixtures("short_times")
def test_the_signal_cuts_each_later_call():
    with Termination():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(CallCutError), limited_call():
            time.sleep(LONG_SECONDS)
        with pytest.raises(CallCutError), limited_call():
            time.sleep(LONG_SECONDS)


@pytest.mark.usefixtures("short_times")
def test_the_signal_cuts_a_call_that_is_under_way():
    with Termination(), pytest.raises(CallCutError), limited_call():
        wait_for_the_signal()


def wait_for_the_signal() -> None:
    signal.raise_signal(signal.SIGTERM)
    time.sleep(LONG_SECONDS)


@pytest.mark.usefixtures("short_times")
def test_the_signal_cuts_nothing_but_calls():
    with Termination():
        signal.raise_signal(signal.SIGTERM)
        with limited_call():
            pass
        time.sleep(0.3)


def test_other_threads_note_nothing():
    def call() -> bool:
        with Termination(), limited_call():
            termination.check()
            return signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(call).result()
