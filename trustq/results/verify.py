"""Check a whole results folder: every byte of every part against the digests that were recorded."""

from dataclasses import dataclass
from pathlib import Path

from trustq.errors import TrustqError
from trustq.results.digests import BLOCK, FOLDER, FileDigests, digest_file, read_record
from trustq.results.parts import has_unrecorded, part_names, records, stored_part
from trustq.results.query import check_folder
from trustq.results.schema import TABLES


@dataclass(frozen=True)
class Checked:
    """What was checked: parts, files and bytes; what is wrong, one sentence each.

    `n_unrecorded` parts are of a time before there were digests, so nothing is known of them.
    """

    n_parts: int
    n_files: int
    n_bytes: int
    n_unrecorded: int
    faults: tuple[str, ...]


def verify_results(folder: Path) -> Checked:
    """Check every file of a results folder against its digests; faults are listed, not raised.

    Files that a writer at work has not yet named are left out. Raises `TrustqError` for a folder
    without results.
    """
    folder = Path(folder)
    check_folder(folder)
    faults = []
    try:
        records(folder)
    except TrustqError as error:
        faults.append(str(error))
    may_lack = has_unrecorded(folder)
    # Runs come last: a part that is listed by its runs has all its other files in place.
    names = {table: set(part_names(folder, table)) for table in ("runs", *TABLES)}
    n_files = n_bytes = n_unrecorded = 0
    parts = sorted(set().union(*names.values()))
    for part in parts:
        tables = [table for table in TABLES if part in names[table]]
        try:
            record = read_record(folder, part)
        except TrustqError as error:
            faults.append(str(error))
            continue
        if record is None:
            if may_lack:
                n_unrecorded += 1
            else:
                faults.append(f"{folder / FOLDER / part}.json is missing: the part's digests.")
            continue
        expected = set(record) if "runs" in tables else set(tables)
        for table in sorted(expected | set(tables)):
            path = stored_part(folder, table, part)
            n_files += 1
            found = _fault(path, record.get(table))
            faults += [f"{path} {found}."] if found else []
            n_bytes += path.stat().st_size if path.is_file() else 0
    return Checked(len(parts), n_files, n_bytes, n_unrecorded, tuple(faults))


def _fault(path: Path, expected: FileDigests | None) -> str:
    if expected is None:
        return "is not listed by its part's digests"
    try:
        found = digest_file(path)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if found.size != expected.size:
        return f"has {found.size} bytes, and {expected.size} were written"
    wrong = [n for n in range(-(-found.size // BLOCK)) if found.block(n) != expected.block(n)]
    if wrong or found.blocks != expected.blocks:
        return f"is damaged: {len(wrong)} of its {-(-found.size // BLOCK)} blocks were changed"
    return ""
