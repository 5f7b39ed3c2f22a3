"""The list of pairs that may be duplicates: what found each, in what order, with which columns."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trustq.audit.duplicates.close_pairs import hash_distances
from trustq.audit.duplicates.hash_distances import ORIENTATIONS, orientations
from trustq.data.manifest import Manifest


class PairList:
    """Pairs of samples as they are found, each once, with all that found it."""

    def __init__(self, sides: Sequence[Manifest]) -> None:
        self.sides = sides
        self.by: dict[tuple[int, int], dict[str, float]] = {}
        self.orientation: dict[tuple[int, int], str] = {}

    def add(self, a: int, b: int, how: str, value: float) -> None:
        """Add what found the pair of rows: bytes, hash, turned, points or embedding; how close."""
        self.by.setdefault(self._key(a, b), {})[how] = value

    def add_closest(
        self, pairs: Sequence[np.ndarray], values: np.ndarray, how: str, *, most: int
    ) -> None:
        """Add values to the pairs that are there, and the first `most` of those that are not."""
        for a, b, value in zip(*(column.tolist() for column in (*pairs, values)), strict=True):
            is_new = self._key(a, b) not in self.by
            if most or not is_new:
                self.add(a, b, how, value)
                most -= is_new

    def add_turned(self, pairs: np.ndarray, hashes: Sequence[np.ndarray]) -> None:
        """Add pairs that are copies once one is mirrored or turned, and are none as they are.

        `pairs` (3, p) are rows of either side and bits, `hashes` those of either side.
        """
        new = [self._key(a, b) not in self.by for a, b in pairs[:2].T.tolist()]
        rows, columns, bits = pairs[:, np.array(new, dtype=bool)]
        numbers, _ = orientations(hashes[0][rows], hashes[-1][columns])
        found = (column.tolist() for column in (rows, columns, bits, numbers))
        for a, b, value, k in zip(*found, strict=True):
            self.add(a, b, "turned", value)
            self.orientation[self._key(a, b)] = ORIENTATIONS[k]

    def columns(self, hashes: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The columns of pairs.csv, the surest pairs first; `hashes` are those of either side."""
        rows = np.array(list(self.by), dtype=np.intp).reshape(-1, 2)
        distances = hash_distances(hashes[0], hashes[-1], rows).tolist()
        bits = dict(zip(self.by, distances, strict=True))
        bits |= {pair: int(self.by[pair]["turned"]) for pair in self.orientation}

        def order(pair: tuple[int, int]) -> tuple[Any, ...]:
            by = self.by[pair]
            n_points, apart = by.get("points", 0), -by.get("embedding", -9.0)
            # Of pairs with equal points the closer hash first, of others the closer embedding.
            rest = (bits[pair], apart) if n_points else (apart, bits[pair])
            copy = by.get("hash", by.get("turned", 999))
            return ("bytes" not in by, copy, -n_points, *rest, pair)

        pairs = sorted(self.by, key=order)
        ways = [self.by[pair] for pair in pairs]
        columns: dict[str, list[Any]] = {"rank": list(range(1, len(pairs) + 1))}
        ends = ((self.sides[0], 0, "a"), (self.sides[-1], 1, "b"))
        for title, name in (("sample", "sample_id"), ("label", "label"), ("group", "group_id")):
            for side, end, letter in ends:
                columns[f"{title}_{letter}"] = [side.columns[name][p[end]] for p in pairs]
            if title == "sample":
                columns["found_by"] = ["+".join(way) for way in ways]
                columns["hash_distance"] = [bits[pair] for pair in pairs]
                columns["orientation"] = [self.orientation.get(pair) for pair in pairs]
                columns["matched_points"] = [way.get("points") for way in ways]
                columns["embedding_closeness"] = [
                    None if "embedding" not in way else round(way["embedding"], 4) for way in ways
                ]
        for title, name in (("split", "split"), ("dataset", "dataset"), ("path", "path")):
            for side, end, letter in ends:
                columns[f"{title}_{letter}"] = [side.columns[name][p[end]] for p in pairs]
        columns["across_splits"] = [
            a != b for a, b in zip(columns["split_a"], columns["split_b"], strict=True)
        ]
        columns["confirmed"] = [None] * len(pairs)
        # A last None keeps numpy from making arrays of anything but objects.
        return {name: np.array([*v, None], dtype=object)[:-1] for name, v in columns.items()}

    def _key(self, a: int, b: int) -> tuple[int, int]:
        return (a, b) if len(self.sides) == 2 or a < b else (b, a)
