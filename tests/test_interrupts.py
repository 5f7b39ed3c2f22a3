"""Ctrl-C that a library swallows, or makes an error of, still stops a long run."""

import contextlib
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator

import duckdb
import pytest

from trustq.core.interrupts import heeded


@pytest.fixture(autouse=True)
def _usual_handler() -> Iterator[None]:
    """Whoever runs the tests in the background may have told them to ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, [])  # a call by which the handler has run


def test_a_swallowed_interrupt_is_raised_at_the_next_step() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), heeded() as check:
        for step in range(3):
            steps.append(step)
            with contextlib.suppress(KeyboardInterrupt):  # as a library does
                if step == 1:
                    interrupt()
            check()
    assert steps == [0, 1]


def test_an_interrupt_within_a_callback_of_a_weak_reference_is_raised_and_not_printed() -> None:
    class Held:
        pass

    printed: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", printed.append)
        with pytest.raises(KeyboardInterrupt), heeded() as check:
            held = Held()
            reference = weakref.ref(held, lambda _: interrupt())
            del held  # nobody can catch what is raised here
            assert reference() is None
            check()
            pytest.fail("the interrupt was lost")
    assert printed == []


def test_a_swallowed_interrupt_is_raised_at_the_end_of_the_block() -> None:
    with pytest.raises(KeyboardInterrupt), heeded(), contextlib.suppress(KeyboardInterrupt):
        interrupt()


def test_an_error_after_an_interrupt_is_the_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, heeded():
        try:
            interrupt()
        except KeyboardInterrupt as error:
            raise RuntimeError("Query interrupted") from error
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_other_errors_stay_what_they_are_and_the_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="^mine$"), heeded():
        raise ValueError("mine")
    assert signal.getsignal(signal.SIGINT) is before


def test_an_ignored_interrupt_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with heeded() as check:
            interrupt()
            check()
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_leave_the_handler_alone() -> None:
    found = []

    def work() -> None:
        before = signal.getsignal(signal.SIGINT)
        with heeded() as check:
            check()
            found.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [True]


def test_what_does_not_look_for_signals_is_told_by_another_thread_until_it_ends() -> None:
    told: list[int] = []
    twice = threading.Event()

    def stop() -> None:
        told.append(threading.get_ident())
        if len(told) > 1:
            twice.set()

    before = signal.set_wakeup_fd(-1)
    with pytest.raises(KeyboardInterrupt), heeded(stop):
        with contextlib.suppress(KeyboardInterrupt):  # as a library does
            interrupt()
        assert twice.wait(60)
    assert threading.get_ident() not in told
    n = len(told)
    with heeded(stop):
        pass
    assert len(told) == n
    assert signal.set_wakeup_fd(before) == -1  # put back


def test_a_statement_without_an_end_stops_wherever_it_is() -> None:
    connection = duckdb.connect()
    sql = (
        "SELECT count(*) FROM range(100000) a, range(100000) b, range(1000) c WHERE a.range % 7 = 3"
    )
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt), heeded(connection.interrupt):
        connection.execute(sql)
    timer.join()
    assert connection.execute("SELECT 1").fetchone() == (1,)
