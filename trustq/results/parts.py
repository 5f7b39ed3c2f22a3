"""Where the parts of a results folder lie, which of them count, and the folder's marker."""

import json
import os
from pathlib import Path

from trustq.errors import DamagedFile, InputError
from trustq.results.digests import open_sealed
from trustq.results.schema import COMPACTIONS, FORMAT, FORMAT_VERSION, FORMER_TABLES, MARKER

PROTOCOL = "trustq"  # by which DuckDB reaches parts


def part_address(table: str, part: str) -> str:
    """The name by which DuckDB knows a table's part.

    >>> part_address("runs", "p1")
    'trustq://runs/p1.parquet'
    """
    return f"{PROTOCOL}://{table}/{part}.parquet"


def part_path(folder: Path, table: str, part: str) -> Path:
    """Where a table's part lies.

    >>> part_path(Path("results"), "runs", "p1").as_posix()
    'results/runs/p1.parquet'
    """
    return folder / table / f"{part}.parquet"


def stored_part(folder: Path, table: str, part: str) -> Path:
    """Where a table's part lies, which may be a part of format 1, in a folder of another name."""
    former = folder / FORMER_TABLES.get(table, table) / f"{part}.parquet"
    return former if former.exists() else part_path(folder, table, part)


def part_files(folder: Path, table: str) -> list[Path]:
    """All whole parts of a table, of either format, sorted by name."""
    return [place / name for name, place in _part_files(folder, table)]


def part_names(folder: Path, table: str) -> list[str]:
    """Names of the parts of a table, in their order."""
    return [name.removesuffix(".parquet") for name, _ in _part_files(folder, table)]


def _part_files(folder: Path, table: str) -> list[tuple[str, Path]]:
    found = []
    for place in dict.fromkeys((folder / table, folder / FORMER_TABLES.get(table, table))):
        try:
            names = os.listdir(place)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        # A hidden file is a part that somebody is writing.
        found += [(n, place) for n in names if n.endswith(".parquet") and not n.startswith(".")]
    return sorted(found, key=lambda one: one[0])


def superseded(folder: Path) -> set[str]:
    """Names of the parts whose rows lie in merged ones, by the records of compactions.

    Raises `TrustqError` for a record that cannot be read.
    """
    return {name for record in records(folder).values() for name in record}


def records(folder: Path) -> dict[Path, list[str]]:
    """The records of compactions with the parts that each supersedes.

    Raises `TrustqError` for a record that cannot be read.
    """
    found = {}
    may_be_plain = has_unrecorded(folder)
    for path in sorted((folder / COMPACTIONS).glob("*.json")):
        if path.name.startswith("."):
            continue  # somebody is writing it, or was killed
        try:
            data = path.read_bytes()
            record = json.loads(data) if may_be_plain and b'"digest"' not in data else None
            record = open_sealed(data) if record is None else record
            found[path] = [str(name) for name in record["supersedes"]]
        except FileNotFoundError:
            continue  # just cleaned, and its parts before it
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedFile(
                f"{path} is damaged: it is no record of a compaction. Delete it; the parts that it "
                "named are read again, and no row is shown twice.",
                path=path,
            ) from error
    return found


def check_marker(path: Path) -> int:
    """The format version that `results.json` names.

    Raises `TrustqError` unless it names this format in a version that is known.
    """
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
        known = marker["format"] == FORMAT
        version = int(marker["format_version"])
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        known, version = False, 0
    if not known or version < 1:
        raise DamagedFile(
            f"{path} does not say that this folder holds trustq results. Choose another folder.",
            path=path,
        )
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path.parent} holds results of format {version}; this trustq knows formats up to "
            f"{FORMAT_VERSION}. Upgrade it: pip install -U trustq"
        )
    return version


def has_unrecorded(folder: Path) -> bool:
    """Whether parts of a folder have no record of digests yet, as those of format 1 do."""
    path = folder / MARKER
    return path.exists() and check_marker(path) < 2
