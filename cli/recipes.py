"""`trustq recipes`: what recipes there are, what one says, and every setting."""

from typing import Annotated, Any

import typer

from .app import App
from .output import print_table

app = App(no_args_is_help=True, help="List recipes, show one resolved, explain settings.")

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_recipes(as_json: _Json = False) -> None:
    """List the packaged recipes and what each is for.

    Example: trustq recipes list
    """
    from trustq.recipes import has_sweep, packaged, packaged_sweeps

    sweeps = packaged_sweeps()
    rows = [
        {
            "recipe": name,
            "sweep": "yes" if name in sweeps else "name caches" if has_sweep(name) else "no",
            "title": title,
        }
        for name, title in packaged().items()
    ]
    _print(rows, as_json)


@app.command()
def show(
    recipe: Annotated[str, typer.Argument(help="Packaged recipe or TOML file.")] = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any key, e.g. --set folds=10.")
    ] = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only settings that differ from the defaults.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Print a recipe with every default filled in; a star marks what differs from the default.

    A grid has one block of rows for each of its points.

    Example: trustq recipes show small-cpu --changed
    """
    from trustq.recipes import load_sweep
    from trustq.recipes.schema import declared, plain

    points = load_sweep(recipe, settings=settings or [])
    rows: list[dict[str, Any]] = []
    for number, point in enumerate(points, start=1):
        for part in ("extract", "sweep"):
            values = getattr(point, part)
            for setting in declared(type(values)):
                value = getattr(values, setting.name)
                differs = value != setting.default
                # Points of a grid share their extraction.
                if (changed and not differs) or (part == "extract" and number > 1):
                    continue
                row = {"point": number} if len(points) > 1 else {}
                row |= {"key": f"{part}.{setting.name}", "value": plain(value)}
                row |= {"differs": "*" if differs else "", "default": plain(setting.default)}
                rows.append(row)
    _print(rows, as_json)


@app.command()
def keys(
    part: Annotated[str, typer.Argument(help="extract or sweep; both without it.")] = "",
    as_json: _Json = False,
) -> None:
    """Explain every setting: type, default, accepted values, meaning.

    Example: trustq recipes keys sweep
    """
    from trustq.errors import InputError
    from trustq.recipes.schema import ExtractRecipe, SweepRecipe, declared, kind_name, plain

    parts = {"extract": ExtractRecipe, "sweep": SweepRecipe}
    if part and part not in parts:
        raise InputError(
            f"part is {part!r}, expected extract or sweep.", found=part, expected=tuple(parts)
        )
    rows = [
        {
            "key": f"{name}.{s.name}",
            "type": kind_name(s.kind),
            "default": plain(s.default),
            "values": ", ".join(s.choices) or str(s.range),
            "meaning": s.meaning,
        }
        for name, cls in parts.items()
        if part in ("", name)
        for s in declared(cls)
    ]
    _print(rows, as_json)


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    import json

    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    print_table(
        [
            {k: ",".join(map(str, v)) if isinstance(v, list) else v for k, v in r.items()}
            for r in rows
        ]
    )
