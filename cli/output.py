"""What several commands print with: aligned tables and progress on stderr."""

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import typer

from trustq.core.prose import say

from .app import PROGRESS, QUIET, print_remark
from .hints import in_options


def print_text(text: str) -> None:
    """Print a page in options of the command, broken at 80 columns or a narrower terminal's."""
    from trustq.core.prose import WIDTH, folded

    typer.echo(folded(in_options(text), min(WIDTH, terminal_width() or WIDTH)))


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print dicts as an aligned table; columns are the keys of the first row."""
    from trustq.results import Result

    if rows:
        columns = list(rows[0])
        print_result(Result(columns, [tuple(row.get(name) for name in columns) for row in rows]))


def print_note(note: str) -> None:
    """Print what the library remarks, in options of the command that runs, on stderr."""
    print_remark(f"Note: {note}")


def print_result(result: Any) -> None:
    """Print the answer to a query as an aligned table."""
    from trustq.results import format_result

    typer.echo(format_result(result, "table", width=terminal_width()))


def terminal_width() -> int | None:
    """Columns of the terminal that stdout is; None for a pipe or a file, which is not laid out."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_repair_table(table: Any) -> None:
    """Print a table of arms with its caption above and its warnings below."""
    print_text(table.caption)
    print_table(table.rows)
    if table.shift:
        from trustq.evaluation.shift_stages import STAGES

        typer.echo("\nExternal sets under shift")
        print_table(table.shift)
        for stage, meaning in STAGES.items():
            print_text(f"{stage}: {meaning}.")
        typer.echo()
    print_text(table.footer)


# What a text is that goes into a file of an ending; of others nothing is known.
_BY_ENDING = {".csv": "csv", ".json": "json", ".tex": "latex", ".md": "markdown"}
_NO_TEXT = (".parquet", ".xlsx", ".xls", ".h5", ".npz", ".npy", ".pdf", ".png", ".duckdb", ".db")


def form_of(asked: str | None, out: Path | None, usual: str) -> str:
    """The form of a text: as asked, else what the ending of its file says, else the usual one."""
    return asked or _BY_ENDING.get(out.suffix.lower() if out else "", usual)


def write_or_print(text: str, out: Path | None, form: str = "text") -> None:
    """Write a text to a file, whole or not at all, or print it where there is none.

    Raises `TrustqError` for a file that by its ending holds no text, or CSV, JSON or LaTeX where
    the `form` is another.
    """
    from trustq.core.atomic_files import replacing
    from trustq.errors import InputError

    if out is None:
        typer.echo(text)  # not folded: tables, JSON and CSV have one row a line
        return
    ending = out.suffix.lower()
    its = _BY_ENDING.get(ending, form)
    if ending in _NO_TEXT or (its != form and its != "markdown"):
        endings = {own: ending for ending, own in _BY_ENDING.items()}
        raise InputError(
            f"{out}: the answer is written as {form}; call it "
            f"{out.stem}{endings.get(form, '.txt')}.",
            path=out,
        )
    with replacing(out) as part:
        part.write_text(text + "\n", encoding="utf-8")


@contextmanager
def resumable(kept: str) -> Iterator[None]:
    """Say what is kept where Ctrl-C stops the block, and exit as it does."""
    try:
        yield
    except KeyboardInterrupt as stop:
        say(f"\nStopped. {kept}")
        raise typer.Exit(130) from stop


@contextmanager
def stages() -> Iterator[Callable[[str, str, int, int], None]]:
    """A progress line for each stage of a work, one after the other.

    Yields what to call with (stage, unit, done, total).
    """
    with ExitStack() as stack:
        shown: dict[str, Callable[..., None]] = {}

        def tell(what: str, unit: str, done: int, total: int) -> None:
            if what not in shown:
                stack.close()  # the line of the stage before
                shown[what] = stack.enter_context(progress(what, unit))
            shown[what](done, total)

        yield tell


@contextmanager
def progress(what: str, unit: str) -> Iterator[Callable[..., None]]:
    """A progress line on stderr with rate and time left.

    Yields what to call with (done, total) or (done, total, failed).

    Where stderr is no terminal, a line is printed about every tenth of the way.
    """
    import time

    if QUIET.get() or not PROGRESS.get():
        yield lambda *_: None
        return
    if not sys.stderr.isatty():
        started, last = time.monotonic(), [-1]

        def tell(done: int, total: int, failed: int = 0) -> None:
            tenth = 10 * done // max(total, 1)
            if tenth > last[0]:
                last[0] = tenth
                seconds = time.monotonic() - started
                left = f", {seconds * (total - done) / done:.0f} s left" if tenth else ""
                left += f", {failed} failed" if failed else ""
                say(f"{what}: {done:,} of {total:,} {unit}{left}")

        yield tell
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}, {{task.fields[rate]}}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, rate="")
        started = time.monotonic()

        def show(done: int, total: int, failed: int = 0) -> None:
            rate = f"{done / max(time.monotonic() - started, 1e-9):.1f}/s"
            rate += f", {failed} failed" if failed else ""
            bar.update(task, completed=done, total=total, rate=rate)

        yield show
