"""Bundles: tables, figures and recipes in one zip, with the queries and digests to check them."""

import csv
import io
import json
import math
import platform
import re
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trustq.analysis.main_table import format_main_table, main_table
from trustq.core.atomic_files import replacing
from trustq.core.counts import counted
from trustq.core.digest import digest_bytes
from trustq.errors import DamagedFile, InputError, NotFound
from trustq.report.plot_set import draw_figures
from trustq.results import format_result, run_query
from trustq.results.schema import RECIPES, SETTINGS

FORMAT = "trustq.bundle"
FORMAT_VERSION = 2
INDEX = "bundle.json"
LARGEST = 1 << 30  # bytes that a bundle may unpack to

_OVERALL = "class_name IS NULL AND slice_name IS NULL"
_SHOWN = "metric IN ('accuracy', 'macro_f1', 'ece', 'nll', 'brier', 'aurc', 'augrc')"

# Each orders by all its columns, so that the same parts give the same text.
QUERIES = {
    "runs": f"""SELECT key, recipe, {", ".join(SETTINGS)}, cache_digest, backbone_seed, draw_seed,
    n_train, n_wrong_start, n_bought, n_trusted, n_clean_validation, versions
FROM runs ORDER BY ALL""",
    "seeds": "SELECT * FROM seeds WHERE is_final ORDER BY ALL",
    "curves": f"SELECT * FROM curves WHERE {_OVERALL} AND {_SHOWN} ORDER BY ALL",
    "paired": f"""SELECT * FROM paired
WHERE baseline IN ('none', 'random') AND {_OVERALL} AND {_SHOWN} ORDER BY ALL""",
    "ledger": f"""SELECT {", ".join(f"c.{name}" for name in SETTINGS)}, r.round,
    avg(r.n_bought_total) AS bought, avg(r.errors_found_total) AS errors_found,
    avg(r.noise_left) AS noise_left, count(*) AS n_runs
FROM rounds r JOIN runs c ON r.run = c.key GROUP BY ALL ORDER BY ALL""",
    # What was bought and predicted, cell by cell, so that a part of these is not changed unnoticed.
    "purchases": """SELECT run, round, count(*) AS n, count_if(was_wrong) AS errors_found,
    md5(string_agg(concat_ws(' ', sample_id, label_before, label_after, truth), ','
        ORDER BY rank)) AS digest
FROM queries GROUP BY ALL ORDER BY ALL""",
    "predictions": """SELECT run, round, eval_dataset, split, stage, count(*) AS n,
    avg(confidence) AS confidence,
    md5(string_agg(concat_ws(' ', sample_id, label, predicted), ',' ORDER BY sample_id)) AS digest
FROM predictions GROUP BY ALL ORDER BY ALL""",
    "selective": "SELECT * FROM selective ORDER BY ALL",
    "failures": "SELECT * EXCLUDE (traceback, cache) FROM failures ORDER BY ALL",
}


@dataclass(frozen=True)
class Verified:
    """What a bundle was checked for."""

    n_files: int
    n_tables: int
    n_cells: int


def write_bundle(results: Path, path: Path) -> list[str]:
    """Write tables, figures, recipes, queries, versions and digests as one zip; name what is in it.

    Whole or not at all. Raises `TrustqError` for a folder without cells, or one that cannot be
    written.
    """
    results = Path(results)
    members: dict[str, bytes] = {}
    for name, query in QUERIES.items():
        members[f"queries/{name}.sql"] = f"{query}\n".encode()
        members[f"tables/{name}.csv"] = _csv(results, query)
    members |= _main_tables(results)
    members |= _plots(results) | _recipes(results)
    index = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat("T", "seconds"),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("trustq", "numpy", "duckdb", "matplotlib")},
        "digests": {name: digest_bytes(data) for name, data in sorted(members.items())},
    }
    members[INDEX] = (json.dumps(index, indent=2) + "\n").encode()
    with replacing(Path(path)) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in sorted(members.items()):
            file.writestr(name, data)
    return sorted(members)


def verify_bundle(path: Path, results: Path) -> Verified:
    """Check every file's digest, then make everything again from the parts and compare.

    The queries are those of this trustq: the text of one that came with the bundle is compared and
    never run. Plots are checked against their digests alone. Numbers may differ by a part in 1e9,
    which is how far sums in another order may be. Raises `TrustqError` that names the first thing
    that does not hold.
    """
    path, results = Path(path), Path(results)
    members, index = _read(path)
    _require_whole(path, members, index)
    names = sorted(name for name in members if name.startswith("queries/"))
    made = {f"tables/{Path(name).stem}.csv" for name in names} | {"tables/runs.csv"}
    if unpaired := made ^ {name for name in members if name.endswith(".csv")}:
        raise InputError(
            f"{path} holds only one of {min(unpaired)} and the query that made it, so the parts "
            "cannot be compared with it. Write it again.",
            path=path,
        )
    names.sort(key=lambda name: "runs" not in name)  # other runs explain all other differences
    n_cells = 0
    for name in names:
        n_rows = _compare_answer(path, members, name, results, index)
        n_cells = n_rows if Path(name).stem == "runs" else n_cells
    main = _main_tables(results)
    for name in sorted(main):
        if members.get(name) != main[name]:
            raise InputError(
                f"{path}: {name} is not the table that {results} gives now, though the figures "
                "behind it are the same.",
                path=path,
            )
    recipes = _recipes(results)
    kept = {name: data for name, data in members.items() if name.startswith("recipes/")}
    for name in sorted(recipes.keys() | kept.keys()):
        if recipes.get(name) != kept.get(name):
            raise InputError(f"{path}: {name} is not the one that {results} holds.", path=path)
    plots = {name for name in members if re.fullmatch(r"plots/[^/]+\.(png|svg)", name)}
    known = {*main, *recipes, *plots, INDEX, *names, *made}
    if strangers := sorted(set(members) - known):
        raise InputError(f"{path} holds {strangers[0]}, which no bundle has.", path=path)
    return Verified(len(members), len(names), n_cells)


def _require_whole(path: Path, members: dict[str, bytes], index: dict[str, Any]) -> None:
    """Raise unless the members are those that the index lists, as they were written."""
    for name, expected in index["digests"].items():
        if name not in members:
            raise InputError(
                f"{path} lacks {name}, which its {INDEX} lists. Write it again.", path=path
            )
        if (found := digest_bytes(members[name])) != expected:
            raise InputError(
                f"{path}: {name} was changed after the bundle was written (digest {found[:8]}..., "
                f"expected {expected[:8]}...).",
                path=path,
            )
    if strangers := sorted(set(members) - set(index["digests"]) - {INDEX}):
        raise InputError(
            f"{path} holds {strangers[0]}, which its {INDEX} does not list.", path=path
        )


def _compare_answer(
    path: Path, members: dict[str, bytes], name: str, results: Path, index: dict[str, Any]
) -> int:
    """Raise unless a query of the bundle is ours and gives its table again; the table's rows."""
    own = QUERIES.get(Path(name).stem)
    if own is None or members[name] != f"{own}\n".encode():
        raise InputError(
            f"{path}: {name} is not the query of this trustq, and no other text is run. Verify "
            f"with the version that wrote it: {_versions_of(index).get('trustq', 'unknown')}.",
            path=path,
        )
    table = f"tables/{Path(name).stem}.csv"
    old = _table(members[table])
    _compare(old, _table(_csv(results, own)), table=f"{path}: {table}", results=results)
    return len(old) - 1


def _read(path: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    if not path.is_file():
        raise NotFound(f"{path}: no such file. `trustq export bundle` writes one.", path=path)
    try:
        with zipfile.ZipFile(path) as file:
            members = _unpacked(file)
        index = json.loads(members[INDEX])
        known = index["format"] == FORMAT
        format_version = int(index["format_version"])
        dict(index["digests"])
    except (
        zipfile.BadZipFile,  # cut short, or an entry whose check sum does not hold
        zlib.error,
        KeyError,
        ValueError,
        TypeError,
        EOFError,
        OSError,
        OverflowError,
        RecursionError,
        RuntimeError,  # encrypted
        NotImplementedError,  # a compression that zipfile does not know
    ) as error:
        raise DamagedFile(f"{path} is no whole trustq bundle ({error}).", path=path) from error
    if not known:
        raise InputError(f"{path} is no trustq bundle.", path=path)
    if format_version < FORMAT_VERSION:
        raise InputError(
            f"{path} is a bundle of format {format_version}, whose queries name tables of an older "
            "trustq (cells, figures). Write it again: trustq export bundle.",
            path=path,
        )
    if format_version > FORMAT_VERSION:
        raise InputError(
            f"{path} is a bundle of format {index['format_version']}; this trustq knows formats up "
            f"to {FORMAT_VERSION}. Upgrade it: pip install -U trustq",
            path=path,
        )
    return members, index


def _unpacked(file: zipfile.ZipFile) -> dict[str, bytes]:
    """All entries, each name once, no more bytes than a bundle may have."""
    entries = file.infolist()
    names = [entry.filename for entry in entries]
    if again := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"it holds {again[0]} twice")
    if sum(entry.file_size for entry in entries) > LARGEST:
        raise ValueError(f"it says that it unpacks to more than {LARGEST >> 20} MB")
    members = {}
    for entry in entries:
        with file.open(entry) as packed:
            data = packed.read(entry.file_size + 1)
        if len(data) != entry.file_size:
            raise ValueError(f"{entry.filename} has not the size that it says")
        members[entry.filename] = data
    return members


def _versions_of(index: dict[str, Any]) -> dict[str, Any]:
    found = index.get("versions")
    return found if isinstance(found, dict) else {}


def _recipes(results: Path) -> dict[str, bytes]:
    paths = sorted((results / RECIPES).glob("[!.]*.json"))
    return {f"recipes/{path.name}": path.read_bytes() for path in paths}


def _plots(results: Path) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        drawn = draw_figures(results, Path(folder))
        return {f"plots/{path.name}": path.read_bytes() for path in drawn}


def _main_tables(results: Path) -> dict[str, bytes]:
    table = main_table(results)
    formats = {"tables/main.md": "markdown", "tables/main.tex": "latex"}
    return {
        name: f"{format_main_table(table, format)}\n".encode() for name, format in formats.items()
    }


def _csv(results: Path, query: str) -> bytes:
    return (format_result(run_query(results, query), "csv") + "\n").encode()


def _table(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode())))


def _compare(old: list[list[str]], new: list[list[str]], *, table: str, results: Path) -> None:
    if old[0] != new[0]:
        raise InputError(
            f"{table} has columns {', '.join(old[0])}; now they are others.", path=table
        )
    if len(old) != len(new):
        raise InputError(
            f"{table} has {counted(len(old) - 1, 'row')}, {results} now gives {len(new) - 1}: runs "
            "were run or lost since the bundle was written.",
            path=table,
        )
    for number, (a, b) in enumerate(zip(old, new, strict=True)):
        for column, x, y in zip(old[0], a, b, strict=True):
            if not _same(x, y):
                raise InputError(
                    f"{table}, row {number}: {column} is {x}, and {results} now gives {y}.",
                    path=table,
                )


def _same(x: str, y: str) -> bool:
    if x == y:
        return True
    try:
        return math.isclose(float(x), float(y), rel_tol=1e-9, abs_tol=1e-12)
    except ValueError:
        return False
