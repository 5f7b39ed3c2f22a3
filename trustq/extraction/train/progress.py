"""What a long run tells while it runs: lines, and a bar where a person is watching."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from trustq.core.prose import say

PLAIN_SECONDS = 10.0  # between two lines where there is no terminal

Step = Callable[[int, str], None]  # images done so far, and a figure such as "loss 0.71"


class Progress(Protocol):
    """Where a run reports to."""

    def say(self, text: str) -> None:
        """Tell one thing."""

    def images(self, what: str, total: int) -> AbstractContextManager[Step]:
        """Follow `total` images; yields what to call with the number done and a figure."""


class StderrProgress:
    """Reports on stderr: a bar where it is a terminal, else a line every ten seconds."""

    def say(self, text: str) -> None:
        """Print a line."""
        say(text)

    @contextmanager
    def images(self, what: str, total: int) -> Iterator[Step]:
        """Show images done, images a second, the figure and the time left."""
        if not sys.stderr.isatty():
            yield self._lines(what, total)
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("images, {task.fields[rate]:.0f}/s"),
            TextColumn("{task.fields[figure]}"),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=total, rate=0.0, figure="")
            started = time.monotonic()

            def step(done: int, figure: str = "") -> None:
                rate = done / max(time.monotonic() - started, 1e-9)
                bar.update(task, completed=done, rate=rate, figure=figure)

            yield step

    def _lines(self, what: str, total: int) -> Step:
        started = last = time.monotonic()

        def step(done: int, figure: str = "") -> None:
            nonlocal last
            now = time.monotonic()
            if now - last < PLAIN_SECONDS or done >= total:
                return
            last = now
            rate = done / (now - started)
            parts = [f"{done:,} of {total:,} images", f"{rate:.0f}/s", figure]
            left = f"{(total - done) / rate:.0f} s left"
            self.say(f"{what}: {', '.join([part for part in parts if part] + [left])}")

        return step
