"""Published tables in other spellings: words, blanks, ids, folders, endings, and other forms."""

import csv
import gzip
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from support import refused
from trustq.cli import app
from typer.testing import CliRunner

from trustq.data.manifest import read_manifest
from trustq.datasets import prepare
from trustq.errors import TrustqError

ISIC_CLASSES = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"]
HAM = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
MILK = ["AKIEC", "BCC", "BEN_OTH", "BKL", "DF", "INF", "MAL_OTH", "MEL", "NV", "SCCKA", "VASC"]


def table(path, header, rows, delimiter=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    open_file = gzip.open if path.suffix == ".gz" else open
    with open_file(path, "wt", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def images(folder, *names):
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 5), (number % 256, 80, 90)).save(path)


def made(name, root, **options):
    return prepare(name, root=root, out=root.parent / "m.parquet", **options)


def values(manifest, name):
    return manifest.columns[name].tolist()


def ham(root, rows, *, name="HAM10000_metadata.csv", folder="images", ending=".jpg"):
    table(root / name, HAM, rows, "\t" if name.endswith(".tab") else ",")
    images(root / folder, *(row[1].rsplit(".", 1)[0] + ending for row in rows))
    return root


def ham_rows(n=6, ending="", **changes):
    labels = ["nv", "MEL", "Bkl", "vasc", "df", "bcc", "akiec"]
    rows = []
    for i in range(n):
        row = [f"HAM_{i}", f"ISIC_{i}{ending}", labels[i % 7], "histo", 50, "male", "back"]
        rows.append([changes.get(name, value) for name, value in zip(HAM, row, strict=True)])
    return rows


@pytest.mark.parametrize(
    "name", ["HAM10000_metadata", "HAM10000_metadata.tab", "tables/ham10000_METADATA.csv.gz"]
)
@pytest.mark.parametrize("folder", ["images", "deep/er/part_1", "."])
@pytest.mark.parametrize("ending", [".png", ".JPG", ".bmp"])
def test_ham10000_whatever_tables_folders_and_images_are_called(name, folder, ending, tmp_path):
    found = made(
        "ham10000",
        ham(tmp_path / "h", ham_rows(ending=".jpeg"), name=name, folder=folder, ending=ending),
    )
    assert values(found, "sample_id") == [f"ISIC_{i}" for i in range(6)]
    assert values(found, "label") == ["nv", "mel", "bkl", "vasc", "df", "bcc"]


@pytest.mark.parametrize("word", ["", "NA", "unknown", "NULL", "n/a", "None", " nan "])
def test_a_word_for_a_blank_is_never_a_group(word, tmp_path):
    said = []
    rows = ham_rows(lesion_id=word, age=word)
    found = made("ham10000", ham(tmp_path / "h", rows), say=said.append)
    assert values(found, "group_id") == values(found, "sample_id")
    assert said[0] == "Rows without a lesion, each its own group: 6 of 6."
    assert np.ma.getmaskarray(found.columns["age"]).all()
    rows = [["a.jpg", "x", "one"], ["b.jpg", "y", word], ["c.jpg", "x", word]]
    path = table(tmp_path / "t/t.csv", ["path", "label", "patient"], rows)
    images(tmp_path / "t", "a.jpg", "b.jpg", "c.jpg")
    found = made("csv", tmp_path / "t", table=path, id_column="path", group_column="patient")
    assert values(found, "group_id") == ["one", "b.jpg", "c.jpg"]


def test_an_unknown_word_names_its_row_and_can_be_renamed(tmp_path):
    rows = ham_rows()
    rows[3][2] = "Naevus"
    root = ham(tmp_path / "h", rows)
    result = CliRunner().invoke(
        app, ["data", "prepare", "ham10000", "--root", root, "--out", tmp_path / "m.parquet"]
    )
    assert result.exit_code == 1
    assert "dx 'Naevus' in row 4 (ISIC_3) is not one of akiec" in result.output
    assert "--rename" in result.output
    again = ["--rename", "naevus=nv"]
    result = CliRunner().invoke(
        app,
        ["data", "prepare", "ham10000", "--root", root, "--out", tmp_path / "m.parquet", *again],
    )
    assert result.exit_code == 0, result.output
    assert values(read_manifest(tmp_path / "m.parquet"), "label")[3] == "nv"


@pytest.mark.parametrize(
    "words", [("TRUE", "FALSE"), ("true", "false"), ("1.0", "0.0"), ("Y", "N")]
)
def test_flags_of_ddi_in_any_spelling(words, tmp_path):
    rows = [[i, i + 1, f"{i + 1:06d}.png", 12.0, words[i % 2], "wart"] for i in range(4)]
    header = ["", "DDI_ID", "DDI_file", "skin_tone", "malignant", "disease"]
    table(tmp_path / "d/ddi_metadata.csv", header, rows)
    images(tmp_path / "d/nested", *(row[2] for row in rows))
    found = made("ddi", tmp_path / "d")
    assert values(found, "malignant") == ["malignant", "benign"] * 2
    assert set(values(found, "skin_tone")) == {"I-II"}


def isic(root, *, ids, metadata_ids, marks=("1.0", "0.0"), lesion="NA"):
    truth = [[i, *(marks[k != n % 8] for k in range(9))] for n, i in enumerate(ids)]
    table(root / "ISIC_2019_Training_GroundTruth.csv", ["image", *ISIC_CLASSES], truth)
    header = ["image", "age_approx", "anatom_site_general", "lesion_id", "sex"]
    about = [[i, "NA", "head/neck", lesion, "female"] for i in metadata_ids]
    table(root / "ISIC_2019_Training_Metadata.csv", header, about)


def test_isic2019_with_endings_in_one_table_and_words_for_marks(tmp_path):
    ids = [f"ISIC_{i:07d}" for i in range(16)]
    isic(tmp_path / "i", ids=[f"{i}.jpg" for i in ids], metadata_ids=ids, marks=("TRUE", "FALSE"))
    images(tmp_path / "i/a/b", *(f"{i}.png" for i in ids))
    found = made("isic2019", tmp_path / "i")
    assert values(found, "sample_id") == ids and len(set(values(found, "group_id"))) == 16
    assert values(found, "label")[:8] == ISIC_CLASSES[:8]


def test_a_manifest_of_the_tables_alone(tmp_path):
    ids = [f"ISIC_{i:07d}" for i in range(16)]
    isic(tmp_path / "i", ids=ids, metadata_ids=ids)
    with pytest.raises(TrustqError) as told:
        made("isic2019", tmp_path / "i", skip_missing=True)
    assert "skip_missing" not in str(told.value) and "`metadata_only`" in str(told.value)
    said = []
    found = made("isic2019", tmp_path / "i", metadata_only=True, say=said.append)
    assert len(found) == 16 and "image_digest" not in found.columns
    assert said[-1] == (
        "Images that are not there: 16 of 16. The manifest has no image_digest and serves what "
        "reads no image."
    )
    assert read_manifest(tmp_path / "m.parquet").digests == found.digests
    rows = ham_rows(4)
    path = table(tmp_path / "t.csv", HAM, rows)
    words = {"id_column": "image_id", "label_column": "dx", "group_column": "lesion_id"}
    found = made("csv", tmp_path / "i", table=path, metadata_only=True, **words)
    assert values(found, "path") == [f"ISIC_{i}" for i in range(4)]


def archive(root, name, rows):
    header = ["isic_id", "attribution", "age_approx", "anatom_site_general", "diagnosis_1",
              "diagnosis_2", "diagnosis_3", "diagnosis_confirm_type", "lesion_id",
              "sex"]  # fmt: skip
    table(root / name, header, rows)
    images(root, *(f"{row[0]}.jpg" for row in rows))
    return root


VASCULAR = "Benign soft tissue proliferations - Vascular"
FORMS = [
    ("Benign melanocytic proliferations", "Nevus", "serial imaging showing no change", "nv"),
    ("Malignant melanocytic proliferations (Melanoma)", "Melanoma, NOS", "histopathology", "mel"),
    ("Benign epidermal proliferations", "Pigmented benign keratosis", "histopathology", "bkl"),
    ("Malignant adnexal epithelial proliferations - Follicular", "Basal cell carcinoma", "", "bcc"),
    ("Indeterminate epidermal proliferations", "Solar or actinic keratosis", "", "akiec"),
    ("Malignant epidermal proliferations", "Squamous cell carcinoma, NOS", "", "akiec"),
    (VASCULAR, "", "single image expert consensus", "vasc"),
    (VASCULAR, "Hemangioma", "", "vasc"),
    ("Benign soft tissue proliferations - Fibro-histiocytic", "Dermatofibroma", "", "df"),
]


@pytest.mark.parametrize("name", ["metadata.csv", "ham10000_metadata_2025-01-31.csv"])
def test_ham10000_as_the_isic_archive_gives_it(name, tmp_path):
    rows = [
        [f"ISIC_{i}", "ViDIR, Vienna", 50, "back", "Benign", second, third, how, f"IL_{i}", "male"]
        for i, (second, third, how, _) in enumerate(FORMS)
    ]
    root = archive(tmp_path / "h", name, rows)
    found = made("ham10000", root)
    assert values(found, "label") == [label for *_, label in FORMS]
    told = ["follow_up", "histo", "histo", None, None, None, "consensus", None, None]
    assert values(found, "label_source") == told
    assert values(found, "group_id")[0] == "IL_0" and values(found, "age")[0] == 50
    rows[2][6] = "Lymphoma"
    archive(root, name, rows)
    with refused(
        f"{root / name}: diagnosis_3 'Lymphoma' in row 3 (ISIC_2) is not one of akiec, bcc, bkl, "
        "df, mel, nv, vasc. Say what it means with `rename=Lymphoma=akiec`, or with another of "
        "these."
    ):
        made("ham10000", root)
    assert values(made("ham10000", root, rename={"lymphoma": "bkl"}), "label")[2] == "bkl"


def test_an_export_of_the_isic_archive_is_a_table(tmp_path):
    rows = [
        [f"ISIC_{i}", "A, B and C", 50, "back", ["Benign", "Malignant", ""][i % 3], "x", "y", "z",
         "" if i % 4 else f"IL_{i}", "male"]
        for i in range(12)
    ]  # fmt: skip
    root = archive(tmp_path / "e", "metadata.csv", rows)
    words = {"label_column": "diagnosis_1", "group_column": "lesion_id"}
    with pytest.raises(
        TrustqError, match=r"diagnosis_1 is blank in rows 3 \(ISIC_2\), 6 .*labeled"
    ):
        made("csv", root, table=root / "metadata.csv", **words)
    said = []
    found = made(
        "csv", root, table=root / "metadata.csv", skip_unlabeled=True, say=said.append, **words
    )
    assert Counter(values(found, "label")) == {"Benign": 4, "Malignant": 4}
    assert values(found, "path")[:2] == ["ISIC_0.jpg", "ISIC_1.jpg"]
    assert said[:2] == [
        "Rows without a lesion_id, each its own group: 9 of 12.",
        "Rows left out for want of a label: 4 of 12.",
    ]
    assert len(set(values(found, "group_id"))) == 8


def test_milk10k_joins_labels_by_lesion_and_nested_images(tmp_path):
    root = tmp_path / "milk"
    truth = [[f"IL_{i}", *(float(k == i) for k in range(11))] for i in range(11)]
    table(root / "MILK10k_Training_GroundTruth.csv", ["lesion_id", *MILK], truth)
    header = ["lesion_id", "image_type", "isic_id", "attribution", "age_approx", "sex", "site"]
    about, supplement = [], []
    for i in range(11):
        for kind, number in (("clinical: close-up", i), ("dermoscopic", 100 + i)):
            about.append(
                [f"IL_{i}", kind, f"ISIC_{number}", "Clinic, Vienna", 40 + i, "male", "leg"]
            )
            supplement.append([f"ISIC_{number}", "Melanoma, NOS", "histopathology"])
            images(root / f"MILK10k_Training_Input/IL_{i}", f"ISIC_{number}.jpg")
    table(root / "MILK10k_Training_Metadata.csv", header, about)
    words = ["isic_id", "diagnosis_full", "diagnosis_confirm_type"]
    table(root / "MILK10k_Training_Supplement.csv", words, supplement)
    found = made("milk10k", root)
    assert len(found) == 22 and found.classes == tuple(MILK)
    assert values(found, "label")[:4] == ["AKIEC", "AKIEC", "BCC", "BCC"]
    assert values(found, "path")[1] == "MILK10k_Training_Input/IL_0/ISIC_100.jpg"
    assert Counter(values(found, "domain")) == {"clinical": 11, "dermoscopic": 11}
    assert set(values(found, "native_diagnosis")) == {"Melanoma, NOS"}
    splits = {}
    for group, split in zip(values(found, "group_id"), values(found, "split"), strict=True):
        assert splits.setdefault(group, split) == split
    about[0][0] = "IL_99"
    table(root / "MILK10k_Training_Metadata.csv", header, about)
    with pytest.raises(TrustqError, match=r"no label for the lesion of row 1 \(ISIC_0\)"):
        made("milk10k", root)


def test_nih_in_the_spelling_of_its_mirrors(tmp_path):
    header = ["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age",
              "Patient Gender", "View Position"]  # fmt: skip
    rows = [
        ["1_000.png", "No_Finding", 0, 1, "060Y", "M", "PA"],
        ["2_000.png", "pleural thickening|EFFUSION", 0, 2, "", "F", "AP"],
    ]
    table(tmp_path / "n/sample_labels.csv", header, rows)
    images(tmp_path / "n/sample/images", "1_000.png", "2_000.png")
    found = made("nih-chestxray14", tmp_path / "n", finding="Pleural Thickening")
    assert values(found, "label") == ["absent", "present"]


@pytest.mark.parametrize(
    "header",
    [("image_name_1", "image_name_2"), ("sample_a", "sample_b"), ("Image_A", "Image_B")],
)
def test_lists_of_duplicates_as_they_are_published(header, tmp_path):
    root = ham(tmp_path / "h", ham_rows())
    pairs = [["ISIC_0", "ISIC_4.jpg"], ["ISIC_2637011", "ISIC_0015719"]]
    path = table(tmp_path / "pairs.csv", header, pairs)
    said = []
    found = made("ham10000", root, merge_duplicates=path, say=said.append)
    assert values(found, "group_id")[4] == "HAM_0"
    assert said[0] == "pairs.csv: 1 pairs of 2 are of these data; 6 groups became 5."


SPLITS = {"train": "Training", "val": "validation", "test": "testing"}


@pytest.mark.parametrize("val", ["validation", "valid", "dev", "VAL", "1"])
def test_words_for_splits_in_tables_lists_and_manifests(val, tmp_path):
    words = [*["Training"] * 4, val, "testing"] if val != "1" else [*"000012"]
    expected = [*["train"] * 4, "val", "test"]
    root = ham(tmp_path / "h", ham_rows())
    listed = table(
        tmp_path / "s.csv",
        ["image_id" if val == "dev" else "sample_id", "split"],
        [[f"ISIC_{i}.jpg", word] for i, word in enumerate(words)],
    )
    assert values(made("ham10000", root, splits_file=listed), "split") == expected
    rows = [[f"ISIC_{i}", "nv", word] for i, word in enumerate(words)]
    path = table(tmp_path / "t.csv", ["image", "label", "part"], rows)
    assert values(made("csv", root, table=path, split_column="part"), "split") == expected
    header = ["sample_id", "path", "label", "group_id", "split", "dataset", "domain"]
    rows = [[f"s{i}", "x.png", "nv", "NA", word, "d", "x"] for i, word in enumerate(words)]
    found = read_manifest(table(tmp_path / "m.csv", header, rows))
    assert values(found, "split") == expected
    assert values(found, "group_id") == values(found, "sample_id")


@pytest.mark.parametrize("val", ["validation", "Valid", "dev"])
def test_folders_of_splits_hold_folders_of_classes(val, tmp_path):
    for split in ("train", val, "testing"):
        images(tmp_path / "f" / split / "mel", f"{split}1.png", f"{split}2.png")
        images(tmp_path / "f" / split / "nv/inner", f"{split}3.png")
    said = []
    found = made("folder", tmp_path / "f", say=said.append)
    assert found.classes == ("mel", "nv")
    assert Counter(values(found, "split")) == {"train": 3, "val": 3, "test": 3}
    assert f"The folders {', '.join(sorted(['testing', 'train', val]))} are the splits." in said
    renamed = made("folder", tmp_path / "f", rename={"NV": "nevus"})
    assert renamed.classes == ("mel", "nevus")
    # One class called like a split is a class.
    images(tmp_path / "g/test", "1.png")
    images(tmp_path / "g/control", "2.png")
    assert made("folder", tmp_path / "g").classes == ("control", "test")


def test_a_class_that_is_a_word_for_a_blank_stays_and_is_said(tmp_path):
    rows = [[f"i{i}.png", ["None", "Mild", "NA"][i % 3]] for i in range(6)]
    path = table(tmp_path / "t/t.csv", ["image", "label"], rows)
    images(tmp_path / "t", *(row[0] for row in rows))
    said = []
    found = made("csv", tmp_path / "t", table=path, say=said.append)
    assert found.classes == ("Mild", "NA", "None")
    assert said[0] == (
        "The label NA, None is a word for a blank and is kept as a class; leave its rows out with "
        "`drop=NA,None`."
    )


def test_images_in_nested_folders_are_found_by_a_tables_names(tmp_path):
    rows = [["part/one/A1", "x"], ["B2.png", "y"], ["c3", "x"]]
    path = table(tmp_path / "t/t.tsv", ["file", "label"], rows, "\t")
    images(tmp_path / "t/deep/er", "A1.tif", "B2.png", "C3.webp")
    found = made("csv", tmp_path / "t", table=path)
    assert values(found, "path") == ["deep/er/A1.tif", "deep/er/B2.png", "deep/er/C3.webp"]
    rows.append(["gone", "y"])
    table(path, ["file", "label"], rows, "\t")
    with pytest.raises(TrustqError, match=r"no image at the path of row 4 \(gone\)"):
        made("csv", tmp_path / "t", table=path)
    assert len(made("csv", tmp_path / "t", table=path, skip_missing=True)) == 3


def test_labels_of_a_table_are_whole_numbers_in_any_form_and_twins_are_said(tmp_path):
    for labels, classes in ((["0.0", "1.0"], ("0", "1")), (["NV", "nv"], ("NV", "nv"))):
        rows = [[f"i{i}.png", labels[i % 2]] for i in range(20)]
        path = table(tmp_path / "t/t.csv", ["image", "label"], rows)
        images(tmp_path / "t", *(row[0] for row in rows))
        said = []
        assert made("csv", tmp_path / "t", table=path, say=said.append).classes == classes
        assert any("NV, nv differ in case alone" in note for note in said) == (classes[0] == "NV")
    rows = [[f"i{i}.png", ("A", "B", "a", "b")[i % 4]] for i in range(20)]
    said = []
    made("csv", tmp_path / "t", table=table(path, ["image", "label"], rows), say=said.append)
    assert said[0].endswith("are kept as several classes; make them one with `rename=A=a`.")


def test_folders_of_windows_are_folders_and_one_name_in_two_is_no_image(tmp_path):
    path = table(tmp_path / "t/t.csv", ["file", "label"], [[r"p1\1.png", "x"], ["p2/2", "y"]])
    images(tmp_path / "t", "p1/1.png", "p2/2.png")
    assert values(made("csv", tmp_path / "t", table=path), "path") == ["p1/1.png", "p2/2.png"]
    # p3/1.png is gone: p1/1.png is another image.
    table(path, ["file", "label"], [["p1/1.png", "x"], ["p3/1.png", "y"]])
    with pytest.raises(TrustqError, match=r"no image at the path of row 2 \(p3/1.png\)"):
        made("csv", tmp_path / "t", table=path)


def test_one_image_by_two_spellings_of_its_id_is_one_row(tmp_path):
    rows = [["A1", "x"], ["A1.jpg", "y"], ["B2", "x"]]
    path = table(tmp_path / "t/t.csv", ["image", "label"], rows)
    images(tmp_path / "t", "A1.png", "B2.png")
    with pytest.raises(TrustqError, match=r"repeated: 'A1' and 'A1.jpg' \(rows 1 and 2\)"):
        made("csv", tmp_path / "t", table=path)


def test_one_image_in_two_groups_of_a_table_is_refused(tmp_path):
    names = [f"{row}.png" for row in range(30)]
    images(tmp_path / "im", *names)
    rows = [(f"r{row}", name, "ab"[row % 2]) for row, name in enumerate([*names, "0.png"])]
    listed = table(tmp_path / "t.csv", ["sample_id", "path", "label"], rows)
    message = (
        f"{listed}: 0.png is the image of rows 1 (r0) and 31 (r30), which are of two groups, so it "
        "may be trained on and tested on. Give all rows of an image one group, e.g. "
        "`group_column=path`, or keep one of them."
    )
    with refused(message):
        made("csv", tmp_path / "im", table=listed)
    groups = values(made("csv", tmp_path / "im", table=listed, group_column="path"), "group_id")
    assert groups[0] == groups[30] and len(set(groups)) == 30


@pytest.mark.parametrize("form", ["csv", "xlsx", "xlsx with a title"])
def test_columns_of_a_table_are_found_in_any_case(form, tmp_path):
    images(tmp_path / "im", *(f"{row}.png" for row in range(30)))
    header = ["Sample_ID", "PATH", "Label ", " Group_ID", "Split"]
    splits = ["train", "val", "test"]
    rows = [
        [f"r{row}", f"{row}.png", "ab"[row % 2], f"g{row // 3}", splits[row // 3 % 3]]
        for row in range(30)
    ]
    if form == "csv":
        path = table(tmp_path / "t.csv", header, rows)
    else:
        openpyxl = pytest.importorskip("openpyxl")
        book, path = openpyxl.Workbook(), tmp_path / "t.xlsx"
        for row in [*([["Patients of 2026"], []] if "title" in form else []), header, *rows]:
            book.active.append(row)
        book.save(path)
    found = made("csv", tmp_path / "im", table=path)
    for name, place in (("sample_id", 0), ("label", 2), ("group_id", 3), ("split", 4)):
        assert values(found, name) == [row[place] for row in rows], name
    assert not any(name.startswith("table_") for name in found.columns)


@pytest.mark.parametrize("words", [("yes", "no"), ("1.0", "0.0"), ("TRUE", "")])
def test_pairs_are_confirmed_under_a_heading_in_any_case(words, tmp_path):
    images(tmp_path / "im", *(f"{'ab'[row % 2]}/{row}.png" for row in range(30)))
    pairs = [("a/0", "b/1", words[0]), ("a/2", "b/3", words[1])]
    listed = table(tmp_path / "pairs.csv", ["Sample_A", "Sample_B", "Confirmed"], pairs)
    found = made("folder", tmp_path / "im", merge_duplicates=listed)
    group = dict(zip(values(found, "sample_id"), values(found, "group_id"), strict=True))
    by_name = {name.split("/")[-1]: own for name, own in group.items()}
    assert by_name["0"] == by_name["1"] and by_name["2"] != by_name["3"]


def test_folders_that_look_like_splits_are_told_and_a_root_too_high_is_refused(tmp_path):
    names = [f"{kind}/{row}.png" for kind in "ab" for row in range(10)]
    images(tmp_path / "high" / "im", *names)
    message = (
        f"{tmp_path / 'high'} holds one folder, im, and that holds a, b: pass "
        f"{tmp_path / 'high' / 'im'} as the root, if these are the classes."
    )
    with refused(message):
        made("folder", tmp_path / "high")
    assert made("folder", tmp_path / "high" / "im").classes == ("a", "b")
    inside = [
        f"{kind}/{split}/{row}.png"
        for kind in "ab"
        for split in ("train", "test")
        for row in range(5)
    ]
    images(tmp_path / "inside", *inside)
    images(tmp_path / "beside", *names, *(f"test/{row}.png" for row in range(10)))
    for folder, said in (
        ("inside", "The folders test, train inside the classes are not taken for splits"),
        (
            "beside",
            "Taken for a class and not for a split, for folders of other names stand beside: test.",
        ),
    ):
        ask = ["data", "prepare", "folder", "--root", str(tmp_path / folder)]
        done = CliRunner().invoke(app, [*ask, "--out", str(tmp_path / f"{folder}.parquet")])
        assert done.exit_code == 0 and said in done.stderr
