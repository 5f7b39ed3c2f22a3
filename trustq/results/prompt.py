"""The interactive prompt of `trustq sql`: history, completion, one connection per question."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

from trustq.errors import TrustqError
from trustq.results.query import describe_results, run_query
from trustq.results.show import format_result

HELP = """\
End a query with ; or an empty line. \\t lists the tables, \\q or Ctrl-D leaves."""

_WORDS = (
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP",
    "BY",
    "ORDER",
    "LIMIT",
    "JOIN",
    "USING",
    "HAVING",
    "WITH",
    "DISTINCT",
    "BETWEEN",
    "CASE",
    "avg",
    "count",
    "max",
    "min",
    "sum",
    "stddev_samp",
    "median",
    "round",
    "DESCRIBE",
    "SUMMARIZE",
    "SHOW",
    "EXPLAIN",
)


def prompt(
    folder: Path,
    *,
    history: Path,
    terminal: dict[str, Any] | None = None,
    tables: Mapping[str, Path] | None = None,
    metadata: Sequence[Path] = (),
) -> None:
    """Ask for queries and print their answers until the user leaves.

    Each query sees what was committed before it. Errors are printed and the prompt goes on.
    `tables` and `metadata` are as in `run_query`. `terminal` goes to prompt_toolkit's session (its
    input and output). Raises `TrustqError` for a folder without results.
    """
    from prompt_toolkit import PromptSession
    from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.lexers import PygmentsLexer
    from pygments.lexers.sql import SqlLexer

    joined: dict[str, Any] = {"tables": tables or {}, "metadata": metadata}
    history.parent.mkdir(parents=True, exist_ok=True)
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(history)),
        auto_suggest=AutoSuggestFromHistory(),
        completer=completer(folder, **joined),
        lexer=PygmentsLexer(SqlLexer),
        complete_while_typing=False,
        **(terminal or {}),
    )
    print(HELP)
    lines: list[str] = []
    while True:
        try:
            line = session.prompt("trustq> " if not lines else "     -> ")
        except KeyboardInterrupt:
            lines = []  # Ctrl-C drops what was typed
            continue
        except EOFError:
            return
        if not lines and line.strip() in ("\\q", "exit", "quit"):
            return
        if not lines and line.strip() == "\\t":
            print(
                format_result(describe_results(folder, **joined), width=get_terminal_size().columns)
            )
            continue
        lines.append(line)
        query = "\n".join(lines).strip()
        if query and (query.endswith(";") or not line.strip()):
            lines = []
            _answer(folder, query, joined)
        elif not query:
            lines = []


def completer(folder: Path, **joined: Any) -> Any:
    """A prompt_toolkit completer of table and column names, and of the words of SQL."""
    from prompt_toolkit.completion import WordCompleter

    names: list[str] = []
    for table, _, columns in describe_results(folder, **joined).rows:
        names += [table, *columns.split(", ")]
    return WordCompleter(list(dict.fromkeys([*names, *_WORDS])), ignore_case=True)


def _answer(folder: Path, query: str, joined: dict[str, Any]) -> None:
    try:
        answer = run_query(folder, query, **joined)
        print(format_result(answer, width=get_terminal_size().columns))
    except TrustqError as error:
        print(f"Error: {error}")
    except KeyboardInterrupt:
        print("Stopped.")
