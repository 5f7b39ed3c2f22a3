"""The settings of `[sweep]` as options, made from their declaration in `trustq.recipes.schema`."""

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from trustq.recipes.schema import Setting, plain, sweep_settings

# Options that people write in the singular.
_ALSO = {"budgets": "--budget"}


def with_sweep_settings(command: Callable[..., None], *, left_out: Sequence[str]) -> Any:
    """A command that takes every setting of `[sweep]` but some as an option.

    The command itself has a parameter `values`: the settings that were given, typed.
    """
    signature = inspect.signature(command, eval_str=True)
    settings = [s for s in sweep_settings() if s.name not in left_out]

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        values = {s.name: given.pop(s.name) for s in settings}
        command(**given, values={name: v for name, v in values.items() if v not in (None, [])})

    own = [p for p in signature.parameters.values() if p.name != "values"]
    options = [
        inspect.Parameter(s.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_type(s))
        for s in settings
    ]
    place = 2  # after the files and the recipe, before what is of the command itself
    parameters = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for p in (*own[:place], *options, *own[place:])
    ]
    with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_options


def _type(setting: Setting) -> Any:
    flag = f"--{setting.name.replace('_', '-')}"
    names = [_ALSO[setting.name]] if setting.name in _ALSO else []
    if setting.kind is bool:
        names.append(f"{flag}/--no-{flag[2:]}")
    else:
        names.append(flag)
    option = typer.Option(*names, help=_help(setting), autocompletion=_completion(setting))
    if setting.name == "metadata":
        return Annotated[list[Path] | None, option]
    kinds: dict[Any, Any] = {bool: bool | None, int: int | None, float: float | None}
    return Annotated[kinds.get(setting.kind, str | None), option]


def _help(setting: Setting) -> str:
    meaning = setting.meaning[0].upper() + setting.meaning[1:]
    said = [meaning.rstrip(".") + "."]
    if setting.choices or str(setting.range):
        said.append(f"Values: {setting.accepts}.")
    default = plain(setting.default)
    text = ",".join(map(str, default)) if isinstance(default, list) else f"{default}".lower()
    if text:
        said.append(f"[default: {text}]")
    return " ".join(said)


def _completion(setting: Setting) -> Callable[[str], list[str]] | None:
    if not setting.choices:
        return None

    def complete(incomplete: str) -> list[str]:
        names = [choice.removesuffix("FILE") for choice in setting.every_choice]
        return [name for name in names if name.startswith(incomplete)]

    return complete
