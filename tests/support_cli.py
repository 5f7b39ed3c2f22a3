"""A command module as an app of its own, without the installed entry point."""

import importlib.util
from pathlib import Path

import typer
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[1]


def invoke(module: str, arguments: list[str]) -> object:
    """Run `cli/<module>.py`: its `app`, or the one function that is called like it."""
    path = ROOT / "cli" / f"{module}.py"
    spec = importlib.util.spec_from_file_location(f"cli_{module}", path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    app = getattr(loaded, "app", None)
    if app is None:
        app = typer.Typer()
        app.command()(getattr(loaded, module))
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
