"""Prose in terminals of any width: what is broken, and what can still be copied."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from trustq.core.prose import folded

NOTE = (
    "Note: the labels of these rows are texts of which some are numbers; say which with "
    "`trustq evaluate a.npz --labels b --ids c` as /data/a/very/long/path/with/a-hyphen/of.npz"
)


def said(text: str, *, columns: int, out: str = "inherit") -> str:
    """What `say` prints on a terminal of some columns, with stdout on it or in a pipe."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    subprocess.run(
        [sys.executable, "-c", f"from trustq.core.prose import say; say({text!r})"],
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"},
        stdout=theirs if out == "inherit" else subprocess.PIPE,
        stderr=theirs,
        check=True,
    )
    os.close(theirs)
    shown = os.read(ours, 65536).decode().replace("\r\n", "\n")
    os.close(ours)
    return shown


@pytest.mark.parametrize(("columns", "width"), [(60, 60), (200, 80), (0, 80)])
@pytest.mark.parametrize("out", ["inherit", "pipe"])
def test_notes_are_folded_at_80_columns_of_a_terminal_or_fewer(
    columns: int, width: int, out: str
) -> None:
    shown = said(NOTE, columns=columns, out=out)
    assert shown == folded(NOTE, width) + "\n"
    assert max(len(line) for line in shown.splitlines()[:2]) <= width


def test_a_note_in_a_pipe_is_one_line() -> None:
    code = f"from trustq.core.prose import say; say({NOTE!r})"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stderr == NOTE + "\n" and made.stdout == ""


def test_commands_and_paths_are_never_broken() -> None:
    for width in range(20, 100):
        lines = folded(NOTE, width).splitlines()
        assert " ".join(lines) == NOTE
        assert any("`trustq evaluate a.npz --labels b --ids c`" in line for line in lines)
        assert any("/data/a/very/long/path/with/a-hyphen/of.npz" in line for line in lines)


def test_quotes_within_words_hold_nothing_together() -> None:
    text = "a model's labels and the rows' groups and \"a b c d e f g h\" and so on it goes"
    assert folded(text, 20).splitlines() == [
        "a model's labels and",
        "the rows' groups and",
        '"a b c d e f g h"',
        "and so on it goes",
    ]
