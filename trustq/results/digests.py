"""Digests of parts: a record beside the tables says what the bytes of a part's files were.

Files are digested in blocks, so that a reader checks what it reads and no more: a query that needs
two columns of a large table hashes those two. A record carries a digest of itself.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from trustq.core.atomic_files import replacing
from trustq.core.digest import canonical_json, digest_bytes, digest_json
from trustq.errors import DamagedFile, TrustqError

FOLDER = "digests"  # of a results folder; holds `<part>.json`
BLOCK = 1 << 17  # bytes
_DIGITS = 16  # of a block's 64-bit xxh3 in hexadecimal


@dataclass(frozen=True)
class FileDigests:
    """Size of a file and the digests of its blocks, one after the other."""

    size: int
    blocks: str

    def block(self, number: int) -> str:
        """Digest of one block.

        >>> FileDigests(1, "0" * 16).block(0)
        '0000000000000000'
        """
        return self.blocks[number * _DIGITS : (number + 1) * _DIGITS]


def digest_block(data: bytes | memoryview) -> str:
    """Digest of one block's bytes.

    >>> digest_block(b"")
    '2d06800538d394c2'
    """
    return xxhash.xxh3_64_hexdigest(data)


def digest_file(path: Path) -> FileDigests:
    """Digest a whole file, block by block."""
    blocks = []
    size = 0
    with open(path, "rb", buffering=0) as file:
        while data := file.read(BLOCK):
            # A short read that is not the last would shift all blocks after it.
            while len(data) < BLOCK and (more := file.read(BLOCK - len(data))):
                data += more
            blocks.append(digest_block(data))
            size += len(data)
    return FileDigests(size, "".join(blocks))


def record_path(folder: Path, part: str) -> Path:
    """Where the record of a part lies.

    >>> record_path(Path("results"), "p1").as_posix()
    'results/digests/p1.json'
    """
    return folder / FOLDER / f"{part}.json"


def write_record(folder: Path, part: str, files: Mapping[str, Path]) -> None:
    """Record the digests of a part's files, by table; before the first of them can be seen."""
    found = {table: digest_file(path) for table, path in files.items()}
    value = {table: [digests.size, digests.blocks] for table, digests in found.items()}
    with replacing(record_path(folder, part)) as temporary:
        temporary.write_text(sealed_json({"block": BLOCK, "files": value}), encoding="utf-8")


def read_record(folder: Path, part: str) -> dict[str, FileDigests] | None:
    """The digests of a part's files by table; None where the part has no record.

    Raises `TrustqError` for a record that was changed.
    """
    path = record_path(folder, part)
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.readall()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TrustqError(f"{path} could not be read: {error.strerror}.") from error
    try:
        record = open_sealed(data)
        if record["block"] != BLOCK:
            raise ValueError("another block size")
        return {
            str(table): FileDigests(int(size), str(blocks))
            for table, (size, blocks) in record["files"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(folder, path, "it is not the record that was written", part) from error


def sealed_json(value: dict[str, Any]) -> str:
    """A line of canonical JSON of an object with its own digest as the last entry.

    >>> print(sealed_json({"a": 1}), end="")
    {"a":1,"digest":"3c8c141663acf5a1b6b7137162fa70fb"}
    """
    return f'{canonical_json(value)[:-1]},"digest":"{digest_json(value)}"}}\n'


def open_sealed(data: bytes) -> dict[str, Any]:
    """The object that `sealed_json` wrote, without its digest.

    Raises `ValueError` where any byte was changed.

    >>> open_sealed(sealed_json({"a": 1}).encode())
    {'a': 1}
    """
    value = json.loads(data.decode("utf-8"))
    if not isinstance(value, dict) or "digest" not in value:
        raise ValueError("it has no digest")
    digest = value.pop("digest")
    end = f',"digest":"{digest}"}}\n'.encode()
    if not data.endswith(end) or digest_bytes(data[: -len(end)], b"}") != digest:
        raise ValueError("it does not match its digest")
    return value


def damaged(folder: Path, path: Path, how: str, part: str) -> TrustqError:
    """The error that names a damaged file of a part, and what to do."""
    return DamagedFile(
        f"{path} is damaged: {how}. Delete that part ({folder}/*/{part}.*) and run the same "
        "command again; only the runs of that part are computed anew.",
        path=path,
    )
