"""Ctrl-C that is not lost, although a library may take it for its own."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STEP = 0.05  # seconds after which a work that goes on is told to stop again


@contextmanager
def heeded(stop: Callable[[], object] | None = None) -> Iterator[Callable[[], None]]:
    """Note Ctrl-C within the block and give a function that raises it again where it was swallowed.

    DuckDB looks for signals while it works, and the `KeyboardInterrupt` that it meets may end as an
    error of its own: of 85 sweeps that were interrupted, one stopped with "Query interrupted" and
    one had not stopped after eight seconds. So long loops call the function once a step. An error
    that leaves the block after Ctrl-C becomes `KeyboardInterrupt`. Outside the main thread, and
    where Ctrl-C is ignored, nothing changes.

    One long statement has no steps, and DuckDB 2.0 that waits for its own threads looks for no
    signal: on busy cores none of five statements had stopped after twelve seconds. `stop`, a
    connection's `interrupt`, is therefore called by another thread as soon as Ctrl-C comes, and
    again until the block ends.

    >>> with heeded() as check:
    ...     check()
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield lambda: None
        return
    usual: Callable[[int, FrameType | None], object] = before
    noted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        noted = True
        usual(number, frame)

    def check() -> None:
        if noted:
            raise KeyboardInterrupt

    usual_hook = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        # In a callback of the interpreter, a weak reference's, nobody could catch it: `check` does.
        if not (noted and issubclass(unraisable.exc_type, KeyboardInterrupt)):
            usual_hook(unraisable)

    signal.signal(signal.SIGINT, note)
    sys.unraisablehook = hook
    try:
        with _told_at_once(stop):
            yield check
        check()
    except Exception as error:
        if noted:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)
        sys.unraisablehook = usual_hook


@contextmanager
def _told_at_once(stop: Callable[[], object] | None) -> Iterator[None]:
    """Call `stop` from a thread when Ctrl-C comes, even while no Python runs in the main one."""
    if stop is None:
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    over = threading.Event()

    def watch() -> None:
        while number := os.read(reader, 1):  # the number of the signal, or the end of the pipe
            if number[0] == signal.SIGINT:
                stop()
                while not over.wait(STEP):  # a statement that began just now has not heard it
                    stop()

    thread = threading.Thread(target=watch, daemon=True)
    # Written to by the handler in C, which runs at once; the one in Python waits for its turn.
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        over.set()
        os.close(writer)
        thread.join()
        os.close(reader)
