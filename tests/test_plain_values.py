"""Options that trustq reads itself have the values that Typer makes of them."""

import contextvars
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from trustq.cli import app
from trustq.cli.plain_values import _plain, _plain_kinds

TEXTS = (
    *("7", "-7", "007", "-0", "7.5", "007.50", "7.", ".5", "1e3", "1_000", " 7 ", "9" * 30, "inf"),
    *("", " ", "a b", "é", "a\0b", "\udcff", "no such file", ".", "/", "a,b", "true", "--x", "7\n"),
    *("\N{ARABIC-INDIC DIGIT SEVEN}", "0.1", "123456789012345.123456789012345"),
)


def _params(command: Any) -> Iterator[tuple[Any, Any]]:
    yield from ((command, param) for param in command.params)
    for inner in dict(getattr(command, "commands", {}).items()).values():
        yield from _params(inner)


def _read(read: Any, given: Any, ctx: Any) -> tuple[Any, ...]:
    try:
        value = contextvars.copy_context().run(read, ctx, given)
    except Exception as error:
        return type(error), str(error)
    one = value[0] if isinstance(value, list | tuple) and value else value
    return type(one), list(value) if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("text", [None, "default", *TEXTS], ids=ascii)
def test_an_option_has_the_value_that_typer_makes_of_its_text(text: str | None) -> None:
    root = typer.main.get_command(app)
    ctx = root.make_context("trustq", [], resilient_parsing=True)
    n_read = 0
    for command, param in _params(root):
        command.get_params(ctx)
        typers = type(param).process_value.__get__(param)
        assert param.process_value != typers
        given: Any = text
        if text == "default":
            given = param.default
        elif text is not None and (param.multiple or param.nargs == -1):
            given = (text, text)
        if text not in (None, "default") and param.callback is not None:
            continue  # its callback may end the process
        n_read += 1
        assert _read(param.process_value, given, ctx) == _read(typers, given, ctx), param.name
    assert n_read > 500


def test_a_file_that_cannot_be_read_is_left_to_typer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _plain(Path, str(tmp_path)) == tmp_path
    monkeypatch.setattr("os.access", lambda *_: False)
    assert _plain(Path, str(tmp_path)) is None
    assert _plain(Path, str(tmp_path / "none")) == tmp_path / "none"


def test_an_option_with_settings_of_its_own_is_left_to_typer() -> None:
    from typing import Annotated

    def command(
        plain: Annotated[int | None, typer.Option(help="One.")] = None,
        bounded: Annotated[int, typer.Option(min=1)] = 1,
        there: Annotated[Path | None, typer.Option(exists=True)] = None,
        parsed: Annotated[str, typer.Option(parser=str.upper)] = "",
        many: Annotated[list[Path] | None, typer.Option()] = None,
    ) -> None: ...

    assert _plain_kinds(command) == {"plain": int, "many": list[Path], "return": type(None)}
