"""Prose that fits a terminal: pages that are printed, and remarks on stderr."""

import os
import re
import shutil
import sys
import textwrap

WIDTH = 80  # columns of a terminal, which fold longer lines

# What is copied as a whole, a command or a name with blanks, stands in backticks or quotes.
_TOGETHER = re.compile(r"(?<!\w)([`\"']).+?\1(?!\w)")


def folded(text: str, width: int = WIDTH) -> str:
    """A page whose lines of prose are broken between words where they are wider than a terminal.

    Rows of tables, in which two blanks or a bar stand between cells, and commands stay as they are,
    and what is in backticks or quotes stays on one line.

    >>> print(folded("  one two three\\n| a | b | c |\\na    b    c    d", width=9))
      one two
      three
    | a | b | c |
    a    b    c    d
    """
    lines: list[str] = []
    for line in text.split("\n"):
        own = line.lstrip(" ")
        if len(line) <= width or "  " in own or own.startswith(("|", "trustq ", ".venv/")):
            lines.append(line)
            continue
        indent = line[: len(line) - len(own)]
        parts = textwrap.wrap(
            _TOGETHER.sub(lambda found: found[0].replace(" ", "\0"), own),
            width,
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += [part.replace("\0", " ") for part in parts]
    return "\n".join(lines)


def say(text: str) -> None:
    """Print what is not the answer on stderr, folded in a terminal; a log has a remark a line."""
    if sys.stderr.isatty():
        # stdout, by which Python tells the width, may be a file.
        size = shutil.get_terminal_size(os.get_terminal_size(sys.stderr.fileno()))
        text = folded(text, min(WIDTH, size.columns or WIDTH))
    print(text, file=sys.stderr, flush=True)
