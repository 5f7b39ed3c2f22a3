"""One taxonomy over data sets: every label has its meaning, and what does not fit is named."""

import re
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from trustq.core.columns import read_table
from trustq.data.manifest import make_manifest
from trustq.data.taxonomy import CONDITIONS, TARGETS, label_key, map_labels, read_taxonomy
from trustq.datasets import bcn20000, isic2018_task3, isic2019, pad_ufes_20
from trustq.datasets.rows import Rows, texts
from trustq.datasets.target import retarget, with_target
from trustq.errors import TrustqError

SHARED = Path(__file__).resolve().parents[2] / "shared"
TABLES = [
    path.name.removesuffix(".csv")
    for path in files("trustq.datasets").joinpath("taxonomy").iterdir()
]


def refused(message):
    return pytest.raises(TrustqError, match=f"^{re.escape(message)}$")


def rows_of(labels, classes=None, **columns):
    n = len(labels)
    base = {name: texts([f"{name}{i}" for i in range(n)]) for name in ("sample_id", "group_id")}
    columns = {**base, "label": texts(labels), **columns}
    return Rows(columns, tuple(classes or sorted(set(labels))), Path("."), "t.csv")


@pytest.mark.parametrize("name", TABLES)
def test_every_table_can_be_read_and_agrees_with_itself(name):
    table = read_taxonomy(name)
    malignant = set(CONDITIONS[:4])
    for native, meaning in table.items():
        assert meaning.condition in CONDITIONS, native
        # The four malignant conditions are so everywhere, the benign ones nowhere.
        if meaning.condition in malignant:
            assert meaning.malignant == "malignant", native
        elif meaning.condition != "other":
            assert meaning.malignant == "benign", native


def test_a_label_means_the_same_in_every_table():
    meanings = {}
    for name in TABLES:
        for label, meaning in read_taxonomy(name).items():
            assert meanings.setdefault(label, meaning) == meaning, (name, label)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("ham10000", isic2018_task3.CLASSES),
        ("isic2019", (*isic2019.CLASSES, "UNK")),
        ("bcn20000", isic2019.CLASSES),
        ("pad-ufes-20", pad_ufes_20.CLASSES),
    ],
)
def test_every_published_class_has_a_meaning(name, labels):
    assert {label_key(label) for label in labels} <= set(read_taxonomy(name))
    assert bcn20000.HOW.startswith("The data are at ")


def test_the_two_classes_of_akiec_part_in_isic2019():
    table = read_taxonomy("isic2019")
    assert table["ak"].ham10000 == table["scc"].ham10000 == "akiec"
    assert (table["ak"].condition, table["scc"].condition) == (
        "actinic_keratosis",
        "squamous_cell_carcinoma",
    )
    assert table["unk"] == ("other", None, None)


def test_labels_are_found_in_any_spelling_and_unknown_ones_are_counted():
    found = map_labels(
        texts(["Basal-cell  Carcinoma", "nevus", "odd", "odd"]), read_taxonomy("bcn20000")
    )
    assert found.columns["condition"].tolist() == ["basal_cell_carcinoma", "nevus", None, None]
    assert found.columns["ham10000"].tolist() == ["bcc", "nv", None, None]
    assert found.notes == ("Labels that the taxonomy lacks, left without a condition: odd (2).",)


def test_the_column_of_the_data_set_decides_and_conflicts_are_counted():
    own = texts(["malignant", "benign", None])
    found = map_labels(texts(["nv", "nv", "mel"]), read_taxonomy("ham10000"), malignant=own)
    assert found.columns["malignant"].tolist() == ["malignant", "benign", "malignant"]
    assert found.notes == (
        "Rows whose malignancy the taxonomy has otherwise: 1. The data set's own column decides: "
        "nv, malignant in the data set and benign in the taxonomy (1).",
    )


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="needs the real data in ../shared/data")
def test_a_map_that_calls_lymphoma_benign_is_found_out_on_the_real_table(tmp_path):
    # What a public project's map says of these three (their conditions are "other").
    table = read_table(SHARED / "data" / "fitzpatrick17k" / "fitzpatrick17k.csv.gz")
    partition = np.where(table["three_partition_label"] == "malignant", "malignant", "benign")
    with_public_map = read_taxonomy("fitzpatrick17k")
    for label in ("mycosis fungoides", "kaposi sarcoma", "lentigo maligna"):
        with_public_map[label] = with_public_map[label]._replace(malignant="benign")
    found = map_labels(table["label"], with_public_map, malignant=partition.astype(object))
    assert found.notes == (
        "Rows whose malignancy the taxonomy has otherwise: 421. The data set's own column decides: "
        "mycosis fungoides, malignant in the data set and benign in the taxonomy (182); kaposi "
        "sarcoma, malignant in the data set and benign in the taxonomy (156); lentigo maligna, "
        "malignant in the data set and benign in the taxonomy (83).",
    )
    assert (found.columns["malignant"] == partition).all()
    ours = map_labels(table["label"], read_taxonomy("fitzpatrick17k"), malignant=partition)
    counts = Counter(ours.columns["condition"].tolist())
    assert ours.notes == () and counts["non_neoplastic"] == 12_080 + 170
    assert counts["vascular"] == 75 + 113 + 100 + 59 + 126  # granuloma pyogenic among them


def test_a_target_becomes_the_label_and_the_rest_stays():
    rows = with_target(rows_of(["MEL", "NV", "SCC"]), "malignant", taxonomy="isic2019")
    assert rows.columns["label"].tolist() == ["malignant", "benign", "malignant"]
    assert rows.classes == ("benign", "malignant")
    assert rows.columns["native"].tolist() == ["MEL", "NV", "SCC"]
    assert set(TARGETS) <= set(rows.columns)
    plain = rows_of(["cat"])
    assert with_target(plain, "native", taxonomy=None) is plain


def test_a_target_that_does_not_hold_is_refused():
    with refused("`target=malignant`: these data have native."):
        with_target(rows_of(["cat"]), "malignant", taxonomy=None)
    with refused("`target=dx`: these data have native, condition, malignant, ham10000."):
        with_target(rows_of(["nv"]), "dx", taxonomy="ham10000")
    with refused(
        "t.csv: no condition for odd (2 rows), strange (1 row). Leave them out ("
        "`drop=odd,strange`), or give your own table (`taxonomy=FILE`)."
    ):
        with_target(rows_of(["odd", "nv", "odd", "strange"]), "condition", taxonomy="ham10000")
    kept = with_target(
        rows_of(["odd", "nv", "odd"]), "condition", taxonomy="ham10000", drop=["odd"]
    )
    assert kept.columns["label"].tolist() == ["nevus"]
    assert kept.notes == ("Rows left out by `drop`: 2 of 3.",)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["label,condition"],
         "expected the columns native, condition, malignant, ham10000; found label, condition."),
        (["native,condition,malignant,ham10000", "nv,naevus,benign,nv"],
         f"condition 'naevus' in row 1 (nv) is not one of {', '.join(CONDITIONS)}."),
        (["native,condition,malignant,ham10000", "nv,nevus,benign,nv", "NV,nevus,benign,nv"],
         "'NV' in row 2 is there twice."),
    ],
)  # fmt: skip
def test_a_fault_in_a_table_of_ones_own_names_its_row(tmp_path, lines, message):
    path = tmp_path / "own.csv"
    path.write_text("\n".join(lines) + "\n")
    with refused(f"{path}: {message}"):
        read_taxonomy(path)


def test_another_column_becomes_the_label_of_a_manifest():
    columns = {name: texts(["x", "y", "z"]) for name in ("sample_id", "path", "group_id")}
    columns |= {name: texts(["d"] * 3) for name in ("dataset", "domain")}
    columns |= {"label": texts(["nv", "mel", "nv"]), "split": texts(["train"] * 3)}
    columns |= {"malignant": texts(["benign", "malignant", None]), "device": texts(["b", "a", "b"])}
    columns["empty"] = texts([None] * 3)
    manifest = make_manifest(columns, classes=("mel", "nv"), root=Path("."), source="m")
    found = retarget(manifest, "malignant")
    assert found.classes == ("benign", "malignant") and len(found) == 2
    assert retarget(manifest, "device").classes == ("a", "b")
    with refused("Column 'empty' of the manifest has no value in any row."):
        retarget(manifest, "empty")
    with pytest.raises(TrustqError, match=r"^The manifest has no column 'dx'; it has sample_id, "):
        retarget(manifest, "dx")


def test_a_nan_is_no_class_of_a_target():
    columns = {name: texts(["x", "y"]) for name in ("sample_id", "path", "label", "group_id")}
    columns |= {name: texts(["train", "train"]) for name in ("split", "dataset", "domain")}
    columns["grade"] = np.array([2.0, np.nan])
    found = retarget(
        make_manifest(columns, classes=("x", "y"), root=Path("."), source="m"), "grade"
    )
    assert (found.classes, found.columns["sample_id"].tolist()) == (("2.0",), ["x"])
