"""Ctrl-C that is not lost, although a library may take it for its own."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def heeded() -> Iterator[Callable[[], None]]:
    """Note Ctrl-C within the block and give a function that raises it again where it was swallowed.

    DuckDB looks for signals while it works, and the `KeyboardInterrupt` that it meets may end as an
    error of its own: of 85 sweeps that were interrupted, one stopped with "Query interrupted" and
    one had not stopped after eight seconds. So long loops call the function once a step. An error
    that leaves the block after Ctrl-C becomes `KeyboardInterrupt`. Outside the main thread, and
    where Ctrl-C is ignored, nothing changes.

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

    signal.signal(signal.SIGINT, note)
    try:
        yield check
        check()
    except Exception as error:
        if noted:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)
