"""What the library says in its own settings, said in options of the command line.

The library writes a setting as a recipe does, in backticks: `normalize=l1`, `references=false`,
`sample_ids`. A command's own options are the only table of names: `normalize=l1` is `--normalize
l1` in a command that has such an option, and `--set folds=5` where only `--set` takes it.
"""

import re
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

# Context of the command that runs. Typer has a click of its own, whose current context it hides.
RUNNING: ContextVar[Any] = ContextVar("RUNNING", default=None)

_SETTING = re.compile(r"`([a-z]\w*)(?:=([^`]*))?`")
_NAMED_COMMAND = re.compile(r"`trustq ([a-z ]+)`")
_FALSE = ("false", "no", "off")
# Settings that some commands have under another name, with what stands for their value there.
_OTHER_NAMES = {"folds": ("calibrate", "cv:{}")}


def in_options(text: str) -> str:
    """Say the settings in backticks of a message as options of the command that runs.

    A message may name another command of trustq in backticks, whose options are tried as well.
    What is no option of either stays as it is.
    """
    context = RUNNING.get()
    if context is None:
        return text
    commands = [context.command, *_named_commands(text, context)]
    return _SETTING.sub(lambda found: _option(found[1], found[2], commands) or found[0], text)


def _named_commands(text: str, context: Any) -> Iterator[Any]:
    for words in _NAMED_COMMAND.findall(text):
        command = context.find_root().command
        for word in words.split():
            command = getattr(command, "commands", {}).get(word)
            if command is None:
                break
        else:
            yield command


def _option(name: str, value: str | None, commands: list[Any]) -> str | None:
    for command in commands:
        options = [one for one in command.params if one.param_type_name == "option"]
        for option in options:
            flags = [flag for flag in option.opts if flag.startswith("--")]
            if f"--{name.replace('_', '-')}" in flags:
                if option.is_flag:
                    off = value in _FALSE and option.secondary_opts
                    return str(option.secondary_opts[0] if off else flags[0])
                return flags[0] if value is None else f"{flags[0]} {_quoted(value)}"
        takes_any = any("--set" in option.opts for option in options)
        if takes_any and value is not None and _is_setting(name):
            return f"--set {_quoted(f'{name}={value}')}"
    if name in _OTHER_NAMES and value is not None:
        other, form = _OTHER_NAMES[name]
        return _option(other, form.format(value), commands)
    return None


def _is_setting(name: str) -> bool:
    from dataclasses import fields

    from trustq.recipes import ExtractRecipe, SweepRecipe

    return any(
        field.name == name for kind in (ExtractRecipe, SweepRecipe) for field in fields(kind)
    )


def _quoted(value: str) -> str:
    if re.fullmatch(r"[\w./:,@%+={}-]+", value):
        return value
    quote = "'" if '"' in value else '"'
    return f"{quote}{value}{quote}"
