"""`trustq data`: published files become a manifest, or an error that names rows."""

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from trustq.core import columns as tables
from trustq.core.digest import digest_bytes
from trustq.data.manifest import read_manifest
from trustq.datasets import ADAPTERS, prepare
from trustq.errors import TrustqError

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_shared = pytest.mark.skipif(
    not (SHARED / "data").is_dir(), reason="needs the real data in ../shared/data"
)

HEADER = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
HAM_ROWS = [
    ("HAM_1", "ISIC_1", "nv", "histo", "30.0", "male", "back"),
    ("HAM_1", "ISIC_2", "nv", "histo", "30.0", "male", "back"),
    ("HAM_2", "ISIC_3", "mel", "follow_up", "", "unknown", "unknown"),
    ("HAM_3", "ISIC_4", "vasc", "consensus", "0.0", "female", ""),
    ("HAM_4", "ISIC_5", "akiec", "confocal", "85.0", "female", "face"),
]


def run(*words):
    (point,) = entry_points(group="console_scripts", name="trustq")
    return CliRunner().invoke(point.load(), ["data", *map(str, words)])


def write_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_images(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(str(path).encode())  # prepare reads bytes, not pixels


def make_ham10000(root, rows=HAM_ROWS, header=HEADER, images="images"):
    write_csv(root / "HAM10000_metadata.csv", header, rows)
    write_images(*(root / images / f"ISIC_{i}.jpg" for i in range(1, 6)))
    return root


def refused(message):
    return pytest.raises(TrustqError, match=f"^{re.escape(message)}$")


def column(manifest, name):
    return manifest.columns[name].tolist()


# HAM10000, as it was published


@pytest.fixture(scope="module")
def real_ham10000(tmp_path_factory):
    root = tmp_path_factory.mktemp("ham10000")
    script = SHARED / "tools" / "unpack_ham10000.py"
    subprocess.run([sys.executable, script, root], check=True, capture_output=True)
    return prepare("ham10000", root=root, out=root / "m.parquet", seed=42)


@needs_shared
def test_real_ham10000_has_the_published_counts(real_ham10000):
    # data/ham10000/SOURCE.md: the images of both archives.
    counts = {"akiec": 306, "bcc": 480, "bkl": 1017, "df": 97, "mel": 1037, "nv": 6225, "vasc": 124}
    assert Counter(column(real_ham10000, "label")) == counts
    assert len(set(column(real_ham10000, "group_id"))) == 4344 + 2591
    assert real_ham10000.classes == tuple(counts)
    assert real_ham10000.split_origin == {"seed": 42, "fractions": [0.7, 0.15, 0.15]}


@needs_shared
def test_real_ham10000_is_split_by_lesion_and_evenly(real_ham10000):
    columns = real_ham10000.columns
    split_of = {}
    for lesion, split in zip(columns["group_id"], columns["split"], strict=True):
        assert split_of.setdefault(lesion, split) == split
    for name, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
        part = columns["split"] == name
        assert part.mean() == pytest.approx(share, abs=0.001)
        for label in real_ham10000.classes:
            assert part[columns["label"] == label].mean() == pytest.approx(share, abs=0.02)
        # Lesions of several images are spread as well, and with them what goes with them.
        n_lesions = len(set(columns["group_id"][part]))
        assert n_lesions / 6935 == pytest.approx(share, abs=0.001)
        assert (columns["label_source"][part] == "histo").mean() == pytest.approx(0.53, abs=0.04)


@needs_shared
def test_real_ham10000_keeps_metadata_and_digests_of_images(real_ham10000):
    path = real_ham10000.root / "m.parquet"
    found = read_manifest(path)
    assert found.digests == real_ham10000.digests
    assert found.columns["age"].dtype == np.float64 and found.columns["age"].mask.sum() == 52
    for row in (0, 5000, 9285):
        image = found.image_path(row)
        assert image.stem == found.columns["sample_id"][row]
        assert digest_bytes(image.read_bytes()) == found.columns["image_digest"][row]


@needs_shared
def test_real_tables_of_other_data_sets_are_read_as_csv(tmp_path):
    table = SHARED / "data" / "isic2018_task3_test" / "ISIC2018_Task3_Test_GroundTruth.csv"
    ids = tables.read_table(table)["image_id"].tolist()
    write_images(*(tmp_path / f"{i}.jpg" for i in ids))
    names = {"id_column": "image_id", "path_column": "image_id", "label_column": "dx"}
    out = tmp_path / "m.parquet"
    found = prepare("csv", root=tmp_path, out=out, table=table, group_column="lesion_id", **names)
    assert len(found) == 1512 and len(set(column(found, "group_id"))) == 1223
    assert Counter(column(found, "label"))["nv"] == 909
    # The manifest's own `dataset` is the name of the table; the published column is kept.
    assert found.dataset == "ISIC2018_Task3_Test_GroundTruth"
    assert Counter(column(found, "table_dataset"))["external"] == 316


# HAM10000, both schemas and every fault


def test_ham10000_columns(tmp_path):
    root = make_ham10000(tmp_path / "data")
    found = prepare("ham10000", root=root, out=tmp_path / "m.parquet")
    assert column(found, "sample_id") == [f"ISIC_{i}" for i in range(1, 6)]
    assert column(found, "path")[0] == "images/ISIC_1.jpg"
    assert column(found, "group_id") == ["HAM_1", "HAM_1", "HAM_2", "HAM_3", "HAM_4"]
    assert column(found, "age") == [30.0, 30.0, None, 0.0, 85.0]
    assert column(found, "sex")[2] == column(found, "site")[2] == "unknown"
    assert column(found, "site")[3] is None
    assert column(found, "label_source")[3] == "consensus"
    assert set(column(found, "domain")) == {"dermoscopic"} and found.dataset == "ham10000"
    assert "acquisition_source" not in found.columns


def test_ham10000_with_its_newer_column_and_published_folders(tmp_path):
    rows = [(*row, "rosendahl") for row in HAM_ROWS]
    root = make_ham10000(tmp_path, rows, (*HEADER, "dataset"), "HAM10000_images_part_1")
    (root / "HAM10000_images_part_2").mkdir()
    moved = "HAM10000_images_part_2/ISIC_4.jpg"
    (root / "HAM10000_images_part_1/ISIC_4.jpg").rename(root / moved)
    (root / "HAM10000_metadata.csv").rename(root / "HAM10000_metadata")  # as in the Dataverse
    found = prepare("ham10000", root=root, out=tmp_path / "m.parquet")
    assert column(found, "acquisition_source") == ["rosendahl"] * 5
    assert found.dataset == "ham10000"
    assert column(found, "path")[2:4] == ["HAM10000_images_part_1/ISIC_3.jpg", moved]


def make_challenge(root, marks=None, lesions=None):
    classes = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
    marks = marks or [
        (image, *(f"{float(name == dx.upper())}" for name in classes))
        for _, image, dx, *_ in HAM_ROWS
    ]
    lesions = lesions or [(image, lesion, "histopathology") for lesion, image, *_ in HAM_ROWS[::-1]]
    write_csv(
        root / "ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv",
        ("image", *classes),
        marks,
    )
    header = ("image", "lesion_id", "diagnosis_confirm_type")
    write_csv(root / "ISIC2018_Task3_Training_LesionGroupings.csv", header, lesions)
    write_images(*(root / f"ISIC2018_Task3_Training_Input/ISIC_{i}.jpg" for i in range(1, 6)))
    return root


def test_both_schemas_of_ham10000_give_the_same_rows(tmp_path):
    for name, make in (("one", make_ham10000), ("other", make_challenge)):
        prepare("ham10000", root=make(tmp_path / name), out=tmp_path / f"{name}.parquet")
    one, other = (read_manifest(tmp_path / f"{name}.parquet") for name in ("one", "other"))
    for part in ("labels", "groups", "splits"):
        assert one.digests[part] == other.digests[part]
    assert column(one, "sample_id") == column(other, "sample_id")
    assert set(column(other, "label_source")) == {"histopathology"}


def edited(row, name, value):
    rows = [list(row) for row in HAM_ROWS]
    rows[row][HEADER.index(name)] = value
    return rows


ADD_IMAGES = (
    "Add the images, leave out rows without one (`skip_missing`), or make a manifest of the table "
    "alone (`metadata_only`). The data are in the Harvard Dataverse, doi 10.7910/DVN/DBW86T, and "
    "in the ISIC Archive's collection HAM10000."
)
HAM_FAULTS = {
    "label": (
        edited(2, "dx", "scc"),
        "{file}: dx 'scc' in row 3 (ISIC_3) is not one of akiec, bcc, bkl, df, mel, nv, vasc. "
        "Say what it means with `rename=scc=akiec`, or with another of these.",
    ),
    "image": (
        edited(1, "image_id", "ISIC_9"),
        "{file}: no image under {root} for row 2 (ISIC_9), of 5. " + ADD_IMAGES,
    ),
    "images": (
        [(f"HAM_{i}", f"ISIC_{i}", *HAM_ROWS[0][2:]) for i in range(10, 17)],
        "{file}: no image under {root} for rows 1 (ISIC_10), 2 (ISIC_11), 3 (ISIC_12), 4 (ISIC_13)"
        ", 5 (ISIC_14) and 2 more, of 7. " + ADD_IMAGES,
    ),
    "duplicate": (
        edited(4, "image_id", "ISIC_1"),
        "{file}: sample_id must be unique; repeated: 'ISIC_1' (rows 1 and 5).",
    ),
    "blank id": (edited(3, "image_id", ""), "{file}: sample_id is blank in row 4."),
    "age": (
        edited(3, "age", "old"),
        "{file}: age 'old' in row 4 (ISIC_4) is not a number. Leave it blank, or write the number.",
    ),
}


@pytest.mark.parametrize("name", HAM_FAULTS)
def test_a_fault_in_ham10000_names_its_rows(tmp_path, name):
    rows, message = HAM_FAULTS[name]
    root = make_ham10000(tmp_path, rows)
    with refused(message.format(root=root, file=root / "HAM10000_metadata.csv")):
        prepare("ham10000", root=root, out=tmp_path / "m.parquet")
    assert not (tmp_path / "m.parquet").exists()


def test_ham10000_without_a_column_or_a_table_is_refused(tmp_path):
    root = make_ham10000(tmp_path, header=(*HEADER[:-1], "location"))
    with refused(
        f"{root / 'HAM10000_metadata.csv'} has no column 'localization'; its columns are "
        "lesion_id, image_id, dx, dx_type, age, sex, location. Did you mean 'location'?"
    ):
        prepare("ham10000", root=root, out=tmp_path / "m.parquet")
    (root / "HAM10000_metadata.csv").unlink()
    with refused(
        f"{root} holds neither HAM10000_metadata.csv nor ISIC2018_Task3_Training_GroundTruth.csv."
    ):
        prepare("ham10000", root=root, out=tmp_path / "m.parquet")


def test_a_fault_in_the_challenge_tables_names_its_rows(tmp_path):
    root = make_challenge(tmp_path, marks=[("ISIC_1", 1, 1, 0, 0, 0, 0, 0), ("ISIC_2", *[0] * 7)])
    name = "ISIC2018_Task3_Training_GroundTruth"
    with refused(
        f"{root / name / name}.csv: expected one 1 among the classes and 0 elsewhere in "
        "rows 1 (ISIC_1) and 2 (ISIC_2)."
    ):
        prepare("ham10000", root=root, out=tmp_path / "m.parquet")
    groupings = root / "ISIC2018_Task3_Training_LesionGroupings.csv"
    make_challenge(tmp_path, lesions=[(f"ISIC_{i}", "HAM_1", "") for i in (1, 3, 4, 5)])
    with refused(f"{groupings} gives no lesion for row 2 (ISIC_2) of {name}.csv."):
        prepare("ham10000", root=root, out=tmp_path / "m.parquet")
    groupings.unlink()
    with refused(
        f"{root}: {name}.csv is there and {groupings.name} is not. Without it images of one lesion "
        "would fall into several splits; get it from the ISIC 2018 challenge page."
    ):
        prepare("ham10000", root=root, out=tmp_path / "m.parquet")


# One folder per class


def test_folder_takes_images_of_any_depth_and_case(tmp_path):
    names = ["b/2.JPG", "b/deep/er/1.webp", "a/3.Tiff", "a/.hidden.png", ".git/x.png", "a/n.txt"]
    write_images(*(tmp_path / "in" / name for name in [*names, "README.md"]))
    said = []
    found = prepare("folder", root=tmp_path / "in", out=tmp_path / "m.parquet", say=said.append)
    assert column(found, "path") == ["a/3.Tiff", "b/2.JPG", "b/deep/er/1.webp"]
    assert column(found, "sample_id") == ["a/3", "b/2", "b/deep/er/1"]
    assert column(found, "group_id") == column(found, "sample_id")
    assert column(found, "label") == ["a", "b", "b"] and found.classes == ("a", "b")
    assert found.dataset == "in"
    assert said == [
        "Every image is its own group. If several show one subject, say which: `group_regex`.",
        "Files ignored, being no image of a class folder: 2.",
    ]


def test_a_class_called_train_and_a_table_beside_folders_change_no_labels(tmp_path):
    # imagefolder loses rows or labels: findings/datasets-a-class-called-train.sh and
    # findings/datasets-metadata-in-place-of-labels.sh.
    names = ["bus/1.png", "car/1.png", "car/a-test-1.png", "train/1.png"]
    write_images(*(tmp_path / "in" / name for name in names))
    (tmp_path / "in/metadata.csv").write_text("file_name,age\nbus/1.png,40\n")
    said = []
    found = prepare("folder", root=tmp_path / "in", out=tmp_path / "m.parquet", say=said.append)
    assert column(found, "path") == names
    assert column(found, "label") == ["bus", "car", "car", "train"]
    assert said[1:] == [
        "Taken for a class and not for a split, for folders of other names stand beside: train.",
        "Files ignored, being no image of a class folder: 1.",
    ]


def test_folder_keeps_endings_where_ids_would_repeat(tmp_path):
    write_images(tmp_path / "in/a/1.jpg", tmp_path / "in/a/1.png", tmp_path / "in/b/1.png")
    found = prepare("folder", root=tmp_path / "in", out=tmp_path / "m.parquet")
    assert column(found, "sample_id") == ["a/1.jpg", "a/1.png", "b/1.png"]


def test_folder_finds_groups_in_names(tmp_path):
    write_images(*(tmp_path / "in" / n for n in ("a/p1_1.png", "b/p1_2.png", "b/p2_1.png")))
    said = []
    found = prepare(
        "folder",
        root=tmp_path / "in",
        out=tmp_path / "m.parquet",
        group_regex=r"(p\d+)_",
        say=said.append,
    )
    assert column(found, "group_id") == ["p1", "p1", "p2"]
    assert said == ["Groups that carry more than one label, each kept whole: 1 (p1)."]
    assert len(set(column(found, "split")[:2])) == 1


def test_a_folder_that_is_no_data_set_is_refused(tmp_path):
    root, out = tmp_path / "in", tmp_path / "m.parquet"
    with refused(f"{root}: no such folder."):
        prepare("folder", root=root, out=out)
    root.mkdir()
    with refused(f"{root} holds no folders; expected one folder of images per class."):
        prepare("folder", root=root, out=out)
    write_images(root / "a/1.png", root / "b/notes.txt")
    with refused(
        f"{root}: the class folder 'b' holds no images (jpg, jpeg, png, bmp, tif, tiff, webp). "
        "Fill it or remove it."
    ):
        prepare("folder", root=root, out=out)
    write_images(root / "b/2.png")
    with refused(f"{root}: `group_regex=p(\\d)` finds no group in 'a/1.png'."):
        prepare("folder", root=root, out=out, group_regex="p(\\d)")
    with pytest.raises(TrustqError, match=r"^`group_regex=\(` is an invalid regular expression: "):
        prepare("folder", root=root, out=out, group_regex="(")


# Any table

TABLE = ("image", "dx", "lesion", "age", "part")
TABLE_ROWS = [
    ("x/1", "nv", "L1", "30", "train"),
    ("x/2.png", "mel", "L1", "", "train"),
    ("x/3", "nv", "L2", "41", "val"),
]
NAMES = {"id_column": "image", "path_column": "image", "label_column": "dx"}


@pytest.fixture
def table(tmp_path):
    write_images(*(tmp_path / "in" / n for n in ("x/1.JPG", "x/1.png", "x/2.png", "x/3.tif")))
    return write_csv(tmp_path / "t.csv", TABLE, TABLE_ROWS)


def prepare_table(table, **options):
    return prepare(
        "csv", root=table.parent / "in", out=table.parent / "m.parquet", table=table, **options
    )


def test_table_columns_are_named_by_options(table):
    found = prepare_table(table, **NAMES, group_column="lesion", split_column="part")
    assert column(found, "sample_id") == ["x/1", "x/2.png", "x/3"]
    assert column(found, "path") == ["x/1.png", "x/2.png", "x/3.tif"]
    assert column(found, "label") == ["nv", "mel", "nv"] and found.classes == ("mel", "nv")
    assert column(found, "group_id") == ["L1", "L1", "L2"]
    assert column(found, "split") == ["train", "train", "val"]
    assert column(found, "age") == ["30", None, "41"]
    assert found.dataset == "t" and set(column(found, "domain")) == {"unknown"}
    assert found.split_origin == {"file": "t.csv", "column": "part"}
    assert not {"image", "dx", "lesion", "part"} & set(found.columns)


def test_table_without_groups_makes_every_row_its_own_and_says_so(table):
    said = []
    found = prepare_table(table, **NAMES, say=said.append)
    assert column(found, "group_id") == column(found, "sample_id")
    assert said == [
        "Every row is its own group, and lesion is not used. If several show one subject, say "
        "which: `group_column`.",
        "part is not used. If it says the splits of rows, name it: `split_column`.",
    ]
    assert found.split_origin["seed"] == 0 and column(found, "part") == ["train", "train", "val"]


def test_a_manifest_is_itself_a_table(table):
    first = prepare_table(table, **NAMES, group_column="lesion")
    path = table.parent / "m.parquet"
    tables.write_parquet(table.parent / "again.parquet", tables.read_table(path))
    said = []
    again = prepare_table(table.parent / "again.parquet", say=said.append)
    assert again.digests == first.digests
    assert said[:3] == [
        "Column 'dataset' of the table is kept as 'table_dataset'.",
        "Column 'image_digest' of the table is kept as 'table_image_digest'.",
        "The splits are those of column 'split'.",
    ]


TABLE_FAULTS = {
    "column": (
        {**NAMES, "label_column": "dxx"},
        "{table} has no column 'dxx'; its columns are image, dx, lesion, age, part. "
        "Did you mean 'dx'?",
    ),
    "default column": (
        {},
        "{table} has no column 'label'; its columns are image, dx, lesion, age, part. "
        "Did you mean 'age'? Name it (`label_column`).",
    ),
    "duplicate": (
        {**NAMES, "id_column": "lesion"},
        "{table}: sample_id must be unique; repeated: 'L1' (rows 1 and 2).",
    ),
    "blank": (
        {**NAMES, "label_column": "age"},
        "{table}: age is blank in row 2 (x/2.png). Fill it in, or leave rows without a label out: "
        "`skip_unlabeled`.",
    ),
    "path": (
        {**NAMES, "path_column": "part"},
        "{table}: no image at the path of rows 1 (train), 2 (train) and 3 (val) under {root}. "
        "Add the images, leave rows without one out (`skip_missing`), or make a manifest of the "
        "table alone (`metadata_only`).",
    ),
    "split": (
        {**NAMES, "split_column": "lesion"},
        "{table}: lesion 'L1', 'L2' in rows 1 (x/1), 2 (x/2.png) and 3 (x/3) is not one of "
        "train, val, test, external: write one of these, or give the column another name, and "
        "splits are made.",
    ),
    "group in two splits": (
        {**NAMES, "group_column": "dx", "split_column": "part"},
        "{table}: group 'nv' is in both train and val. A group (lesion, patient) must lie in one "
        "split, or test images leak.",
    ),
}


@pytest.mark.parametrize("name", TABLE_FAULTS)
def test_a_fault_in_a_table_names_columns_or_rows(table, name):
    options, message = TABLE_FAULTS[name]
    with refused(message.format(table=table, root=table.parent / "in")):
        prepare_table(table, **options)


def test_a_column_named_like_one_of_the_manifest_is_kept_under_another_name(table):
    write_csv(table, (*TABLE, "Label"), [(*row, "x") for row in TABLE_ROWS])
    said = []
    found = prepare_table(table, **NAMES, group_column="lesion", say=said.append)
    assert column(found, "label") == ["nv", "mel", "nv"]
    assert column(found, "table_Label") == ["x", "x", "x"]
    assert said[0] == "Column 'Label' of the table is kept as 'table_Label'."
    assert read_manifest(table.parent / "m.parquet").digests == found.digests


def test_a_path_that_leaves_the_root_is_refused(table):
    write_csv(table, TABLE, [*TABLE_ROWS, ("../out/x/3", "nv", "L3", "", "val")])
    with refused(
        f"{table}: path '../out/x/3' in row 4 leaves the data root; paths are relative to it "
        "and contain no '..'."
    ):
        prepare_table(table, **NAMES)


def test_paths_below_the_root_are_written_as_every_table_writes_them(table):
    root = table.parent / "in"
    for path in (root / "x" / "3", "../in/x/3", "./x/../x/3"):
        write_csv(table, ("path", "label"), [(path, "nv")])
        found = prepare_table(table)  # its path is its id
        assert column(found, "path") == ["x/3.tif"]
        assert column(found, "sample_id") == [str(path)]


def test_a_photo_is_told_from_a_mask_of_its_name(table):
    root = table.parent / "in"
    for name, value in (("masks/9.png", 0), ("photos/9.jpg", 200), ("copies/9.jpg", 200)):
        (root / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), value).save(root / name)
    write_csv(table, ("image", "label"), [("9.jpg", "nv")])
    assert column(prepare_table(table), "path") == ["copies/9.jpg"]  # two copies are one image
    write_csv(table, ("image", "label"), [("9", "nv")])
    with refused(
        f"{table}: 9 may be copies/9.jpg or masks/9.png under {root}: write its folder and ending "
        "in the table, or name the one folder as `root`."
    ):
        prepare_table(table)
    Image.new("L", (8, 8), 9).save(root / "photos" / "9.png")
    write_csv(table, ("image", "label"), [("photos/9", "nv")])
    with refused(
        f"{table}: photos/9 may be photos/9.jpg or photos/9.png under {root}: write its folder and "
        "ending in the table, or name the one folder as `root`."
    ):
        prepare_table(table)


# Digits


def test_digits_are_the_ones_of_scikit_learn(tmp_path):
    from sklearn.datasets import load_digits

    progress = []
    found = prepare(
        "digits", out=tmp_path / "digits.parquet", progress=lambda *done: progress.append(done)
    )
    images, labels = load_digits(return_X_y=True)
    assert column(found, "label") == [str(label) for label in labels]
    assert found.classes == tuple("0123456789")
    assert column(found, "sample_id")[-1] == "digit_1796"
    assert column(found, "group_id") == column(found, "sample_id")
    assert found.root == tmp_path / "digits.images"
    for row in (0, 1796):
        pixels = np.asarray(Image.open(found.image_path(row))).astype(int)
        assert pixels.shape == (8, 8)
        np.testing.assert_array_equal(np.round(pixels * 16 / 255), images[row].reshape(8, 8))
    assert progress == [(i, 1797) for i in range(1, 1798)]


def test_digits_again_are_the_same_digits(tmp_path):
    one = prepare("digits", root=tmp_path / "in", out=tmp_path / "m.parquet")
    written = (tmp_path / "in/digit_0007.png").stat().st_mtime_ns
    (tmp_path / "in/digit_0003.png").write_bytes(b"cut short")
    again = prepare("digits", root=tmp_path / "in", out=tmp_path / "m.parquet")
    assert again.digests == one.digests
    assert (tmp_path / "in/digit_0007.png").stat().st_mtime_ns == written
    other = prepare("digits", root=tmp_path / "in", out=tmp_path / "m.parquet", seed=1)
    changed = {part for part in one.digests if one.digests[part] != other.digests[part]}
    assert changed == {"splits"}


# Splits from a file, and what belongs to no adapter


def test_splits_are_read_from_a_file(tmp_path):
    root = make_ham10000(tmp_path)
    parts = ["test", "test", "val", "external", "train"]
    rows = [(f"ISIC_{i}", part) for i, part in enumerate(parts, 1)]
    file = write_csv(tmp_path / "splits.csv", ("sample_id", "split"), rows[::-1])
    found = prepare("ham10000", root=root, out=tmp_path / "m.parquet", splits_file=file)
    assert column(found, "split") == parts and found.split_origin == {"file": "splits.csv"}
    # A manifest gives splits as well, e.g. those of the study for the same images.
    again = prepare(
        "ham10000", root=root, out=tmp_path / "n.parquet", splits_file=tmp_path / "m.parquet"
    )
    assert again.digests == found.digests


SPLIT_FAULTS = {
    "unknown": (
        {"ISIC_8": "val"},
        "{file}: these data have no sample of row 6 (ISIC_8).",
    ),
    "missing": (
        {"ISIC_2": None, "ISIC_5": None},
        "{file} must give the split of every sample; it has none for rows 2 (ISIC_2) and 5 "
        "(ISIC_5) of the data.",
    ),
    "word": (
        {"ISIC_3": "fold"},
        "{file}: the split is not one of train, val, test, external in row 3 (ISIC_3).",
    ),
    "group": (
        {"ISIC_1": "test"},
        "{data}: group 'HAM_1' is in both test and train. A group (lesion, patient) must lie in "
        "one split, or test images leak.",
    ),
}


@pytest.mark.parametrize("name", SPLIT_FAULTS)
def test_a_fault_in_a_splits_file_names_its_rows(tmp_path, name):
    changes, message = SPLIT_FAULTS[name]
    root = make_ham10000(tmp_path)
    splits = {**{f"ISIC_{i}": "train" for i in range(1, 6)}, **changes}
    rows = [(sample_id, split) for sample_id, split in splits.items() if split]
    file = write_csv(tmp_path / "splits.csv", ("sample_id", "split"), rows)
    with refused(message.format(file=file, data=root / "HAM10000_metadata.csv")):
        prepare("ham10000", root=root, out=tmp_path / "m.parquet", splits_file=file)


def test_a_repeated_sample_in_a_splits_file_is_refused(tmp_path):
    root = make_ham10000(tmp_path)
    rows = [(f"ISIC_{i}", "train") for i in (1, 2, 3, 4, 5, 2)]
    file = write_csv(tmp_path / "splits.csv", ("sample_id", "split"), rows)
    with refused(f"{file}: a sample_id is repeated in row 6 (ISIC_2)."):
        prepare("ham10000", root=root, out=tmp_path / "m.parquet", splits_file=file)
    write_csv(file, ("sample", "split"), rows)
    with refused(
        f"{file} has no column 'sample_id'; its columns are sample, split. Did you mean 'sample'?"
    ):
        prepare("ham10000", root=root, out=tmp_path / "m.parquet", splits_file=file)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ham1000", {}, f"Unknown data set 'ham1000'; known are {', '.join(ADAPTERS)}."),
        ("folder", {}, "folder needs `root`: the folder with its published files."),
        (
            "digits",
            {"id_column": "a"},
            "`id_column` is no option of digits; it has none.",
        ),
        (
            "folder",
            {"table": "a", "id_column": "b"},
            "`table`, `id_column` is no option of folder; its options are `group_regex`, `rename`.",
        ),
        ("digits", {"out": "m.csv"}, "m.csv: a manifest is written as Parquet; call it m.parquet."),
        (
            "digits",
            {"fractions": (0.8, 0.2)},
            "Expected the fractions of train, val and test, such as 0.7, 0.15, 0.15; found 0.8, "
            "0.2.",
        ),
        (
            "csv",
            {"split_column": "a", "splits_file": "b.csv"},
            "`splits` and `split_column` both give the splits; choose one.",
        ),
        (
            "csv",
            {"root": "."},
            "csv needs `table`: the CSV or Parquet file with paths and labels.",
        ),
    ],
)
def test_what_cannot_be_prepared_is_refused(name, options, message):
    with refused(message):
        prepare(name, **{"out": "m.parquet", **options})


# The command line


def test_prepare_and_describe_from_the_command_line(tmp_path):
    root = make_ham10000(tmp_path)
    out = tmp_path / "m.parquet"
    prepared = run("prepare", "ham10000", "--root", root, "--out", out, "--seed", 3)
    assert prepared.exit_code == 0
    assert "Reading: 5 of 5 images" in prepared.stderr
    described = run("describe", out)
    assert described.exit_code == 0
    assert described.stdout.splitlines()[0] == f"{out}: 5 rows of ham10000"
    # Both print the same, but for the root, which a manifest holds relative to itself.
    assert described.stdout.splitlines()[:-1] == prepared.stdout.splitlines()[:-1]
    assert "splits:       seed 3, fractions 0.7, 0.15, 0.15" in described.stdout
    assert "blanks:       age 1, site 1" in described.stdout
    assert described.stdout.endswith("(all images are there)\n")
    (root / "images" / "ISIC_2.jpg").unlink()
    assert run("describe", out).stdout.endswith("(4 of 5 images are there)\n")


def test_describe_prints_json(tmp_path):
    root = make_ham10000(tmp_path)
    out = tmp_path / "m.parquet"
    manifest = prepare("ham10000", root=root, out=out)
    found = json.loads(run("describe", out, "--json").stdout)
    assert found["classes"] == list(manifest.classes)
    assert found["n_rows"] == found["n_images"] == 5
    assert sum(found["counts"]["nv"].values()) == 2 and sum(found["groups"].values()) == 4
    assert found["blanks"] == {"age": 1, "site": 1} and found["mixed_groups"] == []
    assert found["split_origin"] == {"seed": 0, "fractions": [0.7, 0.15, 0.15]}
    assert found["digests"] == manifest.digests


def test_describe_takes_csv_and_names_mixed_groups(tmp_path):
    header = ("sample_id", "path", "label", "group_id", "split", "dataset", "domain")
    rows = [(i, f"{i}.png", i, "G", "train", "toy", "drawn") for i in ("a", "b")]
    path = write_csv(tmp_path / "m.csv", header, rows)
    lines = run("describe", path).stdout.splitlines()
    assert "splits:       read from m.csv" in lines
    assert "mixed groups: G (1 with more than one label)" in lines
    assert lines[-1] == f"data root:    {tmp_path} (0 of 2 images are there)"


def test_list_names_every_data_set():
    listed = run("prepare", "--list")
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(ADAPTERS)


def test_options_of_a_table_are_words_of_the_command(table):
    out = table.parent / "m.parquet"
    words = ["--table", table, "--root", table.parent / "in", "--id-column", "image"]
    words += ["--path-column", "image", "--label-column", "dx", "--group-column", "lesion"]
    assert run("prepare", "csv", *words, "--split-column", "part", "--out", out).exit_code == 0
    assert column(read_manifest(out), "split") == ["train", "train", "val"]
    splits = write_csv(
        table.parent / "s.csv",
        ("sample_id", "split"),
        [("x/1", "test"), ("x/2.png", "test"), ("x/3", "train")],
    )
    result = run("prepare", "csv", *words, "--splits", splits, "--out", out)
    assert column(read_manifest(out), "split") == ["test", "test", "train"]
    assert "Groups that carry more than one label, each kept whole: 1 (L1)." in result.stderr


def test_bad_input_exits_1_and_bad_usage_2(tmp_path):
    wrong = run("prepare", "ham10000", "--root", tmp_path, "--out", tmp_path / "m.parquet")
    assert wrong.exit_code == 1 and wrong.stdout == ""
    assert wrong.stderr == (
        f"Error: {tmp_path} holds neither HAM10000_metadata.csv nor "
        "ISIC2018_Task3_Training_GroundTruth.csv.\n"
    )
    assert run("prepare", "digits").exit_code == 2
    words = ("prepare", "digits", "--out", tmp_path / "m.parquet")
    assert run(*words, "--fractions", "most").exit_code == 2
    assert run(*words, "--seed", "-1").exit_code == 2


def test_listing_data_sets_loads_nothing_heavy():
    code = (
        "import sys, trustq.datasets; "
        "print([name for name in ('numpy', 'duckdb', 'sklearn', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
