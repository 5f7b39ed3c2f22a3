"""The manifest: what is written is read, digests follow their parts, a bad file is refused."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustq.core import columns as tables
from trustq.data.manifest import (
    FORMAT_VERSION,
    REQUIRED,
    Description,
    Manifest,
    describe,
    make_manifest,
    mixed_groups,
    read_manifest,
    write_manifest,
)
from trustq.errors import TrustqError

ROWS = [
    # sample_id, path, label, group_id, split
    ("s1", "images/1.png", "nv", "L1", "train"),
    ("s2", "images/2.png", "nv", "L1", "train"),
    ("s3", "images/3.png", "mel", "L2", "val"),
    ("s4", "images/4.png", "nv", "L3", "test"),
    ("s5", "images/5.png", "mel", "L3", "test"),
]


def make_columns(rows=ROWS, **extra):
    names = ("sample_id", "path", "label", "group_id", "split")
    columns = dict(zip(names, map(texts, zip(*rows, strict=True)), strict=True))
    columns["dataset"] = texts(["toy"] * len(rows))
    columns["domain"] = texts(["drawn"] * len(rows))
    return {**columns, **extra}


def texts(values):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def make(columns=None, root=Path("data"), **settings) -> Manifest:
    settings = {"classes": ("nv", "mel"), "source": "toy.csv", **settings}
    return make_manifest(columns or make_columns(), root=root, **settings)


def refused(message):
    return pytest.raises(TrustqError, match=f"^{re.escape(message)}$")


def test_read_returns_what_was_written(tmp_path):
    ages = np.ma.masked_invalid([30.0, np.nan, 50.5, 60.0, np.nan])
    columns = make_columns(
        age=ages,
        sex=texts(["female", None, "it's", "unknown", '"male", 1']),
        never=texts([None] * 5),
        image_digest=texts(list("abcde")),
    )
    origin = {"seed": 3, "fractions": [0.7, 0.15, 0.15]}
    written = make(columns, root=tmp_path / "data", split_origin=origin)
    write_manifest(written, tmp_path / "tables" / "m.parquet")
    found = read_manifest(tmp_path / "tables" / "m.parquet")
    assert list(found.columns) == list(columns)
    for name in columns:
        assert found.columns[name].tolist() == columns[name].tolist(), name
    assert found.classes == ("nv", "mel") and found.split_origin == origin
    assert found.digests == written.digests
    assert found.image_path(0).resolve() == (tmp_path / "data/images/1.png").resolve()
    assert found.label_indices.tolist() == [0, 0, 1, 0, 1]


any_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)


@settings(max_examples=30)
@given(st.lists(any_text, min_size=1, max_size=12, unique=True), st.data())
def test_any_names_survive_the_file(tmp_path_factory, ids, data):
    n = len(ids)
    labels = data.draw(st.lists(any_text, min_size=n, max_size=n))
    notes = data.draw(st.lists(st.none() | any_text, min_size=n, max_size=n))
    rows = [(i, "x.png", label, i, "train") for i, label in zip(ids, labels, strict=True)]
    classes = tuple(dict.fromkeys(labels))
    written = make(make_columns(rows, note=texts(notes)), classes=classes)
    path = tmp_path_factory.mktemp("m") / "m.parquet"
    write_manifest(written, path)
    found = read_manifest(path)
    assert found.classes == classes and found.digests == written.digests
    assert found.columns["note"].tolist() == notes


def test_data_root_moves_with_the_manifest_and_can_be_replaced(tmp_path):
    write_manifest(make(root=tmp_path / "a" / "data"), tmp_path / "a" / "m.parquet")
    (tmp_path / "a").rename(tmp_path / "b")
    found = read_manifest(tmp_path / "b" / "m.parquet")
    assert found.root.resolve() == (tmp_path / "b" / "data").resolve()
    assert read_manifest(tmp_path / "b" / "m.parquet", root=tmp_path / "c").root == tmp_path / "c"


def changed(row, name, value):
    def change(columns):
        values = columns[name].copy()
        values[row] = value
        return {**columns, name: values}

    return change


def swapped_ids(columns):
    return {**columns, "sample_id": columns["sample_id"][[1, 0, 2, 3, 4]]}


CHANGES = {
    "one label": (changed(0, "label", "mel"), {"labels"}),
    "one split": (changed(2, "split", "external"), {"splits"}),
    "one group": (changed(2, "group_id", "L9"), {"groups"}),
    "order of ids": (swapped_ids, {"ids"}),
    "one image's bytes": (changed(4, "image_digest", "f"), {"ids"}),
    "metadata": (changed(1, "sex", "male"), set()),
    "another column": (lambda columns: {**columns, "age": np.arange(5.0)}, set()),
    "one path": (changed(0, "path", "moved/1.png"), set()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_digests_change_when_and_only_when_their_part_does(name):
    change, parts = CHANGES[name]
    columns = make_columns(sex=texts([None] * 5), image_digest=texts(list("abcde")))
    before, after = make(columns).digests, make(change(columns)).digests
    assert {part for part in before if before[part] != after[part]} == parts


def test_class_order_is_part_of_the_labels():
    before, after = make().digests, make(classes=("mel", "nv")).digests
    assert {part for part in before if before[part] != after[part]} == {"labels"}


def test_csv_is_accepted(tmp_path):
    lines = ["sample_id,path,label,group_id,split,dataset,domain,age"]
    lines += [",".join((*row, "toy", "drawn", age)) for row, age in zip(ROWS, "1234 ", strict=True)]
    path = tmp_path / "m.csv"
    path.write_text("\n".join(lines).replace(", ", ",") + "\n")
    found = read_manifest(path)
    assert found.classes == ("mel", "nv") and found.root == tmp_path
    assert found.columns["age"].tolist() == ["1", "2", "3", "4", None]
    assert found.split_origin == {"file": "m.csv"}
    assert found.digests["ids"] == make().digests["ids"]


def test_a_quote_far_down_a_csv_is_read(tmp_path):
    # DuckDB looks for quotes in the first 20,480 rows only, unless it is told of them.
    path = tmp_path / "m.csv"
    path.write_text("id,note\n" + "a,x\n" * 21_000 + 'b,"1, 2"\n')
    assert tables.read_table(path)["note"][-1] == "1, 2"


def test_description_counts_what_is_there():
    ages = np.ma.masked_invalid([30.0, np.nan, 50.5, 60.0, np.nan])
    manifest = make(make_columns(age=ages, sex=texts(["f", None, "m", "f", "f"])))
    assert describe(manifest) == Description(
        dataset="toy",
        n_rows=5,
        splits=("train", "val", "test"),
        counts={"nv": (2, 0, 1), "mel": (0, 1, 1)},
        groups=(1, 1, 1),
        blanks={"age": 2, "sex": 1},
        mixed_groups=("L3",),
    )


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), max_size=20))
def test_mixed_groups_are_those_of_several_labels(rows):
    labels, groups = np.array([*rows, (0, 0)]).T
    expected = {g for g in groups.tolist() if len(set(labels[groups == g].tolist())) > 1}
    found = mixed_groups(labels, groups)
    assert set(found) == expected and len(found) == len(expected)


def without(name):
    return {key: values for key, values in make_columns().items() if key != name}


REFUSALS = {
    "column": (
        without("group_id"),
        "toy.csv: the manifest lacks group_id; it needs sample_id, path, label, group_id, split, "
        "dataset, domain.",
    ),
    "blank": (
        changed(3, "group_id", None)(changed(1, "group_id", "")(make_columns())),
        "toy.csv: group_id is blank in rows 2, 4.",
    ),
    "duplicate": (
        changed(4, "sample_id", "s2")(make_columns()),
        "toy.csv: sample_id must be unique; repeated: 's2' (rows 2 and 5).",
    ),
    "label": (
        changed(2, "label", "melanoma")(make_columns()),
        "toy.csv: label 'melanoma' in row 3 is not one of nv, mel.",
    ),
    "split": (
        changed(2, "split", "valid")(make_columns()),
        "toy.csv: split 'valid' in row 3 is not one of train, val, test, external.",
    ),
    "group in two splits": (
        changed(1, "split", "test")(make_columns()),
        "toy.csv: group 'L1' is in both train and test. A group (lesion, patient) must lie in one "
        "split, or test images leak.",
    ),
    "no rows": ({name: texts([]) for name in REQUIRED}, "toy.csv: no rows."),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_rows_that_make_no_manifest_are_refused(name):
    columns, message = REFUSALS[name]
    with refused(message):
        make(columns)


@pytest.mark.parametrize("path", ["../secret.png", "a/../../b.png", "/etc/passwd", "a/.."])
def test_a_path_that_leaves_the_data_root_is_refused(tmp_path, path):
    columns = changed(3, "path", path)(make_columns())
    message = (
        f"path {path!r} in row 4 leaves the data root; paths are relative to it and contain no "
        "'..'."
    )
    with refused(f"toy.csv: {message}"):
        make(columns)
    # Nor in a file from elsewhere.
    outside = replace(make(), columns=columns)
    write_manifest(outside, tmp_path / "m.parquet")
    with refused(f"{tmp_path / 'm.parquet'}: {message}"):
        read_manifest(tmp_path / "m.parquet")


def test_a_repeated_class_is_refused():
    with refused("toy.csv: the class order nv, mel, nv repeats a class."):
        make(classes=("nv", "mel", "nv"))


def rewritten(path, columns=None, **footer):
    """The same file with other columns or footer entries, as a careless tool would write it."""
    metadata = {**tables.read_metadata(path), **footer}
    tables.write_parquet(path, columns or tables.read_table(path), metadata=metadata)


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("label", "mel", "labels"),
        ("split", "external", "splits"),
        ("group_id", "L9", "groups"),
        ("sample_id", "s9", "ids"),
        ("image_digest", "f", "ids"),
    ],
)
def test_an_altered_manifest_is_refused(tmp_path, name, value, parts):
    path = tmp_path / "m.parquet"
    write_manifest(make(make_columns(image_digest=texts(list("abcde")))), path)
    row = 2 if name != "label" else 0
    rewritten(path, changed(row, name, value)(tables.read_table(path)))
    with refused(
        f"{path}: {parts} do not match the digests in its footer, so it was altered after it was "
        "written. Make it again with `trustq data prepare`."
    ):
        read_manifest(path)


def test_a_rewritten_manifest_of_the_same_rows_is_read(tmp_path):
    path = tmp_path / "m.parquet"
    write_manifest(make(), path)
    rewritten(path, {**tables.read_table(path), "age": np.arange(5.0)})
    assert read_manifest(path).digests == make().digests


def test_a_newer_manifest_is_refused(tmp_path):
    path = tmp_path / "m.parquet"
    write_manifest(make(), path)
    rewritten(path, format_version=FORMAT_VERSION + 1)
    with refused(
        f"{path} has manifest format {FORMAT_VERSION + 1}; this trustq reads up to "
        f"{FORMAT_VERSION}. Upgrade trustq."
    ):
        read_manifest(path)


def test_a_parquet_file_that_is_no_manifest_is_refused(tmp_path):
    path = tmp_path / "m.parquet"
    tables.write_parquet(path, make_columns())
    with refused(f"{path} is no manifest of trustq; make one with `trustq data prepare`."):
        read_manifest(path)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with refused(f"{tmp_path / 'no.parquet'}: no such file."):
        read_manifest(tmp_path / "no.parquet")
    (tmp_path / "m.xlsx").write_bytes(b"PK")
    with refused(
        f"{tmp_path / 'm.xlsx'} could not be read as an Excel file: File is not a zip file."
    ):
        read_manifest(tmp_path / "m.xlsx")
    path = tmp_path / "m.parquet"
    write_manifest(make(), path)
    path.write_bytes(path.read_bytes()[:-20])  # a copy that was cut short
    with pytest.raises(TrustqError, match=f"^{re.escape(str(path))} could not be read: "):
        read_manifest(path)


def test_a_csv_without_labels_is_refused(tmp_path):
    (tmp_path / "m.csv").write_text("sample_id,path\na,b.png\n")
    with refused(
        f"{tmp_path / 'm.csv'}: the manifest lacks label; it needs sample_id, path, label, "
        "group_id, split, dataset, domain."
    ):
        read_manifest(tmp_path / "m.csv")
