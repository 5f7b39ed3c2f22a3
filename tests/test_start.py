"""Commands start soon: each loads what it uses, when it uses it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import make_cache
from trustq.cli import app
from typer.testing import CliRunner

from trustq.store import write_cache

# Together three seconds of processor time, where the rest of a start takes one.
NOT_TO_START = (
    "cleanlab",
    "cv2",
    "jinja2",
    "joblib",
    "matplotlib",
    "pandas",
    "polars",
    "scipy.optimize",
    "scipy.stats",
    "sklearn",
    "starlette",
    "torch",
    "xgboost",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    write_cache(folder / "c.h5", make_cache())
    return folder / "c.h5"


@pytest.mark.parametrize(
    ("words", "also_not"),
    [
        (("repair", "c.h5", "--arms", "none,random", "--budget", "8"), ("PIL",)),
        (("audit", "labels", "c.h5"), ("trustq.extraction", "trustq.review")),
        (("sql", "SELECT count(*) FROM runs"), ("numpy", "scipy", "h5py", "pydantic_core")),
        (("recipes", "list"), ("numpy", "scipy", "pydantic_core")),
        (("--help",), ("numpy", "duckdb", "pydantic_core", "trustq.experiments")),
    ],
    ids=lambda value: value[0] if value[0].isalpha() or value[0] == "--help" else "",
)
def test_a_command_loads_what_it_uses(
    cache: Path, words: tuple[str, ...], also_not: tuple[str, ...]
) -> None:
    code = (
        "import atexit, sys\n"
        f"names = {(*NOT_TO_START, *also_not)!r}\n"
        "shown = lambda: print(*(n for n in names if n in sys.modules), file=sys.stderr)\n"
        "atexit.register(shown)\n"
        f"sys.argv = ['trustq', *{words!r}]\n"
        "from trustq.cli import app\n"
        "app()\n"
    )
    environment = os.environ | {"NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cache.parent,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "", done.stderr


def test_import_loads_nothing() -> None:
    code = "import sys; before = set(sys.modules); import trustq; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not [name for name in done.stdout.split() if name.split(".")[0] in ("numpy", "typer")]


def test_verbose_says_what_was_asked_and_where_an_error_arose(tmp_path: Path) -> None:
    words = ["sql", "SELECT 1", "--results", str(tmp_path)]
    plain, verbose = CliRunner().invoke(app, words), CliRunner().invoke(app, [*words, "-v"])
    assert plain.exit_code == verbose.exit_code == 1
    assert plain.stderr.startswith("Error: ")
    assert verbose.stderr.startswith("trustq 0.1.0, Python ")
    assert "trustq sql: " in verbose.stderr.replace("app sql", "trustq sql")
    assert "query='SELECT 1'" in verbose.stderr and "Took " in verbose.stderr
    assert "in check_folder" in verbose.stderr and plain.stderr in verbose.stderr


def test_a_command_that_is_misspelt_is_told_which_is_meant() -> None:
    done = CliRunner().invoke(app, ["repiar"])
    assert done.exit_code == 2 and "Did you mean 'repair'" in done.stderr
