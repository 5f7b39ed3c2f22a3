"""Runs what the pages show, and writes their answers anew.

    python docs/blocks.py demo                 # runs every page beside this demo folder
    python docs/blocks.py demo sql.md start.md --write

A page's ```console, ```python and ```sql blocks run in order in one folder that holds `demo`. A
```python or ```toml block that begins with a comment `# NAME.py` is written to that file instead. A
comment before a block says what is particular about it:

    <!-- needs a cluster -->    it is not run here; the options of its trustq commands are checked.
                                The tests make what it needs, on a small scale, and run it
    <!-- on results -->         SQL asks this folder, not demo/results
    <!-- fails -->              its last command exits 1, and the page shows the error

What a block prints stands after it in a ```text block, of which <!-- 12 lines --> shows the first
twelve lines; the answer to SQL stands after <!-- answer --> as a table. A page need not show it.
"""

import argparse
import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGES = Path(__file__).parent / "pages"
RUN = ("console", "python", "sql")
Makers = Mapping[str, Callable[[Path], Callable[[str], Sequence[str]]]]
_FENCE = re.compile(
    r"(?P<notes>(?:^<!-- [^\n]* -->\n)*)^```(?P<kind>\w+)\n(?P<code>.*?)^```$"
    r"(?P<shown>\n\n(?:<!-- \d+ lines -->\n)?```text\n.*?^```$"
    r"|\n\n<!-- answer -->\n\n(?:\|[^\n]*\n)+)?",
    flags=re.M | re.S,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its code, its notes, and what the page shows of its output."""

    page: str
    line: int
    kind: str
    code: str
    notes: tuple[str, ...]
    shown: str

    @property
    def needs(self) -> str:
        """What it needs that is not here; empty: it runs."""
        return next((note for note in self.notes if note.startswith("needs ")), "")

    @property
    def file(self) -> str:
        """The file that the block is; empty: it is code to run."""
        named = re.match(r"# ([\w.-]+\.(?:py|toml))\n", self.code)
        return named[1] if named else ""

    def note(self, pattern: str) -> str:
        """What a note says: the first group of the pattern; empty without such a note."""
        found = [re.fullmatch(pattern, note) for note in self.notes]
        return next((match[1] for match in found if match), "")

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in their order."""
    text = page.read_text("utf-8")
    return [_block(page, text, match) for match in _FENCE.finditer(text)]


def _block(page: Path, text: str, match: re.Match[str]) -> Block:
    return Block(
        page=page.relative_to(PAGES).as_posix() if page.is_relative_to(PAGES) else page.name,
        line=text.count("\n", 0, match.start("code")),
        kind=match["kind"],
        code=match["code"],
        notes=tuple(re.findall(r"<!-- (.*?) -->", match["notes"])),
        shown=match["shown"] or "",
    )


class Session:
    """One folder in which the blocks of a page run one after another."""

    def __init__(self, folder: Path, *, width: int = 96, makers: Makers | None = None) -> None:
        self.folder = folder
        self.makers = makers or {}
        self.width = width
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.open = contextlib.ExitStack()
        self.opened: dict[str, Any] = {}  # connections by their results folder

    def run(self, block: Block) -> str:
        """What a block prints; raises `AssertionError` where a command fails."""
        if block.needs and block.needs not in self.makers:
            for command in commands(block):
                check_options(command[1:])
            return ""
        if block.needs:
            smaller = self.makers[block.needs](self.folder)
            for words in commands(block):
                self._trustq(block, [*map(os.path.expandvars, words[1:]), *smaller(words[1])])
            return ""
        if block.file:
            (self.folder / block.file).write_text(block.code, "utf-8")
            return ""
        if block.kind in ("python", "console"):
            self._forget()  # what was asked before may change
        if block.kind == "python":
            return self._python(block)
        if block.kind == "sql":
            return self._answer(block)
        if block.kind == "console":
            return "".join(self._command(block, words) for words in commands(block))
        return ""

    def _command(self, block: Block, words: list[str]) -> str:
        if words == ["pip", "install", "."]:
            self._install()
            return ""
        return self._trustq(block, words[1:])

    def _install(self) -> None:
        """What pip would leave of the package in the folder: its module and its entry points."""
        from trustq.core import plugins

        project = tomllib.loads((self.folder / "pyproject.toml").read_text("utf-8"))["project"]
        name, version = project["name"], project["version"]
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        groups = [
            f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
            for group, entries in project["entry-points"].items()
        ]
        (info / "entry_points.txt").write_text("\n".join(groups))
        sys.path.insert(0, str(self.folder))
        plugins._plugins.cache_clear()

    def _forget(self) -> None:
        self.open.close()
        self.opened.clear()

    def close(self) -> None:
        """Leave the interpreter as it was: without the package that a page installed."""
        self._forget()
        if str(self.folder) in sys.path:
            from trustq.core import plugins

            sys.path.remove(str(self.folder))
            plugins._plugins.cache_clear()

    def _answer(self, block: Block) -> str:
        """What `trustq sql --format markdown` prints, by one connection for many questions."""
        from trustq.results import connect, format_result
        from trustq.results.query import Result

        results = block.note(r"on (\S+)") or "demo/results"
        if results not in self.opened:
            self.opened[results] = self.open.enter_context(connect(self.folder / results))
        connection = self.opened[results].execute(block.code)
        names = [column[0] for column in connection.description]
        return format_result(Result(names, connection.fetchall()), "markdown")

    def _python(self, block: Block) -> str:
        printed = io.StringIO()
        with _inside(self.folder), contextlib.redirect_stdout(printed):
            exec(compile(block.code, str(block), "exec"), self.names)
        return printed.getvalue()

    def _trustq(self, block: Block, words: list[str]) -> str:
        from trustq.cli import app
        from typer.testing import CliRunner

        runner = CliRunner(env={"COLUMNS": str(self.width), "NO_COLOR": "1"})
        with _inside(self.folder):
            result = runner.invoke(app, words, prog_name="trustq")
        assert result.exit_code == ("fails" in block.notes), (
            f"{block}: trustq {shlex.join(words)} exits {result.exit_code}\n{result.output}"
            f"{result.exception!r}"
        )
        return textwrap.fill(result.stderr, 92) if "fails" in block.notes else result.stdout


def commands(block: Block) -> list[list[str]]:
    """The commands of a console block that are checked or run here, as words."""
    lines = block.code.replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        if "trustq" in words:
            found.append(words[words.index("trustq") :])
        elif words == ["pip", "install", "."] and not block.needs:
            found.append(words)
        elif words and not block.needs:
            raise AssertionError(f"{block}: {line!r} is no trustq command and cannot run here")
    return found


def check_options(words: list[str]) -> None:
    """Raise `click.UsageError` where a command, or an option of it, does not exist."""
    import click
    import typer.main
    from trustq.cli import app

    command: Any = typer.main.get_command(app)
    context = click.Context(command, info_name="trustq")
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
        context = click.Context(command, info_name=command.name, parent=context)
    assert not getattr(command, "commands", {}), f"trustq has no command {' '.join(words)}"
    command.make_parser(context).parse_args(list(words))


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_page(
    page: Path,
    folder: Path,
    demo: Path,
    done: Callable[[Block, str], None],
    *,
    makers: Makers | None = None,
) -> None:
    """Run a page's blocks in `folder`, beside a link to the demo; tell `done` what each printed.

    `makers` make what a block needs, by its note, and return by a command's name further words that
    keep it small; without one such a block is not run. Raises `AssertionError` for the first block
    that fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "demo").exists():
        (folder / "demo").symlink_to(demo.resolve(), target_is_directory=True)
    session = Session(folder, makers=makers)
    try:
        for block in blocks(page):
            done(block, session.run(block))
    finally:
        session.close()


def answered(page: Path, printed: dict[int, str]) -> str:
    """The page with what its blocks printed, by line, in place of what it showed."""
    text = page.read_text("utf-8")

    def again(match: re.Match[str]) -> str:
        block = _block(page, text, match)
        if not block.shown or block.line not in printed:
            return match[0]
        return match[0].removesuffix(block.shown) + shown(block, printed[block.line])

    return _FENCE.sub(again, text)


def shown(block: Block, printed: str) -> str:
    """What a page shows of what a block printed."""
    lines = [line.rstrip() for line in printed.strip("\n").splitlines()]
    if block.kind == "sql":
        table = [line for line in lines if line.startswith("|")]
        return "\n\n<!-- answer -->\n\n" + "\n".join(table) + "\n"
    limit = re.match(r"\n\n(<!-- (\d+) lines -->\n)", block.shown)
    most = int(limit[2]) if limit else len(lines)
    cut = lines[:most] + (["..."] if len(lines) > most else [])
    return "\n\n" + (limit[1] if limit else "") + "```text\n" + "\n".join(cut) + "\n```"


def main() -> None:
    """Run pages and, with --write, put what they print into them."""
    parser = argparse.ArgumentParser(description="Run what the pages show.")
    parser.add_argument("demo", type=Path, help="Folder that trustq demo made.")
    parser.add_argument("pages", nargs="*", help="Pages under docs/pages [default: all].")
    parser.add_argument("--write", action="store_true", help="Write the answers into the pages.")
    asked = parser.parse_args()
    paths = [PAGES / page for page in asked.pages] or sorted(PAGES.rglob("*.md"))
    for page in paths:
        printed: dict[int, str] = {}

        def done(block: Block, text: str, into: dict[int, str] = printed) -> None:
            into[block.line] = text
            print(block, block.kind, len(text.splitlines()), "lines", file=sys.stderr)

        with tempfile.TemporaryDirectory() as folder:
            try:
                run_page(page, Path(folder), asked.demo, done)
            finally:
                if asked.write:
                    page.write_text(answered(page, printed), "utf-8")


if __name__ == "__main__":
    main()
