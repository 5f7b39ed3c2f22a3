"""A command module as an app of its own, without the installed entry point."""

import importlib
import importlib.util
import sys
from pathlib import Path

import typer
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[1]
_PACKAGE = "cli_of_this_tree"  # a package, so that its modules find their siblings


def invoke(module: str, arguments: list[str]) -> object:
    """Run `cli/<module>.py`: its `app`, or the one function that is called like it."""
    if _PACKAGE not in sys.modules:
        spec = importlib.util.spec_from_file_location(_PACKAGE, ROOT / "cli" / "__init__.py")
        assert spec is not None and spec.loader is not None
        package = sys.modules[_PACKAGE] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
    loaded = importlib.import_module(f"{_PACKAGE}.{module}")
    app = getattr(loaded, "app", None)
    if app is None:
        app = typer.Typer()
        with_options = importlib.import_module(f"{_PACKAGE}.app").with_options
        app.command()(with_options(getattr(loaded, module)))
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
