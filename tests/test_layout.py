"""How the package is laid out: few entries, all in a layer, and private names stay at home."""

import ast
import importlib
import importlib.util
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "trustq"
MOST_ENTRIES = 25


def _entries() -> set[str]:
    return {entry.name for entry in PACKAGE.iterdir() if entry.name != "__pycache__"}


def _modules() -> list[Path]:
    return sorted([*PACKAGE.rglob("*.py"), *(ROOT / "cli").rglob("*.py")])


def test_the_package_has_few_entries_and_the_contracts_name_each() -> None:
    assert len(_entries()) <= MOST_ENTRIES, sorted(_entries())
    modules = {name.removesuffix(".py") for name in _entries()} - {"__init__", "py.typed"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    layers, torch = project["tool"]["importlinter"]["contracts"]
    named = [name for line in layers["layers"] for name in line.split(" : ")]
    assert sorted(named) == sorted(modules)
    free = {f"trustq.{name}" for name in modules - {"extraction"}}  # `deploy` loads it by name
    assert set(torch["source_modules"]) == free


def test_the_library_does_not_import_the_command_line() -> None:
    # import-linter sees `trustq` alone: the command line lies in a folder of its own.
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                imported = [f"{node.module}.{name.name}" for name in node.names]
            elif isinstance(node, ast.Import):
                imported = [name.name for name in node.names]
            else:
                continue
            assert not [name for name in imported if f"{name}.".startswith("trustq.cli.")], path


def test_no_module_takes_a_private_name_of_another() -> None:
    found = []
    for path in _modules():
        tree = ast.parse(path.read_text("utf-8"))
        taken = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        found += [(path, name.name) for node in taken for name in node.names if _is_own(name.name)]
        # `from trustq.metrics import selective`, then `selective._steps`.
        imported = {name.asname or name.name for node in taken for name in node.names}
        found += [
            (path, f"{node.value.id}.{node.attr}")
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in imported
            and _is_own(node.attr)
        ]
    assert not found


def _is_own(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_former_names_of_modules_still_import() -> None:
    former = importlib.import_module("trustq.bootstrap")
    assert (
        former.figure_intervals
        is importlib.import_module("trustq.evaluation.bootstrap").figure_intervals
    )


def test_scripts_beside_the_tests_import_names_that_exist() -> None:
    # They run by hand, for minutes or hours: a name that was moved would be noticed by its user.
    scripts = [*(ROOT / "tests" / "benchmarks").glob("*.py"), *ROOT.glob("experiments/*/*.py")]
    assert len(scripts) > 25
    missing = []
    for script in scripts:
        tree = ast.parse(script.read_text("utf-8"))
        tried = {
            node for one in ast.walk(tree) if isinstance(one, ast.Try) for node in ast.walk(one)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or node in tried or node.level:
                continue
            if (node.module or "").split(".")[0] not in ("trustq", "cli"):
                continue
            module = importlib.import_module(str(node.module))
            missing += [
                f"{script.name}: {node.module}.{alias.name}"
                for alias in node.names
                if not hasattr(module, alias.name) and not _is_module(f"{node.module}.{alias.name}")
            ]
    assert missing == []


def _is_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def test_cells_of_tables_keep_their_words_whole_on_a_phone() -> None:
    # `anywhere` lets a column shrink to one letter; `break-word` does not.
    for page in (ROOT / "trustq").rglob("*.html"):
        text = page.read_text("utf-8")
        body = next((line for line in text.splitlines() if line.startswith("body {")), "")
        if "overflow-wrap: anywhere" in body and "<table" in text:
            table = next(line for line in text.splitlines() if line.startswith("table {"))
            assert "overflow-wrap: normal" in table, page.name
