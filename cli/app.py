"""Commands and groups of commands that print a `TrustqError` as a paragraph and exit 1."""

import functools
import inspect
import os
import platform
import re
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup
from typer.models import OptionInfo

import trustq
from trustq.core.prose import say
from trustq.errors import TrustqError

from .hints import RUNNING, in_options
from .plain_values import PlainValues

# Whether the command that runs shows how far it is.
PROGRESS: ContextVar[bool] = ContextVar("PROGRESS", default=True)
# Whether it also prints what it was asked, how long it took and, of an error, where it arose.
VERBOSE: ContextVar[bool] = ContextVar("VERBOSE", default=False)
# Whether it prints nothing but its answer and errors.
QUIET: ContextVar[bool] = ContextVar("QUIET", default=False)


def print_error(error: TrustqError) -> None:
    """Print an error in options of the command that runs, on stderr."""
    say(f"Error: {in_options(str(error))}")


def print_remark(text: str) -> None:
    """Print what is not the answer on stderr, in options of the command, unless --quiet."""
    if not QUIET.get():
        say(in_options(text))


# What values are called in help where an option does not say it: by the first word, by the type.
_BY_WORD = {"Folder": "FOLDER", "Column": "COLUMN", "Columns": "COLUMNS", "Seed": "SEED"}
_BY_TYPE = {Path: "FILE", int: "N", float: "NUMBER", str: "TEXT"}


class Command(PlainValues, TyperCommand):
    """A command whose `TrustqError` is a paragraph in its own options; all else is a bug."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for argument in self._arguments():
            argument.metavar = argument.metavar or argument.name.upper().rstrip(
                "S" * _many(argument)
            )
            # `MANIFEST <path>` says it twice.
            setattr(argument, "display_type_rich", lambda ctx: "")  # noqa: B010

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Options and arguments as the first line of help has them: FOLDER, [OTHER], CACHE..."""
        pieces = [self.options_metavar] if self.options_metavar else []
        for argument in self._arguments():
            name = re.sub(r"^\[(.*)\]$", r"\1", argument.metavar).removesuffix("...")
            name += "..." * _many(argument)
            pieces.append(name if argument.required else f"[{name}]")
        return pieces

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """The help in paragraphs; an example is broken only where it can still be pasted."""
        text = inspect.cleandoc(self.help or "")
        formatter.write_paragraph()
        with formatter.indentation():
            for number, paragraph in enumerate(text.split("\n\n")):
                if number:
                    formatter.write_paragraph()
                if paragraph.startswith("Example:"):
                    _write_example(" ".join(paragraph.split()), formatter)
                else:
                    formatter.write_text(paragraph)

    def _require_places(self, ctx: Any) -> None:
        """Refuse a file where a folder is written and the reverse, before any work."""
        from trustq.core.atomic_files import require_file_place, require_folder_place

        for option in self.params:
            place = ctx.params.get(option.name)
            if option.param_type_name == "option" and option.name in ("out", "results") and place:
                is_folder = option.metavar == "FOLDER"
                (require_folder_place if is_folder else require_file_place)(Path(place))

    def _arguments(self) -> list[Any]:
        return [one for one in self.params if one.param_type_name == "argument"]

    def invoke(self, ctx: Any) -> Any:
        RUNNING.set(ctx)
        if VERBOSE.get():
            print_remark(_asked(ctx))
        began = time.monotonic(), sum(os.times()[:4])
        try:
            self._require_places(ctx)
            return super().invoke(ctx)
        except TrustqError as error:
            if VERBOSE.get():
                print("".join(traceback.format_exception(error)), file=sys.stderr)
            print_error(error)
            raise typer.Exit(1) from error
        finally:
            if VERBOSE.get():
                seconds, busy = time.monotonic() - began[0], sum(os.times()[:4]) - began[1]
                print_remark(f"Took {seconds:.1f} s, {busy:.1f} s of processors.")


def _many(argument: Any) -> bool:
    return bool(argument.nargs != 1)


def _write_example(text: str, formatter: Any) -> None:
    margin = " " * formatter.current_indent
    # What stands in quotes stays on one line: in single ones a backslash is itself.
    together = re.sub(r"\"[^\"]*\"|'[^']*'", lambda found: found[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(
        together,
        formatter.width - len(margin) - len(" \\"),
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    formatter.write(margin + f" \\\n{margin}".join(lines).replace("\0", " ") + "\n")


class Group(PlainValues, TyperGroup):
    """A group of commands, which say so where Ctrl-C stops them, and exit as it does."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            say("\nStopped. Every file written so far is whole; the same command starts over.")
            raise typer.Exit(130) from stop


class App(typer.Typer):
    """A group of such commands, or of none yet: `lazy_commands`."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("cls", Group)
        super().__init__(rich_markup_mode=None, **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """Register a function as a command, as Typer does."""
        options.setdefault("cls", Command)
        register = super().command(name, **options)

        def registered(function: Any) -> Any:
            command = with_options(function)
            _name_values(command)
            register(command)
            return function

        return registered


def with_options(function: Any) -> Any:
    """A command that takes --verbose, and the fields of each bundle of options as options.

    A bundle is a parameter annotated with a dataclass, see `options`; the command gets it filled.
    """
    own: list[inspect.Parameter] = []
    bundles: dict[str, Any] = {}
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        kind = parameter.annotation
        if not (isinstance(kind, type) and is_dataclass(kind)):
            own.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        bundles[parameter.name] = kind
        own.extend(
            inspect.signature(kind, eval_str=True)
            .parameters[field.name]
            .replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for field in fields(kind)
        )

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        del given["verbose"]  # its callback did all there is to do
        for name, kind in bundles.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        return function(**given)

    added = inspect.Parameter(
        "verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_VERBOSE
    )
    signature = inspect.Signature([*own, added])
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return command


def _set_verbose(value: bool) -> bool:
    VERBOSE.set(value)
    return value


_VERBOSE = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        callback=_set_verbose,
        help="Print also what was asked, how long it took and where an error arose.",
    ),
]


def _asked(ctx: Any) -> str:
    given = [
        f"{name}={value!r}"
        for name, value in ctx.params.items()
        if ctx.get_parameter_source(name).name != "DEFAULT"
    ]
    system = f"trustq {trustq.__version__}, Python {platform.python_version()}, {sys.platform}"
    return f"{system}\n{ctx.command_path}: {', '.join(given) or 'no options'}"


def lazy_commands(package: str, places: Mapping[str, tuple[str, str]]) -> type[TyperGroup]:
    """A group whose commands are imported when they are asked for.

    `places` has the `module.name` of each command, a function or an app, and its line in the list.
    """

    class Lazy(Group):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.commands = _Commands(package, {name: place for name, (place, _) in places.items()})

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            with formatter.section("Commands"):
                formatter.write_dl([(name, line) for name, (_, line) in places.items()])

    return Lazy


class _Commands(dict[str, Any]):
    """Commands by name, of which one that is looked up is there."""

    def __init__(self, package: str, places: Mapping[str, str]) -> None:
        super().__init__(dict.fromkeys(places))
        self.package = package
        self.places = places

    def __getitem__(self, name: str) -> Any:
        if super().__getitem__(name) is None:
            module, _, attribute = self.places[name].partition(".")
            found = getattr(import_module(f"{self.package}.{module}"), attribute)
            alone = App()
            if isinstance(found, typer.Typer):
                alone.add_typer(found, name=name)
            else:
                alone.command(name)(found)
            self[name] = typer.main.get_group(alone).commands[name]
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default

    def items(self) -> Any:
        return [(name, self[name]) for name in self]


def _name_values(function: Any) -> None:
    for hint in get_type_hints(function, include_extras=True).values():
        option = next((one for one in get_args(hint) if isinstance(one, OptionInfo)), None)
        if option is not None and option.metavar is None:
            word = (option.help or "").partition(" ")[0]
            kinds = {kind for one in get_args(hint)[:1] for kind in (one, *_inner(one))}
            by_type = next((name for kind, name in _BY_TYPE.items() if kind in kinds), None)
            option.metavar = by_type and _BY_WORD.get(word, by_type)


def _inner(kind: Any) -> list[Any]:
    return [inner for one in get_args(kind) for inner in (one, *_inner(one))]
