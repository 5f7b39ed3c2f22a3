"""Duplicates: images that are there twice, in other groups, other splits or another data set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trustq.audit.duplicates.close_pairs import hash_pairs, standing_out
from trustq.audit.duplicates.fingerprints import Fingerprints, fingerprint_images
from trustq.audit.duplicates.keypoints import Keypoints
from trustq.audit.duplicates.matched_points import SURE, MatchedPairs, matched_pairs
from trustq.audit.duplicates.pair_list import PairList
from trustq.core.atomic_files import replacing
from trustq.core.columns import read_table
from trustq.core.counts import counted
from trustq.core.spreadsheets import csv_text
from trustq.data.manifest import Manifest
from trustq.errors import InputError
from trustq.store import Cache

MAX_DISTANCE = 30  # of 256 bits; copies reach 28, 5,000 dermatoscopic images had one other pair
# Seven orientations are seven chances: of 43 million pairs of HAM10000 nine, none of them a copy,
# lie at 28 to 30 bits once turned, none closer.
TURNED_LESS = 4
REACH = 80  # distance up to which label agreement is counted
NEAREST = 200  # pairs listed by matched points, and by closeness of embeddings
PAIRS = "pairs.csv"
_DISTANCE_STEP = 10
_BESIDE = 1  # times the images: pairs, the closest by hash, that are compared by points as well
_RANKS = (10, 100, 1000)
_POINTS = (5, 6, 7, 8, 10, 15, 20)  # least matched points of each row of label agreement


@dataclass(frozen=True)
class DuplicateAudit:
    """Pairs of samples, ranked, and how often pairs agree in label by how close they are.

    `pairs` has a row a pair; `confirmed` is blank, for a person to fill with yes or no.
    `agreement` has dicts of what (hash, points, embedding), range, n and share of equal labels;
    `chance` is that share for a random pair. `n_one_scene` counts pairs with as many matched points
    as no chance gives, listed or not; None where points were not looked for.
    """

    pairs: dict[str, np.ndarray]
    agreement: list[dict[str, Any]]
    chance: float
    n_images: tuple[int, ...]
    n_one_scene: int | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs["sample_a"])


def audit_duplicates(
    manifest: Manifest,
    other: Manifest | None = None,
    *,
    caches: Sequence[Cache] = (),
    max_distance: int = MAX_DISTANCE,
    nearest: int = NEAREST,
    threads: int = 2,
    progress: Callable[[str, str, int, int], None] | None = None,
) -> DuplicateAudit:
    """Pairs of images that may be the same, within a manifest or between two.

    Listed are pairs of equal bytes (sha256), all pairs whose perceptual hashes differ in at most
    `max_distance` of 256 bits, or in four fewer once one is mirrored or turned by right angles, and
    the `nearest` pairs by matched keypoints and, with `caches` of these samples, by embedding. The
    former are copies; the latter are candidates for a person's eye, and left out where `nearest`
    is 0. Within a manifest pairs of one group are left out.
    `progress` is told what is done, its unit, how much and of how much. Raises `TrustqError` for an
    image that is not there and for caches without these samples.
    """
    if not 0 <= max_distance <= REACH:
        raise InputError(f"The distance is {max_distance}, expected 0 to {REACH} of 256 bits.")
    if nearest < 0:
        raise InputError(f"Pairs to list by closeness: {nearest}, expected 0 or more.")
    sides = [manifest] if other is None else [manifest, other]
    prints = _fingerprints(sides, keypoints=nearest > 0, threads=threads, progress=progress)
    groups = _codes([m.columns["group_id"] for m in sides])
    if other is not None:  # a name in two data sets says nothing about an overlap
        groups = [np.full(len(m), -1) for m in sides]
    labels = _codes([m.columns["label"] for m in sides])
    found = PairList(sides)
    pair_of = (groups[0], groups[-1]), (labels[0], labels[-1])
    for row, column in _equal_bytes(prints, groups):
        found.add(row, column, "bytes", 0)
    most_others = _BESIDE * max(map(len, sides)) if nearest else 0
    hashed = hash_pairs(
        prints[0].hashes,
        None if other is None else prints[1].hashes,
        max_distance=max_distance,
        max_turned=max(0, max_distance - TURNED_LESS),
        reach=REACH,
        groups=pair_of[0],
        labels=pair_of[1],
        most_others=most_others,
        threads=threads,
        progress=None if progress is None else partial(progress, "Hashes", "images"),
    )
    near = (hashed.first.tolist(), hashed.second.tolist(), hashed.distance.tolist())
    for row, column, bits in zip(*near, strict=True):
        found.add(row, column, "hash", bits)
    found.add_turned(hashed.turned, [p.hashes for p in prints])
    agreement = _by_distance(hashed.n_pairs, hashed.n_same)
    n_one_scene = None
    if nearest:
        # Of many copies the closest will do: they are listed anyway.
        copies = np.argsort(hashed.distance, kind="stable")[:most_others]
        known = np.stack([hashed.first, hashed.second], axis=1)[copies]
        others = np.concatenate([known, hashed.others])
        points = _matched(prints, groups, others, threads=threads, progress=progress)
        n_one_scene = int((points.n_points >= SURE).sum())
        agreement += _add_matched(found, points, labels, most=nearest)
    rows, notes = _embedding_rows(sides, caches)
    if rows:
        agreement += _add_close(found, rows, groups, labels, most=nearest)
    return DuplicateAudit(
        found.columns([p.hashes for p in prints]),
        agreement,
        _chance(labels),
        tuple(len(m) for m in sides),
        n_one_scene,
        notes,
    )


def refuse_answers(folder: Path) -> None:
    """Raise `TrustqError` where the folder holds pairs that a person has begun to confirm."""
    path = folder / PAIRS
    if not path.is_file():
        return
    answers = read_table(path).get("confirmed")
    n_answers = 0 if answers is None else sum(answer is not None for answer in answers.tolist())
    if n_answers:
        raise InputError(
            f"{path} holds {counted(n_answers, 'answer')} in its column `confirmed`, which would "
            "be lost. Move it elsewhere, or choose another folder (`out`).",
            path=path,
        )


def write_audit(found: DuplicateAudit, folder: Path) -> list[Path]:
    """Write `pairs.csv` and `agreement.csv` into a folder; returns their paths.

    Raises `TrustqError` as `refuse_answers`.
    """
    refuse_answers(folder)
    header = list(found.pairs)
    rows = zip(*(column.tolist() for column in found.pairs.values()), strict=True)
    agreement = [{**row, "chance": round(found.chance, 4)} for row in found.agreement]
    written = [
        _write_csv(folder / PAIRS, header, rows),
        _write_csv(
            folder / "agreement.csv",
            ["by", "range", "n_pairs", "same_label", "chance"],
            [list(row.values()) for row in agreement],
        ),
    ]
    return written


def _fingerprints(
    sides: Sequence[Manifest],
    *,
    keypoints: bool,
    threads: int,
    progress: Callable[[str, str, int, int], None] | None,
) -> list[Fingerprints]:
    total, done = sum(len(m) for m in sides), 0
    prints = []
    for side in sides:
        show = None
        if progress is not None:

            def show(k: int, _: int, *, before: int = done) -> None:
                assert progress is not None
                progress("Fingerprints", "images", before + k, total)

        paths = [side.image_path(row) for row in range(len(side))]
        prints.append(
            fingerprint_images(
                paths,
                digests=side.image_digests,
                keypoints=keypoints,
                threads=threads,
                progress=show,
            )
        )
        done += len(side)
    return prints


def _matched(
    prints: Sequence[Fingerprints],
    groups: Sequence[np.ndarray],
    others: np.ndarray,
    *,
    threads: int,
    progress: Callable[[str, str, int, int], None] | None,
) -> MatchedPairs:
    """Matched pairs of other groups, or of the two sides: rows of either."""
    points = [p.keypoints for p in prints if p.keypoints is not None]
    apart, shift = groups[0], 0
    if len(points) == 2:
        apart, shift = np.repeat([0, 1], [len(part) for part in points]), len(points[0])
    found = matched_pairs(
        Keypoints.joined(points),
        apart,
        others=others + [0, shift],
        threads=threads,
        progress=progress,
    )
    return found._replace(second=found.second - shift)


def _add_matched(
    found: PairList, points: MatchedPairs, labels: Sequence[np.ndarray], *, most: int
) -> list[dict[str, Any]]:
    """Add the pairs with the most matched points; label agreement of them all."""
    found.add_closest((points.first, points.second), points.n_points, "points", most=most)
    return _by_points(points.n_points, labels[0][points.first] == labels[-1][points.second])


def _add_close(
    found: PairList,
    rows: Sequence[np.ndarray],
    groups: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    *,
    most: int,
) -> list[dict[str, Any]]:
    """Add the pairs whose embeddings stand out the most; label agreement by rank."""
    here = [np.flatnonzero(~np.isnan(v[:, 0])) for v in rows]
    first, second, closeness = standing_out(
        rows[0][here[0]],
        rows[1][here[1]] if len(rows) == 2 else None,
        groups=(groups[0][here[0]], groups[-1][here[-1]]),
        most=max(most, _RANKS[-1]),
    )
    first, second = here[0][first], here[-1][second]
    found.add_closest((first, second), closeness, "embedding", most=most)
    return _by_rank("embedding", labels[0][first] == labels[-1][second])


def _equal_bytes(
    prints: Sequence[Fingerprints], groups: Sequence[np.ndarray]
) -> list[tuple[int, int]]:
    rows_of: dict[str, list[int]] = {}
    for row, digest in enumerate(prints[-1].sha256.tolist()):
        rows_of.setdefault(digest, []).append(row)
    found = []
    for row, digest in enumerate(prints[0].sha256.tolist()):
        for other in rows_of.get(digest, []):
            if len(prints) == 2 or (row < other and groups[0][row] != groups[0][other]):
                found.append((row, other))
    return found


def _codes(columns: Sequence[np.ndarray]) -> list[np.ndarray]:
    names = np.concatenate([column.astype(str) for column in columns])
    codes = np.unique(names, return_inverse=True)[1]
    return np.split(codes, np.cumsum([len(column) for column in columns])[:-1])


def _embedding_rows(
    sides: Sequence[Manifest], caches: Sequence[Cache]
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Unit features of every sample, of several networks beside each other; NaN where none are.

    A cache counts as one network with the others of its weights, so that a data set's own cache and
    an external one of the same network make one column.
    """
    if not caches:
        return [], ()
    ids = [m.columns["sample_id"].tolist() for m in sides]
    networks: dict[str, list[Cache]] = {}
    for cache in caches:
        networks.setdefault(cache.weights_digest or cache.name, []).append(cache)
    blocks = []
    for members in networks.values():
        row_of = {
            i: (k, row) for k, c in enumerate(members) for row, i in enumerate(c.sample_id.tolist())
        }
        features = [np.asarray(c.features, dtype=np.float32) for c in members]
        parts = []
        for side in ids:
            part = np.full((len(side), features[0].shape[1]), np.nan, dtype=np.float32)
            for row, sample_id in enumerate(side):
                if sample_id in row_of:
                    k, at = row_of[sample_id]
                    part[row] = features[k][at]
            parts.append(part)
        there = np.concatenate([part[~np.isnan(part[:, 0])] for part in parts])
        if not len(there):
            raise InputError(f"{members[0].name} holds none of these samples.")
        mean, spread = there.mean(axis=0), np.maximum(there.std(axis=0), 1e-6)
        parts = [(part - mean) / spread for part in parts]
        blocks.append([p / np.linalg.norm(p, axis=1, keepdims=True) for p in parts])
    stacked = [np.concatenate(parts, axis=1) for parts in zip(*blocks, strict=True)]
    # Of a sample that one network lacks nothing is compared.
    for part in stacked:
        part[np.isnan(part).any(axis=1)] = np.nan
    n_none = sum(int(np.isnan(part[:, 0]).sum()) for part in stacked)
    notes = (f"Samples without an embedding, not compared by it: {n_none:,}.",) * (n_none > 0)
    return stacked, notes


def _by_distance(n_pairs: np.ndarray, n_same: np.ndarray) -> list[dict[str, Any]]:
    rows = []
    for low in range(0, len(n_pairs) - 1, _DISTANCE_STEP):
        start = low + (low > 0)
        bits = slice(start, low + _DISTANCE_STEP + 1)
        n = int(n_pairs[bits].sum())
        share = None if n == 0 else round(float(n_same[bits].sum() / n), 4)
        title = f"{start} to {low + _DISTANCE_STEP} bits"
        rows.append({"by": "hash", "range": title, "n_pairs": n, "same_label": share})
    return rows


def _by_points(n_points: np.ndarray, same: np.ndarray) -> list[dict[str, Any]]:
    rows = []
    for low, end in zip(_POINTS, (*_POINTS[1:], None), strict=True):
        part = same[(n_points >= low) & (n_points < (end or np.inf))]
        share = round(float(part.mean()), 4) if len(part) else None
        last = " or more" if end is None else f" to {end - 1}" if end > low + 1 else ""
        title = f"{low}{last} points"
        rows.append({"by": "points", "range": title, "n_pairs": len(part), "same_label": share})
    return rows


def _by_rank(name: str, same: np.ndarray) -> list[dict[str, Any]]:
    rows = []
    for low, high in zip((0, *_RANKS), _RANKS, strict=False):
        part = same[low:high]
        if len(part):
            share = round(float(part.mean()), 4)
            title = f"closest {low + 1} to {low + len(part)}"
            rows.append({"by": name, "range": title, "n_pairs": len(part), "same_label": share})
    return rows


def _chance(labels: Sequence[np.ndarray]) -> float:
    k = max(int(part.max()) for part in labels) + 1
    shares = [np.bincount(part, minlength=k) / len(part) for part in (labels[0], labels[-1])]
    return float(shares[0] @ shares[1])


def _write_csv(path: Path, header: Sequence[str], rows: Any) -> Path:
    with replacing(path) as part:
        part.write_text(csv_text(header, rows), encoding="utf-8")
    return path
