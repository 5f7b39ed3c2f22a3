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

# Everything that a figure, a purchase or a draw of a cell goes through.
PATTERNS = (
    "calibration/*.py",
    "core/generators.py",
    "data/noise.py",
    "data/row_weights.py",
    "data/splits.py",
    "evaluation/shift_stages.py",
    "heads/*.py",
    "metrics/*.py",
    "repair/*.py",
    "scoring/*.py",
)


def source_digests() -> dict[str, str]:
    """Digest of each module's code, without its comments, docstrings and layout."""
    files = set()
    for pattern in PATTERNS:
        for path in (ROOT / "trustq").glob(pattern):
            files.update(path.rglob("*.py") if path.is_dir() else [path])
    return {
        path.relative_to(ROOT).as_posix(): code_digest(path.read_text("utf-8"))
        for path in sorted(files)
    }


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
