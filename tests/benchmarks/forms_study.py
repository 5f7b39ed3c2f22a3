"""Published forms end to end: read, evaluate, audit, repair; each figure beside its own count.

The forms: an npz in MedMNIST's layout, a Parquet file of Hugging Face, an export of the ISIC
Archive, MILK10k (one-hot by lesion, commas, nested images), and the real tables of PAD-UFES-20 and
ISIC 2019 below `--data`. Features and scores are simulated, for the files hold none; labels, groups
and splits are the files'.

Run: python tests/benchmarks/forms_study.py [--data FOLDER]
"""

import argparse
import csv
import gzip
import json
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from PIL import Image

import trustq as tq
from trustq.core.sql_text import literal
from trustq.data.manifest import write_manifest
from trustq.datasets import prepare

MILK = ["AKIEC", "BCC", "BEN_OTH", "BKL", "DF", "INF", "MAL_OTH", "MEL", "NV", "SCCKA", "VASC"]
WRONG = 0.1  # share of given labels that the audit has to find


def scores(labels: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits and features of n rows that mostly agree with their labels."""
    rng = np.random.default_rng(0)
    place = rng.normal(size=(k, 16))
    logits = rng.normal(size=(len(labels), k)) + 2.5 * np.eye(k)[labels]
    return logits, (rng.normal(size=(len(labels), 16)) + 2 * place[labels]).astype(np.float32)


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def read_rows(path: Path) -> list[dict[str, str]]:
    open_file: Any = gzip.open if path.suffix == ".gz" else open
    with open_file(path, "rt", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Form:
    """One form: rows as they are known beside the file, and the file with scores to read."""

    def __init__(self, truth: dict[str, str], classes: Sequence[str]) -> None:
        self.ids, self.classes = list(truth), list(classes)
        self.labels = np.array([self.classes.index(label) for label in truth.values()])
        self.logits, self.features = scores(self.labels, len(self.classes))
        self.path, self.names, self.meta = Path(), {}, []

    def beside(self, manifest: Path) -> "Form":
        """Scores in a file of their own, in another order and with endings, joined by id."""
        order = np.random.default_rng(1).permutation(len(self.ids))
        self.path, self.meta = manifest.with_suffix(".npz"), [manifest]
        self.names = {"labels": "label", "groups": "group_id"}
        ids = np.array([f"{self.ids[i]}.jpg" for i in order])
        np.savez(
            self.path, sample_ids=ids, logits=self.logits[order], features=self.features[order]
        )
        return self


def medmnist(folder: Path, _: Path) -> Form:
    form = Form({str(i): str(i % 7) for i in range(700)}, list(map(str, range(7))))
    parts = {"train": slice(0, 400), "val": slice(400, 500), "test": slice(500, 700)}
    arrays = {}
    for split, own in parts.items():
        arrays[f"{split}_images"] = np.zeros((len(form.ids[own]), 28, 28, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = form.labels[own, None].astype(np.uint8)
        arrays[f"{split}_logits"] = form.logits[own]
        arrays[f"{split}_features"] = form.features[own]
    form.path = folder / "dermamnist.npz"
    np.savez(form.path, **arrays)
    return form


def hugging_face(folder: Path, _: Path) -> Form:
    classes = ["Nevus, Reed", "9", "None"]
    form = Form({f"{i}.jpg": classes[i % 3] for i in range(300)}, classes)
    feature = {"info": {"features": {"label": {"names": classes, "_type": "ClassLabel"}}}}
    form.path = folder / "train-00000-of-00001.parquet"
    form.names = {"features": "embedding", "logits": "scores"}
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE t (image STRUCT(bytes BLOB, path VARCHAR), label BIGINT, "
            "embedding FLOAT[], scores DOUBLE[], split VARCHAR)"
        )
        rows = [
            [{"bytes": b"\xff\xd8", "path": form.ids[i]}, int(form.labels[i])]
            + [form.features[i].tolist(), form.logits[i].tolist()]
            + [["train", "train", "validation", "test"][i // 3 % 4]]
            for i in range(300)
        ]
        connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?)", rows)
        connection.execute(
            f"COPY t TO {literal(str(form.path))} "
            f"(FORMAT parquet, KV_METADATA {{huggingface: {literal(json.dumps(feature))}}})"
        )
    return form


def isic_archive(folder: Path, _: Path) -> Form:
    named = ["Benign", "Indeterminate", "Malignant"]
    rows = [
        [f"ISIC_{i:07d}", "A, B and C", 50, named[i // 2 % 3], "" if i % 4 else f"IL_{i}", "male"]
        for i in range(400)
    ]
    header = ["isic_id", "attribution", "age_approx", "diagnosis_1", "lesion_id", "sex"]
    path = write_rows(folder / "metadata.csv", header, rows)
    options = {"id_column": "isic_id", "path_column": "isic_id", "label_column": "diagnosis_1"}
    out = folder / "m.parquet"
    options |= {"group_column": "lesion_id"}
    found = prepare("csv", root=folder, out=out, table=path, metadata_only=True, **options)
    write_manifest(found, out)
    return Form({row[0]: row[3] for row in read_lists(path)}, named).beside(out)


def read_lists(path: Path) -> list[list[str]]:
    return [list(row.values()) for row in read_rows(path)]


def milk10k(folder: Path, _: Path) -> Form:
    root, n = folder / "milk", 220
    truth = [[f"IL_{i}", *(float(k == i % 11) for k in range(11))] for i in range(n)]
    write_rows(root / "MILK10k_Training_GroundTruth.csv", ["lesion_id", *MILK], truth)
    about, more = [], []
    for i in range(n):
        for kind, number in (("clinical: close-up", i), ("dermoscopic", 1000 + i)):
            name = f"ISIC_{number}"
            about.append([f"IL_{i}", kind, name, "Clinic, Vienna", 40 + i % 40, "male", "leg"])
            more.append([name, "Melanoma, NOS", "histopathology"])
            image = root / "MILK10k_Training_Input" / f"IL_{i}" / f"{name}.jpg"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (6, 5), (number % 256, 80, 90)).save(image)
    header = ["lesion_id", "image_type", "isic_id", "attribution", "age_approx", "sex", "site"]
    write_rows(root / "MILK10k_Training_Metadata.csv", header, about)
    words = ["isic_id", "diagnosis_full", "diagnosis_confirm_type"]
    write_rows(root / "MILK10k_Training_Supplement.csv", words, more)
    out = folder / "m.parquet"
    write_manifest(prepare("milk10k", root=root, out=out), out)
    return Form({row[2]: MILK[int(row[0][3:]) % 11] for row in map(list, about)}, MILK).beside(out)


def pad_ufes_20(folder: Path, data: Path) -> Form:
    out = folder / "m.parquet"
    found = prepare("pad-ufes-20", root=data / "pad_ufes_20", out=out, metadata_only=True)
    write_manifest(found, out)
    rows = read_rows(data / "pad_ufes_20" / "metadata.csv")
    truth = {row["img_id"].removesuffix(".png"): row["diagnostic"] for row in rows}
    return Form(truth, in_order(found.classes, truth)).beside(out)


def isic2019(folder: Path, data: Path) -> Form:
    out = folder / "m.parquet"
    found = prepare("isic2019", root=data / "isic2019", out=out, metadata_only=True)
    write_manifest(found, out)
    rows = read_rows(data / "isic2019" / "ISIC_2019_Training_GroundTruth.csv.gz")
    names = [name for name in rows[0] if name != "image"]
    truth = {row["image"]: next(n for n in names if float(row[n]) == 1) for row in rows}
    return Form(truth, in_order(found.classes, truth)).beside(out)


def in_order(classes: Sequence[str], truth: dict[str, str]) -> list[str]:
    """The manifest's order of the classes that the table itself has."""
    assert set(truth.values()) <= set(classes), set(truth.values()) ^ set(classes)
    return list(classes)


FORMS: dict[str, Callable[[Path, Path], Form]] = {
    "MedMNIST npz": medmnist,
    "Hugging Face Parquet": hugging_face,
    "ISIC Archive export": isic_archive,
    "MILK10k": milk10k,
    "PAD-UFES-20, real table": pad_ufes_20,
    "ISIC 2019, real tables": isic2019,
}


def end_to_end(form: Form, folder: Path) -> list[str]:
    """What each step gave, beside what it should: rows, accuracy, errors found, repaired labels."""
    names = form.names
    read = tq.read_predictions(form.path, names=names, meta=form.meta)
    ids = form.ids if form.path.suffix == ".parquet" or form.meta else None
    own = {one.rpartition(".")[0] or one: i for i, one in enumerate(form.ids)}
    rows = np.arange(len(read))
    if ids is not None:
        rows = np.array([own[str(one).removesuffix(".jpg")] for one in read.sample_ids])
    judged = read.judged() if read.split is not None else np.ones(len(read), dtype=bool)
    assert form.classes == list(read.classes), read.classes
    right = (form.logits[rows].argmax(axis=1) == form.labels[rows])[judged].mean()
    seen = tq.evaluate(read, replicates=50).report["uncalibrated"]["figures"]["accuracy"]["value"]
    cache = tq.import_cache(form.path, exposure="frozen", names=names, meta=form.meta)
    wrong = np.random.default_rng(2).random(len(cache.label)) < WRONG
    k = len(cache.classes)
    given = np.where(wrong, (cache.label + 1) % k, cache.label)
    report = tq.audit_labels(
        {"features": cache.features, "labels": given, "groups": cache.group_id},
        review=int(wrong.sum()),
    )
    listed = [int(one) for one in report.issues["sample_id"]]
    settings = {"arms": "none,random", "noise": "symmetric:0.2", "budgets": "10"}
    tq.repair([cache], results=folder / "r", references=False, **settings)
    counts = tq.Results(folder / "r").sql("SELECT count(*) AS n FROM runs")
    return [
        f"{len(read)} of {len(form.ids)}",
        f"{seen:.4f}, {right:.4f}",
        f"{wrong[listed].mean():.2f}, {WRONG:.2f}",
        f"{int(counts['n'][0])} of 2",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    data = parser.parse_args().data
    warnings.simplefilter("ignore")
    print("| form | rows | accuracy seen, counted | wrong among listed, at random | runs |")
    print("|---" * 5 + "|")
    for name, make in FORMS.items():
        with tempfile.TemporaryDirectory() as folder:
            cells = end_to_end(make(Path(folder), data), Path(folder))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
