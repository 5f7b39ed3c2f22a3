"""What a file that trustq exported says of itself, beside its arrays."""

from pathlib import Path
from typing import Any

from trustq.core.foreign_files import ForeignFile, read_foreign
from trustq.store.export import STATEMENT
from trustq.store.restore import read_statement


def statement_in(file: ForeignFile) -> Any:
    """The statement of an exported file; None for a file of another program."""
    if STATEMENT in file.arrays:
        return read_statement(str(file.arrays[STATEMENT]), file.path)
    stated = file.metadata.get(STATEMENT)
    return read_statement(stated, file.path) if isinstance(stated, str) else stated


def has_statement(path: Path) -> bool:
    """Whether a file is one that trustq exported."""
    file = read_foreign(path, wanted=lambda name: name == STATEMENT)
    return STATEMENT in file.arrays or STATEMENT in file.metadata
