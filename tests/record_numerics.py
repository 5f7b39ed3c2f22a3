"""Digests of the code that makes numbers, for `test_numerics.py`.

Run after such code has changed: raise NUMERICS in trustq/experiments/run.py if a number of an
existing setting changes, then record:

    python tests/record_numerics.py
"""

import ast
import hashlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORD = Path(__file__).with_name("numerics.json")

START = "experiments/run.py"  # what makes a run; all that it imports makes its numbers

# Of those, what carries numbers without making any: files, formats, names, errors, result tables.
CARRIERS = ("errors.py", "core/", "recipes/", "results/", "store/")
MAKERS_AMONG = ("core/generators.py",)


def source_digests() -> dict[str, str]:
    """Digest of each module's code, without its comments, docstrings and layout."""
    files = [path for path in modules_of_a_run() if _makes_numbers(path)]
    return {
        path.relative_to(ROOT).as_posix(): code_digest(path.read_text("utf-8")) for path in files
    }


def modules_of_a_run() -> list[Path]:
    """Every module of trustq that `START` imports, directly or through others."""
    found: set[Path] = set()
    left = [ROOT / "trustq" / START]
    while left:
        path = left.pop()
        if path not in found:
            found.add(path)
            left += _imported(path)
    return sorted(found)


def _imported(path: Path) -> set[Path]:
    modules: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                modules |= _files(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            package = node.module.split(".")
            for alias in node.names:
                modules |= _files([*package, alias.name]) or _files(package)
    return modules


def _files(names: list[str]) -> set[Path]:
    path = ROOT.joinpath(*names)
    files = (path.with_suffix(".py"), path / "__init__.py")
    return {file for file in files if names[0] == "trustq" and len(names) > 1 and file.is_file()}


def _makes_numbers(path: Path) -> bool:
    name = path.relative_to(ROOT / "trustq").as_posix()
    return name in MAKERS_AMONG or not name.startswith(CARRIERS)


def code_digest(source: str) -> str:
    """Digest of what the code does, as its syntax tree."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                body[0] = ast.Expr(ast.Constant(""))
    # Without what a later Python adds to every node of some kind.
    text = ast.dump(tree).replace(", type_params=[]", "").replace(", type_ignores=[]", "")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


if __name__ == "__main__":
    from trustq.experiments.run import NUMERICS

    RECORD.write_text(json.dumps({"numerics": NUMERICS, "code": source_digests()}, indent=1) + "\n")
    print(f"recorded for NUMERICS = {NUMERICS}", file=sys.stderr)
