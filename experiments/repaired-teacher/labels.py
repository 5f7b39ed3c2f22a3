"""Wrong labels that are known, and answers to an audit of them.

python labels.py draw MANIFEST CACHE SEED    noisySEED.csv and embeddingsSEED.npz of training rows
python labels.py answer MANIFEST SEED        auditSEED/truth.csv, the truth of what is listed
"""

import sys
from pathlib import Path

import numpy as np

from trustq.core.csv_files import read_csv
from trustq.data.manifest import read_manifest
from trustq.data.noise import draw_start, parse_noise
from trustq.store import read_cache


def draw(manifest_path: str, cache_path: str, seed: str) -> None:
    """Three in ten training labels become the next class, as extraction would draw them."""
    manifest, cache = read_manifest(Path(manifest_path)), read_cache(Path(cache_path))
    classes = np.array(manifest.classes)
    train = np.flatnonzero(manifest.columns["split"] == "train")
    ids = manifest.columns["sample_id"][train]
    noise = parse_noise("pair:0.3", classes=manifest.classes)
    start = draw_start(manifest.label_indices[train], noise=noise, trusted=0.0, seed=int(seed))
    given = classes[start.observed]
    write(Path(f"noisy{seed}.csv"), ids, given)
    place = {name: row for row, name in enumerate(cache.sample_id)}
    np.savez(
        f"embeddings{seed}.npz",
        features=cache.features[[place[name] for name in ids]],
        labels=given.astype(str),
        sample_ids=ids.astype(str),
        groups=manifest.columns["group_id"][train].astype(str),
    )


def answer(manifest_path: str, seed: str) -> None:
    """Say the truth of every listed row, and print how many were wrong."""
    manifest = read_manifest(Path(manifest_path))
    truth = dict(zip(manifest.columns["sample_id"], manifest.columns["label"], strict=True))
    sheet = read_csv(Path(f"noisy{seed}.csv"))
    given = dict(zip(sheet["sample_id"], sheet["label"], strict=True))
    listed = read_csv(Path(f"audit{seed}/answers.csv"))["sample_id"]
    write(Path(f"audit{seed}/truth.csv"), listed, [truth[name] for name in listed])
    wrong = {name for name in given if given[name] != truth[name]}
    print(f"{len(given):,} rows, {len(wrong):,} wrong; {len(listed):,} listed, "
          f"{len(wrong & set(listed)):,} of them wrong")  # fmt: skip


def write(path: Path, ids: "np.ndarray", labels: "np.ndarray | list[str]") -> None:
    """A table of sample_id and label."""
    rows = [f"{name},{label}\n" for name, label in zip(ids, labels, strict=True)]
    path.write_text("sample_id,label\n" + "".join(rows))


if __name__ == "__main__":
    {"draw": draw, "answer": answer}[sys.argv[1]](*sys.argv[2:])
