"""Recipes: TOML that holds what differs from the defaults, packaged by name or in a file."""

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from trustq.errors import TrustqError
from trustq.recipes.schema import ExtractRecipe, Recipe, SweepRecipe

__all__ = [
    "ExtractRecipe",
    "Recipe",
    "SweepRecipe",
    "load_recipe",
    "packaged",
    "resolved",
]

_PARTS: dict[str, Any] = {"extract": ExtractRecipe, "sweep": SweepRecipe}


def load_recipe(
    recipe: str = "", *, settings: Sequence[str] = (), part: str | None = None
) -> Recipe:
    """Read a recipe by packaged name or TOML path, then apply `key=value` settings.

    A setting's key may name its part (`extract.epochs=3`). Without one it is of the part that has
    it; where both do (`noise`), of `part`.
    Raises `TrustqError` with file, line, key, what was expected and the nearest known key.

    >>> load_recipe("ce-noisy", settings=["epochs=3"]).extract.epochs
    3
    """
    text, origin, name = _read(recipe)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TrustqError(f"{origin}: this is not TOML: {error}.") from error
    lines = _lines_of_keys(text)
    name = values.pop("name", name)
    parts: dict[str, dict[str, Any]] = {"extract": {}, "sweep": {}}
    for table, content in values.items():
        where = f"{origin}, line {lines.get((table,), 1)}"
        if table not in _PARTS or not isinstance(content, dict):
            raise TrustqError(
                f"{where}: unknown key {table!r}{_nearest(table, ['name', *_PARTS])}."
            )
        for key, value in content.items():
            where = f"{origin}, line {lines.get((table, key), 1)}"
            parts[table][key] = _checked(table, key, value, where=where)
    for text in settings:
        owner, key, value = _setting(text, part)
        parts[owner][key] = value
    return Recipe(
        name=name, extract=ExtractRecipe(**parts["extract"]), sweep=SweepRecipe(**parts["sweep"])
    )


def resolved(recipe: Recipe, part: str) -> dict[str, Any]:
    """A recipe's name and one part with every default filled in, ready for JSON.

    >>> resolved(load_recipe(), "sweep")["sweep"]["folds"]
    5
    """
    return {"name": recipe.name, part: _plain(dataclasses.asdict(getattr(recipe, part)))}


def packaged() -> dict[str, str]:
    """Names of the packaged recipes with the comment on their first line."""
    names = {}
    for file in sorted(resources.files("trustq.recipes").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".toml"):
            first = file.read_text("utf-8").splitlines()[0]
            names[file.name.removesuffix(".toml")] = first.removeprefix("#").strip()
    return names


def _read(recipe: str) -> tuple[str, str, str]:
    if not recipe:
        return "", "defaults", "default"
    path = Path(recipe)
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise TrustqError(f"{path}: no such recipe file.")
        try:
            return path.read_text("utf-8"), str(path), path.stem
        except UnicodeDecodeError as error:
            raise TrustqError(f"{path}: this is not TOML; it is no UTF-8 text.") from error
    known = packaged()
    if recipe not in known:
        raise TrustqError(
            f"There is no packaged recipe {recipe!r}{_nearest(recipe, list(known))}. "
            f"Packaged are: {', '.join(known)}. A recipe file ends in .toml."
        )
    text = resources.files("trustq.recipes").joinpath(f"{recipe}.toml").read_text("utf-8")
    return text, f"packaged recipe {recipe}", recipe


def _setting(text: str, preferred: str | None) -> tuple[str, str, Any]:
    name, equals, raw = text.partition("=")
    where = f"--set {text}"
    if not equals:
        raise TrustqError(f"{where}: expected key=value, e.g. --set epochs=3.")
    part, _, key = name.strip().rpartition(".")
    if part and part not in _PARTS:
        raise TrustqError(f"{where}: unknown part {part!r}{_nearest(part, list(_PARTS))}.")
    owners = [part] if part else [p for p in _PARTS if key in _fields(p)]
    if preferred in owners:
        owners = [preferred]
    if len(owners) > 1:
        raise TrustqError(
            f"{where}: {key} is in several parts; say {' or '.join(f'{p}.{key}' for p in owners)}."
        )
    if not owners:
        every = [field for p in _PARTS for field in _fields(p)]
        raise TrustqError(f"{where}: unknown key {key!r}{_nearest(key, every)}.")
    part = owners[0]
    try:
        value: Any = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw  # a bare word is text
    if _fields(part).get(key) is str and not isinstance(value, str):
        value = raw.strip()
    if get_origin(_fields(part).get(key)) is tuple and isinstance(value, str | int | float):
        value = [item.strip() for item in raw.split(",")]
    return part, key, _checked(part, key, value, where=where)


def _checked(part: str, key: str, value: Any, *, where: str) -> Any:
    known = _fields(part)
    if key not in known:
        raise TrustqError(f"{where}: unknown key {key!r} in [{part}]{_nearest(key, list(known))}.")
    kind = known[key]
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        item_kind = get_args(kind)[0]
        items = [
            str(item) if item_kind is str and isinstance(item, int) else item for item in value
        ]
        if items and all(_is(item, item_kind) for item in items):
            return tuple(items)
    elif _is(value, kind):
        value = float(value) if kind is float else value
        choices = _metadata(part, key)["choices"]
        if choices and value not in choices:
            raise TrustqError(
                f"{where}: {key} is {value!r}, expected one of {', '.join(choices)}"
                f"{_nearest(value, choices)}."
            )
        return value
    raise TrustqError(f"{where}: {key} is {value!r}, expected {_named(kind)}.")


def _is(value: Any, kind: Any) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def _named(kind: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return names.get(kind, "a list of texts, not empty")


def _fields(part: str) -> dict[str, Any]:
    return get_type_hints(_PARTS[part])


def _metadata(part: str, key: str) -> Any:
    return next(f.metadata for f in dataclasses.fields(_PARTS[part]) if f.name == key)


def _nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _lines_of_keys(text: str) -> dict[tuple[str, ...], int]:
    # tomllib does not tell lines; the keys of a recipe stand at the start of theirs.
    lines: dict[tuple[str, ...], int] = {}
    part: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if found := re.match(r"\s*\[([^\[\]]+)\]", line):
            part = (found[1].strip(),)
            lines.setdefault(part, number)
        elif found := re.match(r"""\s*["']?([\w.-]+)["']?\s*=""", line):
            lines.setdefault((*part, *found[1].split(".")), number)
    return lines


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in values.items()
    }
