"""Mirrored and turned copies among real images, and what comparing hashes costs.

    python tests/benchmarks/duplicates_study.py FOLDER... --scratch FOLDER

Of each folder's images 40 an orientation, of few images fewer, are copied: mirrored or turned,
cropped by 5 % on two sides or all round or not, saved as JPEG of quality 60. Found are pairs within
30 of 256 bits as they are, 26 once turned; "others" are found pairs of other images, where a set's
own copies count too. Then made hashes are compared, in processor seconds: compiled and by numpy in
turn, and by imagehash's own difference of two hashes.
"""

import argparse
import time
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from trustq.audit.duplicates.close_pairs import hash_pairs
from trustq.audit.duplicates.fingerprints import VIEWS, WORDS, fingerprint_images
from trustq.audit.duplicates.hash_distances import Hashes, compare

TURNS = {
    "mirrored left to right": Image.Transpose.FLIP_LEFT_RIGHT,
    "mirrored top to bottom": Image.Transpose.FLIP_TOP_BOTTOM,
    "turned by 180 degrees": Image.Transpose.ROTATE_180,
    "turned by 90 degrees": Image.Transpose.ROTATE_90,
    "turned by 270 degrees": Image.Transpose.ROTATE_270,
    "transposed": Image.Transpose.TRANSPOSE,
    "transversed": Image.Transpose.TRANSVERSE,
}
CROPS = {
    "whole": (0, 0, 1, 1),
    "cropped": (0.05, 0, 1, 0.95),
    "cropped both": (0.03, 0.02, 0.98, 0.97),
}
COPIES = 40


def found_among(folder: Path, scratch: Path, n: int, threads: int) -> list[str]:
    """A row of the table for each kind of crop."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".png"})
    rng = np.random.default_rng(0)
    paths = [paths[i] for i in rng.permutation(len(paths))[:n]]
    prints = fingerprint_images(paths, keypoints=False, threads=threads)
    alone = np.full(len(paths), -1)
    lines, each = [], min(COPIES, len(paths) // len(TURNS))
    for crop, (left, top, right, bottom) in CROPS.items():
        copies, source = [], []
        for number, turn in enumerate(TURNS.values()):
            for at in range(number * each, (number + 1) * each):
                with Image.open(paths[at]) as image:
                    made = image.convert("RGB").transpose(turn)
                    box = tuple(
                        round(v * s)
                        for v, s in zip((left, top, right, bottom), made.size * 2, strict=True)
                    )
                    copies.append(scratch / f"{at}.jpg")
                    made.crop(box).save(copies[-1], quality=60)
                    source.append(at)
        theirs = fingerprint_images(copies, keypoints=False, threads=threads).hashes
        ones = np.zeros(len(paths)), np.zeros(len(copies))
        pairs = hash_pairs(
            prints.hashes, theirs, max_distance=30, max_turned=26, reach=30,
            groups=(alone, np.full(len(copies), -1)), labels=ones, threads=threads,
        )  # fmt: skip
        as_they_are = {*zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)}
        turned = {*zip(*pairs.turned[:2].tolist(), strict=True)}
        right_ones = {*zip(source, range(len(copies)), strict=True)}
        lines.append(
            f"| {folder.name} | {len(paths):,} | {crop} | {len(right_ones)} "
            f"| {len(turned & right_ones)} | {len(as_they_are & right_ones)} "
            f"| {len(turned - right_ones)} of {len(paths) * len(copies):,} |"
        )
    return lines


def speeds() -> list[str]:
    """Pairs a second, of one thread: compiled, by numpy, by imagehash."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, (4096, len(VIEWS), WORDS), dtype=np.uint64)
    side = Hashes.of(hashes)
    rows = [slice(start, start + 64) for start in range(0, 1024, 64)]
    tile = slice(0, 1024)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    compare(side, side, rows[0], tile, compiled=True)  # compiles
    for block in rows:
        for compiled, taken in seconds.items():
            start = time.process_time()
            for _ in range(10 if compiled else 1):
                compare(side, side, block, tile, compiled=compiled)
            taken.append((time.process_time() - start) / (10 if compiled else 1))
    bits = np.unpackbits(hashes[:64].view(np.uint8), axis=-1).astype(bool)
    frames = [imagehash.ImageHash(b.reshape(16, 16)) for b in bits[:, 0]]
    views = [[imagehash.ImageHash(b.reshape(16, 16)) for b in image] for image in bits]
    start = time.process_time()
    for a in range(16):
        for b in range(16):
            min(*(frames[a] - v for v in views[b]), *(frames[b] - v for v in views[a]))
    peer = 256 / (time.process_time() - start)
    rates = {name: 64 * 1024 / np.median(seconds[name]) for name in seconds}
    return [
        f"| compiled (numba), eight orientations | {rates[True] / 1e6:.1f} M |",
        f"| numpy, eight orientations | {rates[False] / 1e6:.1f} M |",
        f"| imagehash, as they are alone | {peer / 1e6:.4f} M |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    args.scratch.mkdir(parents=True, exist_ok=True)
    print("| images | of them | copies | made | found | found unturned | others found |")
    print("|---|---|---|---|---|---|---|")
    for folder in args.folders:
        print(*found_among(folder, args.scratch, args.n, args.threads), sep="\n", flush=True)
    print("\n| comparison | pairs of images a second |\n|---|---|")
    print(*speeds(), sep="\n")


if __name__ == "__main__":
    main()
