"""`trustq audit duplicates`: images that are there twice, within a manifest or between two."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trustq.core.counts import counted
from trustq.core.prose import say

from .options import Progress
from .output import print_note, print_table, stages

if TYPE_CHECKING:
    from trustq.audit.duplicates.find import DuplicateAudit
    from trustq.data.manifest import Manifest


@dataclass
class Search:
    """What counts as a pair."""

    distance: Annotated[
        int, typer.Option(help="Maximum Hamming distance between perceptual hashes (256 bits).")
    ] = 30
    nearest: Annotated[
        int,
        typer.Option(
            min=0, help="Candidate pairs per method (keypoints, embeddings); 0 lists copies only."
        ),
    ] = 200
    threads: Annotated[int, typer.Option(min=1, help="Threads to read images with.")] = 2


@dataclass
class Written:
    """What is written."""

    out: Annotated[Path, typer.Option(help="Folder for the lists and the sheet.")] = Path(
        "duplicates"
    )
    sheet: Annotated[int, typer.Option(min=0, help="Pairs on the sheet of images; 0 for none.")] = (
        60
    )
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False


def duplicates(
    manifest: Annotated[Path, typer.Argument(help="A manifest.")],
    search: Search,
    output: Written,
    shown: Progress,
    other: Annotated[
        Path | None, typer.Argument(help="Another one, to look for what is in both.")
    ] = None,
    cache: Annotated[
        list[str] | None,
        typer.Option(help="Caches of these samples, for embedding neighbours; may be repeated."),
    ] = None,
) -> None:
    """Find copies and scenes taken again in other groups, other splits or another data set.

    Copies have equal bytes or close hashes. Of pairs of one scene, which may be turned, shifted or
    taken closer, seven points or more match; fewer may be chance.

    Fill the column `confirmed` of pairs.csv with yes or no, then join the groups with trustq data
    prepare --merge-duplicates pairs.csv, or those of two data sets with trustq data combine.

    Example: trustq audit duplicates demo/digits.parquet --out duplicates/
    """
    from trustq.audit.duplicates.find import audit_duplicates, refuse_answers, write_audit
    from trustq.data.manifest import read_manifest
    from trustq.report.contact_sheet import write_pair_sheet
    from trustq.store import find_caches, open_cache

    refuse_answers(output.out)  # before the work, not after it
    sides = [read_manifest(path) for path in (manifest, other) if path is not None]
    caches = [open_cache(path) for path in find_caches(cache)] if cache else []
    with stages() as show:
        found = audit_duplicates(
            sides[0],
            sides[1] if other is not None else None,
            caches=caches,
            max_distance=search.distance,
            nearest=search.nearest,
            threads=search.threads,
            progress=show,
        )
    for note in found.notes:
        print_note(note)
    written = write_audit(found, output.out)
    if output.sheet and len(found):
        written.append(
            write_pair_sheet(
                *_drawn(found, sides, most=output.sheet), output.out / "contact_sheet.png"
            )
        )
    for path in written:
        say(f"wrote {path}")
    if output.as_json:
        typer.echo(json.dumps(_summary(found) | {"agreement": found.agreement}, indent=2))
        return
    for title, value in _summary(found).items():
        told = "not looked for" if value is None else value
        typer.echo(f"{title.replace('_', ' ') + ':':<34}{told}")
    typer.echo("\nPairs of other groups with the same label, by how close they are:")
    print_table(found.agreement)


def _summary(found: "DuplicateAudit") -> dict[str, object]:
    from trustq.audit.duplicates.matched_points import SURE

    ways = [set(way.split("+")) for way in found.pairs["found_by"].tolist()]
    n_points = [n or 0 for n in found.pairs["matched_points"].tolist()]
    same = [
        bool({"bytes", "hash", "turned"} & way) or n >= SURE
        for way, n in zip(ways, n_points, strict=True)
    ]
    across = found.pairs["across_splits"].tolist()
    return {
        "images": " and ".join(f"{n:,}" for n in found.n_images),
        "pairs_of_equal_bytes": sum("bytes" in way for way in ways),
        "pairs_of_close_hash": sum("hash" in way for way in ways),
        "pairs_mirrored_or_turned": sum("turned" in way for way in ways),
        "pairs_of_one_scene": found.n_one_scene,
        "listed_across_splits": sum(a and s for a, s in zip(across, same, strict=True)),
        "other_candidates": len(ways) - sum(same),
        "same_label_by_chance": round(found.chance, 4),
    }


def _drawn(
    found: "DuplicateAudit", sides: "list[Manifest]", *, most: int
) -> tuple[list[tuple[Path, Path]], list[str]]:
    pairs = {name: column.tolist()[:most] for name, column in found.pairs.items()}
    files = [
        (sides[0].root / a, sides[-1].root / b)
        for a, b in zip(pairs["path_a"], pairs["path_b"], strict=True)
    ]
    captions = []
    for row in range(len(files)):
        n_points = pairs["matched_points"][row]
        told = pairs["orientation"][row] or pairs["found_by"][row]
        told += f", {pairs['hash_distance'][row]} bits"
        told += "" if n_points is None else f", {counted(n_points, 'point')}"
        ends = [
            f"{pairs[f'sample_{end}'][row]} {pairs[f'label_{end}'][row]} "
            f"{pairs[f'split_{end}'][row]}"
            for end in "ab"
        ]
        captions.append(f"{pairs['rank'][row]}. {told}\n{ends[0]}\n{ends[1]}")
    return files, captions
