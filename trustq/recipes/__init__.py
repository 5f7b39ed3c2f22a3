"""Recipes: TOML that holds what differs from the defaults, packaged by name or in a file."""

import dataclasses
import difflib
import itertools
import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from trustq.errors import InputError, NotFound
from trustq.recipes.schema import ExtractRecipe, Recipe, SweepRecipe, declared, kind_name, plain

__all__ = [
    "ExtractRecipe",
    "Recipe",
    "SweepRecipe",
    "load_recipe",
    "load_sweep",
    "packaged",
    "packaged_sweeps",
    "resolved",
]

_VARIANTS = "variants"  # [[sweep.variants]]: tables of keys laid over [sweep], one after another

_PARTS: dict[str, Any] = {"extract": ExtractRecipe, "sweep": SweepRecipe}


def load_recipe(
    recipe: str = "",
    *,
    settings: Sequence[str] = (),
    part: str | None = None,
    values: Mapping[str, Any] | None = None,
) -> Recipe:
    """Read a recipe by packaged name or TOML path, then apply `key=value` settings.

    `values` are settings of `part` as Python values (`a,b` for a list); one that the texts of
    `settings` give another value is refused.

    A setting's key may name its part (`extract.epochs=3`). Without one it is of the part that has
    it; where both do (`noise`), of `part`. For `part="extract"` a `[sweep]` is left out.
    Raises `TrustqError` with file, line, key, what was expected and the nearest known key.

    >>> load_recipe("ce-noisy", settings=["epochs=3"]).extract.epochs
    3
    """
    written = _written(recipe)
    if part == "extract":
        # The caches of a sweep come from the same recipe; its grid does not concern them.
        written.parts["sweep"].clear()
    elif written.variants:
        raise InputError(
            f"{written.origin}: [[sweep.{_VARIANTS}]] make a grid, which `trustq sweep` runs."
        )
    parts: dict[str, dict[str, Any]] = {
        table: {key: _checked(table, key, *found) for key, found in keys.items()}
        for table, keys in written.parts.items()
    }
    if values:
        assert part is not None
        parts[part] |= {
            key: _checked(part, key, _plain(part, key, value), key) for key, value in values.items()
        }
    for text in settings:
        owner, key, value, where = _setting(text, part)
        found = _checked(owner, key, value, where)
        if owner == part and key in (values or {}):
            _require_same(text, key, found, parts[owner][key])
        parts[owner][key] = found
    return Recipe(
        name=written.name,
        extract=ExtractRecipe(**parts["extract"]),
        sweep=SweepRecipe(**parts["sweep"]),
    )


def load_sweep(
    recipe: str, *, settings: Sequence[str] = (), values: Mapping[str, Any] | None = None
) -> list[Recipe]:
    """Every point of a recipe's grid, each a recipe of its own; equal points once.

    `values` are settings of `[sweep]` as Python values; one that the texts of `settings` give
    another value is refused.

    In `[sweep]`, a list where one value is expected is an axis of a grid. `[[sweep.variants]]` are
    laid over `[sweep]` one after another, each with the grid of its own; a setting wins over both.
    Raises `TrustqError` as `load_recipe` does.

    >>> points = load_sweep("", settings=["sweep.head=['linear', 'knn']", "rounds=[1, 4]"])
    >>> [(point.sweep.head, point.sweep.rounds) for point in points]
    [('linear', 1), ('linear', 4), ('knn', 1), ('knn', 4)]
    """
    written = _written(recipe)
    extract = {key: _checked("extract", key, *v) for key, v in written.parts["extract"].items()}
    given = {
        key: _axis(key, _plain("sweep", key, value), key) for key, value in (values or {}).items()
    }
    for text in settings:
        owner, key, value, where = _setting(text, "sweep")
        if owner == "extract":
            extract[key] = _checked(owner, key, value, where)
        else:
            found = _axis(key, value, where)
            if key in (values or {}):
                _require_same(text, key, found, given[key])
            given[key] = found
    points = []
    for variant in written.variants or ({},):
        keys = written.parts["sweep"] | variant
        axes = {key: _axis(key, *found) for key, found in keys.items()} | given
        for chosen in itertools.product(*axes.values()):
            sweep = SweepRecipe(**dict(zip(axes, chosen, strict=True)))
            points.append(Recipe(written.name, ExtractRecipe(**extract), sweep))
    return list(dict.fromkeys(points))


def resolved(recipe: Recipe, part: str) -> dict[str, Any]:
    """A recipe's name and one part with every default filled in, ready for JSON.

    >>> resolved(load_recipe(), "sweep")["sweep"]["folds"]
    5
    """
    return {
        "name": recipe.name,
        part: {k: plain(v) for k, v in vars(getattr(recipe, part)).items()},
    }


def packaged() -> dict[str, str]:
    """Names of the packaged recipes with the comment on their first line."""
    names = {}
    for file in sorted(resources.files("trustq.recipes").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".toml"):
            first = file.read_text("utf-8").splitlines()[0]
            names[file.name.removesuffix(".toml")] = first.removeprefix("#").strip()
    return names


def packaged_sweeps() -> dict[str, str]:
    """Those of the packaged recipes that name the caches they run on."""
    return {name: title for name, title in packaged().items() if _names_caches(load_sweep(name))}


def has_sweep(recipe: str) -> bool:
    """Whether a recipe says what to run on caches: it has a [sweep], or includes one.

    >>> has_sweep("budget-curve"), has_sweep("ce-noisy")
    (True, False)
    """
    written = _written(recipe)
    return bool(written.parts["sweep"] or written.variants)


def require_sweep(recipe: str) -> None:
    """Raise `TrustqError` for a named recipe that says nothing of what to run on caches."""
    if recipe and not has_sweep(recipe):
        raise InputError(
            f"Recipe {recipe} says how networks are trained and has no [sweep] to run on their "
            f"caches. Name one that has, e.g. {', '.join(packaged_sweeps())}, or none, and the "
            "settings.",
            found=recipe,
        )


def _names_caches(points: list[Recipe]) -> bool:
    return all(point.sweep.caches for point in points)


# A value as it was written, and where.
_Found = tuple[Any, str]


@dataclasses.dataclass(frozen=True)
class _Written:
    """What a recipe and those it includes say, unchecked."""

    name: str
    origin: str
    parts: dict[str, dict[str, _Found]]
    variants: tuple[dict[str, _Found], ...]


def _written(recipe: str, *, above: tuple[str, ...] = ()) -> _Written:
    text, origin, name = _read(recipe)
    if (place := str(Path(origin).resolve())) in above:
        raise InputError(f"{origin} includes itself, through {' and '.join(above)}.")
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of numbers without end, tables without end
        raise InputError(f"{origin}: this is not TOML: {error}.") from error
    lines = _lines_of_keys(text)

    def where(*place: str) -> str:
        return f"{origin}, line {lines.get(place, 1)}"

    name = values.pop("name", name)
    if not isinstance(name, str) or not name:
        raise InputError(f"{where('name')}: name is {name!r}, expected text.")
    parts: dict[str, dict[str, _Found]] = {part: {} for part in _PARTS}
    variants: tuple[dict[str, _Found], ...] = ()
    included = values.pop("include", [])
    names = [included] if isinstance(included, str) else included
    if not isinstance(names, list) or not all(isinstance(other, str) for other in names):
        raise InputError(f"{where('include')}: include is {included!r}, expected recipes.")
    for other in names:
        # Files are looked for beside the one that includes them.
        beside = Path(recipe).parent / other
        own = str(beside) if recipe and other.endswith(".toml") else other
        found = _written(own, above=(*above, place))
        parts = {part: keys | found.parts[part] for part, keys in parts.items()}
        variants = found.variants or variants
    for table, content in values.items():
        if table in _PARTS and not isinstance(content, dict):
            raise InputError(
                f"{where(table)}: {table} is {content!r}, expected a table, [{table}]."
            )
        if table not in _PARTS:
            known = ["name", "include", *_PARTS]
            raise InputError(f"{where(table)}: unknown key {table!r}{_nearest(table, known)}.")
        if table == "sweep" and isinstance(content.get(_VARIANTS), list):
            if not all(isinstance(variant, dict) for variant in content[_VARIANTS]):
                raise InputError(
                    f"{where('sweep', _VARIANTS)}: {_VARIANTS} are tables, [[sweep.{_VARIANTS}]]."
                )
            variants = tuple(
                {
                    key: (value, where("sweep", _VARIANTS, str(number), key))
                    for key, value in variant.items()
                }
                for number, variant in enumerate(content.pop(_VARIANTS))
            )
        parts[table] |= {key: (value, where(table, key)) for key, value in content.items()}
    return _Written(name, origin, parts, variants)


def _read(recipe: str) -> tuple[str, str, str]:
    if not recipe:
        return "", "defaults", "default"
    path = Path(recipe)
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise NotFound(f"{path}: no such recipe file.", path=path)
        try:
            return path.read_text("utf-8-sig"), str(path), path.stem
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: this is not TOML; it is no UTF-8 text.", path=path
            ) from error
    known = packaged()
    if recipe not in known:
        raise NotFound(
            f"There is no packaged recipe {recipe!r}{_nearest(recipe, list(known))}. "
            f"Packaged are: {', '.join(known)}. A recipe file ends in .toml.",
            expected=known,
            found=recipe,
        )
    text = resources.files("trustq.recipes").joinpath(f"{recipe}.toml").read_text("utf-8")
    return text, f"packaged recipe {recipe}", recipe


def _setting(text: str, preferred: str | None) -> tuple[str, str, Any, str]:
    name, equals, raw = text.partition("=")
    where = f"setting {text!r}"
    if not equals:
        raise InputError(f"{where}: expected key=value, e.g. epochs=3.")
    part, _, key = name.strip().rpartition(".")
    if part and part not in _PARTS:
        raise InputError(f"{where}: unknown part {part!r}{_nearest(part, list(_PARTS))}.")
    owners = [part] if part else [p for p in _PARTS if key in _fields(p)]
    if preferred in owners:
        owners = [preferred]
    if len(owners) > 1:
        raise InputError(
            f"{where}: {key} is in several parts; say {' or '.join(f'{p}.{key}' for p in owners)}."
        )
    if not owners:
        every = [field for p in _PARTS for field in _fields(p)]
        raise InputError(f"{where}: unknown key {key!r}{_nearest(key, every)}.")
    part = owners[0]
    try:
        value: Any = tomllib.loads(f"value = {raw}")["value"]
    except (ValueError, RecursionError):
        value = raw  # a bare word is text
    if _fields(part).get(key) is str and not isinstance(value, str | list):
        value = raw.strip()
    if get_origin(_fields(part).get(key)) is tuple and isinstance(value, str | int | float):
        value = _split(raw)
    return part, key, value, where


def _require_same(text: str, key: str, value: Any, other: Any) -> None:
    """Refuse a setting that is given twice, as a value and as a text: one would be ignored."""
    if value != other:
        each = other if isinstance(other, list | tuple) else [other]
        texts = [",".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in each]
        raise InputError(
            f"setting {text!r}: `{key}` says {', '.join(texts)}. Leave one of them out.",
            where=key,
            found=text,
        )


def _plain(part: str, key: str, value: Any) -> Any:
    """A setting's Python value as a file would have it: text for a path, a list for `a,b`.

    Numbers, arrays and columns of numpy and pandas are Python's own by `tolist`.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple | range):
        bare = [item.tolist() if hasattr(item, "tolist") else item for item in value]
        return [str(item) if isinstance(item, Path) else item for item in bare]
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str | bool | int | float):
        raise InputError(
            f"{key} is of type {type(value).__name__}, expected text, a number or a list."
        )
    kind = _fields(part).get(key)
    if get_origin(kind) is tuple and not isinstance(value, bool):
        return _split(value) if isinstance(value, str) else [value]
    return value


def _split(text: str) -> list[str]:
    from trustq.core.words import split_names  # numpy, which help does without

    return split_names(text) if '"' in text else [item.strip() for item in text.split(",")]


def _axis(key: str, value: Any, where: str) -> list[Any]:
    """The values of a key of `[sweep]`: a list where one value is expected is an axis."""
    kind = _fields("sweep").get(key)
    if get_origin(kind) is not tuple and isinstance(value, list) and value:
        return [_checked("sweep", key, item, where) for item in value]
    return [_checked("sweep", key, value, where)]


def _checked(part: str, key: str, value: Any, where: str) -> Any:
    known = _fields(part)
    if key not in known:
        raise InputError(f"{where}: unknown key {key!r} in [{part}]{_nearest(key, list(known))}.")
    kind = known[key]
    if kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)  # trusted = 0.1: a text form may be a number alone
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        item_kind = get_args(kind)[0]
        items = [
            str(item) if item_kind is str and isinstance(item, int) else item for item in value
        ]
        if items and all(_is(item, item_kind) for item in items):
            return tuple(items)
    elif _is(value, kind):
        value = float(value) if kind is float else value
        setting = next(one for one in declared(_PARTS[part]) if one.name == key)
        if not setting.is_choice(value):
            choices = setting.every_choice
            raise InputError(
                f"{where}: {key} is {value!r}, expected one of {', '.join(choices)}"
                f"{_nearest(value, choices)}.",
                expected=choices,
                found=value,
            )
        try:
            setting.check(value)
        except InputError as error:
            raise InputError(f"{where}: {error}", where=key, found=value) from None
        return value
    grid = part == "sweep" and isinstance(value, list) and get_origin(kind) is not tuple and value
    hint = " A list is a grid, which `trustq sweep` runs." if grid else ""
    raise InputError(f"{where}: {key} is {value!r}, expected {kind_name(kind)}.{hint}")


def _is(value: Any, kind: Any) -> bool:
    if get_origin(kind) is not None:
        return False  # a list is judged by its items
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def _fields(part: str) -> dict[str, Any]:
    return get_type_hints(_PARTS[part])


def _nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _lines_of_keys(text: str) -> dict[tuple[str, ...], int]:
    # tomllib does not tell lines; the keys of a recipe stand at the start of theirs.
    lines: dict[tuple[str, ...], int] = {}
    part: tuple[str, ...] = ()
    n_variants = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if found := re.match(r"\s*\[\[([^\[\]]+)\]\]", line):
            part = (*(name.strip() for name in found[1].split(".")), str(n_variants))
            n_variants += 1
        elif found := re.match(r"\s*\[([^\[\]]+)\]", line):
            part = (found[1].strip(),)
            lines.setdefault(part, number)
        elif found := re.match(r"""\s*["']?([\w.-]+)["']?\s*=""", line):
            lines.setdefault((*part, *found[1].split(".")), number)
    return lines
