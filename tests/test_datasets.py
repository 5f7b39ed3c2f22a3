"""Adapters of published data sets: layouts, counts, quirks, and errors that name rows.

The small tables have the header lines and odd values of the published files; where those are in
../shared/data they are read too.
"""

import csv
import gzip
import re
from collections import Counter
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from support import refused
from typer.testing import CliRunner

from trustq.core.columns import read_table
from trustq.data.manifest import REQUIRED, read_manifest, write_manifest
from trustq.datasets import (
    ADAPTERS,
    bcn20000,
    fitzpatrick17k,
    isic2018_task3,
    isic2019,
    pad_ufes_20,
    prepare,
)
from trustq.datasets.combine import combine
from trustq.datasets.target import with_target
from trustq.errors import TrustqError

ISIC = ("image", "MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
PAD_HEADER = (
    "patient_id,lesion_id,smoke,drink,background_father,background_mother,age,pesticide,gender,"
    "skin_cancer_history,cancer_history,has_piped_water,has_sewage_system,fitspatrick,region,"
    "diameter_1,diameter_2,diagnostic,itch,grew,hurt,changed,bleed,elevation,img_id,biopsed"
)
PAD = PAD_HEADER.split(",")
CHEXPERT_HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,"
    "Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,"
    "Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
CHEXPERT = CHEXPERT_HEADER.split(",")
# The header as it is: brackets with a comma inside, not quoted, and a comma at the end.
NIH = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)


def run(*words):
    (point,) = entry_points(group="console_scripts", name="trustq")
    return CliRunner().invoke(point.load(), ["data", *map(str, words)])


def write_csv(path, header, rows, *, zipped=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    with (gzip.open if zipped else open)(path, "wt", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(str(root / name).encode())  # prepare reads bytes, not pixels


def column(manifest, name):
    return manifest.columns[name].tolist()


def make(name, root, **options):
    return prepare(name, root=root, out=root.parent / f"{root.name}.parquet", **options)


def one_hot(image, label, *, unknown=False, number="{:.1f}"):
    names = (*ISIC[1:], *(["UNK"] if unknown else []))
    return (image, *(number.format(float(name == label)) for name in names))


# ISIC 2019


def isic(root, *, training=True, test=False, images=True):
    if training:
        rows = [
            ("ISIC_0", "NV"),
            ("ISIC_1_downsampled", "MEL"),
            ("ISIC_2", "SCC"),
            ("ISIC_3", "AK"),
        ]
        truth = [one_hot(*row) for row in rows]
        # Gzipped, as copies of it often are; the published one is not.
        write_csv(
            root / "ISIC_2019_Training_GroundTruth.csv.gz", (*ISIC, "UNK"),
            [(*row, "0.0") for row in truth], zipped=True,
        )  # fmt: skip
        write_csv(
            root / "ISIC_2019_Training_Metadata.csv",
            ("image", "age_approx", "anatom_site_general", "lesion_id", "sex"),
            [
                ("ISIC_3", "85", "head/neck", "BCN_0000001", "male"),
                ("ISIC_2", "", "", "BCN_0000001", ""),
                ("ISIC_1_downsampled", "55", "anterior torso", "MSK4_0011169", "female"),
                ("ISIC_0", "0", "lateral torso", "", "female"),
            ],
        )
        if images:
            touch(root / "ISIC_2019_Training_Input", "ISIC_0.jpg", "ISIC_1_downsampled.jpg")
            touch(root / "ISIC_2019_Training_Input", "ISIC_2.jpg", "ISIC_3.jpg")
    if test:
        marks = [
            one_hot("ISIC_8", "BKL", unknown=True, number="{:.0f}"),
            one_hot("ISIC_9", "UNK", unknown=True, number="{:.0f}"),
        ]
        write_csv(root / "ISIC_2019_Test_GroundTruth.csv", (*ISIC, "UNK"), marks)
        write_csv(
            root / "ISIC_2019_Test_Metadata.csv",
            ("image", "age_approx", "anatom_site_general", "sex"),
            [("ISIC_8", "60", "", "female"), ("ISIC_9", "", "oral/genital", "")],
        )
        touch(root / "ISIC_2019_Test_Input", "ISIC_8.jpg", "ISIC_9.jpg")
    return root


def test_isic2019_joins_truth_metadata_and_images(tmp_path):
    found = make("isic2019", isic(tmp_path / "data"))
    assert found.classes == isic2019.CLASSES  # without UNK, which is of the test set alone
    assert column(found, "sample_id") == ["ISIC_0", "ISIC_1_downsampled", "ISIC_2", "ISIC_3"]
    assert column(found, "label") == column(found, "native") == ["NV", "MEL", "SCC", "AK"]
    assert column(found, "age") == [0.0, 55.0, None, 85.0]
    assert column(found, "sex") == ["female", "female", None, "male"]
    assert column(found, "site")[2] is None
    assert column(found, "group_id") == ["ISIC_0", "MSK4_0011169", "BCN_0000001", "BCN_0000001"]
    assert column(found, "acquisition_source") == [None, "msk", "bcn20000", "bcn20000"]
    assert column(found, "path")[0] == "ISIC_2019_Training_Input/ISIC_0.jpg"


def test_isic2019_maps_to_the_classes_of_ham10000(tmp_path):
    found = make("isic2019", isic(tmp_path / "data"), target="ham10000")
    assert found.classes == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    assert column(found, "label") == ["nv", "mel", "akiec", "akiec"]
    assert column(found, "native")[2:] == ["SCC", "AK"]


def test_isic2019_keeps_or_drops_its_unknown_class(tmp_path):
    root = isic(tmp_path / "data", test=True)
    kept = make("isic2019", root, split="published")
    assert kept.classes[-1] == "UNK" and column(kept, "label")[-1] == "UNK"
    assert column(kept, "malignant")[-1] is None
    assert column(kept, "split")[-2:] == ["test", "test"]
    assert set(column(kept, "split")[:4]) <= {"train", "val"}
    dropped = make("isic2019", root, drop=["UNK"], target="ham10000", split="external")
    assert len(dropped) == 5 and set(column(dropped, "split")) == {"external"}
    source = root / "ISIC_2019_Training_GroundTruth.csv.gz"
    message = (
        f"{source}: no ham10000 for UNK (1 row). Leave them out (`drop=UNK`), or give your own "
        "table (`taxonomy=FILE`)."
    )
    with refused(message):
        make("isic2019", root, target="ham10000")


def test_isic2019_says_what_is_missing_and_where_it_is(tmp_path):
    where = "The data are at https://challenge.isic-archive.com/data/#2019."
    root = tmp_path / "data"
    root.mkdir()
    message = (
        f"{root} holds neither ISIC_2019_Training_GroundTruth.csv nor "
        f"ISIC_2019_Test_GroundTruth.csv. {where}"
    )
    with refused(message):
        make("isic2019", root)
    isic(root, images=False)
    message = (
        f"ISIC_2019_Training_GroundTruth.csv.gz: no image under {root} for rows 1 (ISIC_0), 2 "
        "(ISIC_1_downsampled), 3 (ISIC_2) and 4 (ISIC_3), of 4. Add the images, leave out rows "
        f"without one (`skip_missing`), or make a manifest of the table alone (`metadata_only`). "
        f"{where}"
    )
    with refused(message):
        make("isic2019", root)
    touch(root, "input/ISIC_2.jpg", "input/ISIC_3.jpg")
    assert len(make("isic2019", root, skip_missing=True)) == 2
    touch(root, "input/ISIC_77.jpg")
    message = (
        f"{root} holds images that ISIC_2019_Training_GroundTruth.csv.gz has no row for: "
        "input/ISIC_77.jpg. Move them elsewhere, or add the table that they belong to."
    )
    with refused(message):
        make("isic2019", root, skip_missing=True)
    (root / "ISIC_2019_Training_Metadata.csv").unlink()
    message = (
        f"{root}: ISIC_2019_Training_GroundTruth.csv.gz is there and "
        "ISIC_2019_Training_Metadata.csv, which holds age, sex, site and (in training) lesions, is "
        f"not. {where}"
    )
    with refused(message):
        make("isic2019", root)


def test_two_marks_or_none_in_isic2019_name_their_rows(tmp_path):
    root = isic(tmp_path / "data")
    path = root / "ISIC_2019_Training_GroundTruth.csv.gz"
    rows = [
        one_hot("ISIC_0", "NV"),
        list(one_hot("ISIC_1_downsampled", "MEL")),
        one_hot("ISIC_2", ""),
    ]
    rows[1][2] = "1.0"
    write_csv(path, ISIC, rows, zipped=True)
    message = (
        f"{path}: expected one 1 among the classes and 0 elsewhere in rows 2 (ISIC_1_downsampled) "
        "and 3 (ISIC_2)."
    )
    with refused(message):
        make("isic2019", root)
    write_csv(path, ISIC, [one_hot("ISIC_5", "NV")], zipped=True)
    about = root / "ISIC_2019_Training_Metadata.csv"
    with refused(f"{about} lacks row 1 (ISIC_5) of {path.name}."):
        make("isic2019", root)


def test_bcn20000_is_read_from_the_tables_of_isic2019(tmp_path):
    found = make("bcn20000", isic(tmp_path / "data"))
    assert column(found, "sample_id") == ["ISIC_2", "ISIC_3"]
    assert found.dataset == "bcn20000" and found.classes == ("AK", "SCC")
    assert column(found, "condition") == ["squamous_cell_carcinoma", "actinic_keratosis"]


def test_bcn20000_is_read_from_its_own_table(tmp_path):
    # The columns and first row as public code prints them (bcn_20k_train.csv on figshare).
    root = tmp_path / "data"
    header = (
        "bcn_filename,age_approx,anatom_site_general,diagnosis,lesion_id,capture_date,sex,split"
    )
    rows = [
        ("BCN_0000000001.jpg", "55.0", "anterior torso", "MEL", "BCN_0003884", "2012-05-16", "male",
         "train"),
        ("BCN_0000000003.jpg", "", "", "SCC", "", "2011-01-01", "", "train"),
    ]  # fmt: skip
    write_csv(root / "bcn_20k_train.csv", header.split(","), rows)
    touch(root, "BCN_20k_train/BCN_0000000001.jpg", "BCN_20k_train/BCN_0000000003.jpg")
    found = make("bcn20000", root)
    assert column(found, "sample_id") == ["BCN_0000000001", "BCN_0000000003"]
    assert column(found, "group_id") == ["BCN_0003884", "BCN_0000000003"]
    assert column(found, "ham10000") == ["mel", "akiec"]


def test_isic2018_task3_is_read_in_both_forms(tmp_path):
    header = "lesion_id,image_id,dx,dx_type,age,sex,localization,dataset"
    rows = [
        (
            "HAMTEST_0000000",
            "ISIC_0034524",
            "nv",
            "follow_up",
            "40.0",
            "female",
            "back",
            "external",
        ),
        ("HAMTEST_0000001", "ISIC_0034525", "mel", "histo", "", "", "unknown", "rosendahl"),
    ]
    for name in ("dataverse", "challenge"):
        touch(tmp_path / name, "images/ISIC_0034524.jpg", "images/ISIC_0034525.jpg")
    table = "ISIC2018_Task3_Test_GroundTruth.csv"
    write_csv(tmp_path / "dataverse" / table, header.split(","), rows)
    classes = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
    marks = [(row[1], *(f"{float(c == row[2].upper())}" for c in classes)) for row in rows]
    write_csv(tmp_path / "challenge" / table, ("image", *classes), marks)
    first = make("isic2018-task3", tmp_path / "dataverse", split="published")
    other = make("isic2018-task3", tmp_path / "challenge", split="published")
    assert column(first, "label") == column(other, "label") == ["nv", "mel"]
    assert column(first, "split") == ["test", "test"]
    assert column(first, "group_id") == ["HAMTEST_0000000", "HAMTEST_0000001"]
    assert column(first, "acquisition_source") == ["external", "rosendahl"]
    assert column(first, "age") == [40.0, None] and column(first, "sex")[1] is None
    assert column(other, "group_id") == column(other, "sample_id")


# PAD-UFES-20


def pad(root, **changes):
    first = dict.fromkeys(PAD, "") | {
        "patient_id": "PAT_1516", "lesion_id": "1765", "age": "8", "region": "ARM", "itch": "False",
        "diagnostic": "NEV", "img_id": "PAT_1516_1765_530.png", "biopsed": "False",
    }  # fmt: skip
    second = first | {
        "patient_id": "PAT_46", "lesion_id": "881", "age": "55", "gender": "FEMALE",
        "fitspatrick": "3.0", "region": "NECK", "diameter_1": "6.0", "diagnostic": "BCC",
        "itch": "UNK", "img_id": "PAT_46_881_939.png", "biopsed": "True", "smoke": "False",
    }  # fmt: skip
    rows = [first, second | changes]
    write_csv(root / "metadata.csv", PAD, [[row[name] for name in PAD] for row in rows])
    # The three archives unpack into a folder in a folder; the copy here is of JPEG.
    touch(root, "imgs_part_1/imgs_part_1/PAT_1516_1765_530.png", "PAT_46_881_939.jpg")
    return root


def test_pad_ufes_20_keeps_blanks_and_groups_by_patient(tmp_path):
    found = make("pad-ufes-20", pad(tmp_path / "data"))
    assert found.classes == pad_ufes_20.CLASSES
    assert column(found, "group_id") == ["PAT_1516", "PAT_46"]
    assert column(found, "sample_id") == ["PAT_1516_1765_530", "PAT_46_881_939"]
    assert column(found, "sex") == [None, "female"]
    assert column(found, "skin_tone") == [None, "III-IV"]
    assert column(found, "fitzpatrick") == [None, 3.0]
    assert column(found, "diameter_1") == [None, 6.0]
    assert column(found, "site") == ["arm", "neck"]
    assert set(column(found, "domain")) == {"smartphone"}
    assert column(found, "condition") == ["nevus", "basal_cell_carcinoma"]


PAD_FAULTS = [
    ({"diagnostic": "XYZ"}, "diagnostic 'XYZ' in row 2 (PAT_46_881_939) is not one of ACK, BCC, "
     "MEL, NEV, SCC, SEK. Say what it means with `rename=XYZ=ACK`, or with another of these."),
    ({"fitspatrick": "7.0"}, "the Fitzpatrick type is 7 in row 2 (PAT_46_881_939); expected 1 to "
     "6, or a blank."),
    ({"fitspatrick": "III"}, "fitspatrick 'III' in row 2 (PAT_46_881_939) is not a number. "
     "Leave it blank, or write the number."),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), PAD_FAULTS)
def test_a_fault_in_pad_ufes_20_names_its_row(tmp_path, changes, message):
    root = pad(tmp_path / "data", **changes)
    with refused(f"{root / 'metadata.csv'}: {message}"):
        make("pad-ufes-20", root)


def test_a_missing_column_is_named(tmp_path):
    root = pad(tmp_path / "data")
    text = (root / "metadata.csv").read_text().replace("fitspatrick", "fitzpatrick")
    (root / "metadata.csv").write_text(text)
    with pytest.raises(
        TrustqError, match=r"no column 'fitspatrick'.*Did you mean 'fitzpatrick'\?$"
    ):
        make("pad-ufes-20", root)


def test_groups_of_several_labels_are_named_and_kept_whole(tmp_path):
    root = pad(tmp_path / "data", patient_id="PAT_1516")
    said = []
    found = make("pad-ufes-20", root, say=said.append)
    assert len(set(column(found, "split"))) == 1
    assert said[-1] == "Groups that carry more than one label, each kept whole: 1 (PAT_1516)."


# Fitzpatrick17k and DDI


def fitzpatrick(root, *rows):
    header = (
        "md5hash,fitzpatrick_scale,fitzpatrick_centaur,label,nine_partition_label,"
        "three_partition_label,qc,url,url_alphanum"
    )
    rows = rows or [
        ("5e82a45b", "3", "3", "mycosis fungoides", "malignant cutaneous lymphoma", "malignant", "",
         "https://a.org/1.jpg", "httpsaorg1jpg.jpg"),
        ("fa2911a9", "-1", "1", "photodermatoses", "inflammatory", "non-neoplastic",
         "3 Wrongly labelled", "", "2.jpg"),
        ("d2bac3c9", "6", "-1", "seborrheic keratosis", "benign epidermal", "benign", "", "",
         "3.jpg"),
    ]  # fmt: skip
    write_csv(root / "fitzpatrick17k.csv", header.split(","), rows)
    touch(root / "images", *(f"{row[0]}.jpg" for row in rows))
    return root


def test_fitzpatrick17k_takes_malignancy_from_its_own_column(tmp_path):
    found = make("fitzpatrick17k", fitzpatrick(tmp_path / "data"), target="malignant")
    assert found.classes == ("benign", "malignant")
    assert column(found, "label") == ["malignant", "benign", "benign"]
    assert column(found, "condition") == ["other", "non_neoplastic", "seborrheic_keratosis"]
    assert column(found, "fitzpatrick") == [3.0, None, 6.0]
    assert column(found, "skin_tone") == ["III-IV", None, "V-VI"]
    assert column(found, "qc") == [None, "3 Wrongly labelled", None]
    assert set(column(found, "domain")) == {"clinical"}


def test_an_unknown_partition_of_fitzpatrick17k_names_its_row(tmp_path):
    row = ("5e82a45b", "3", "3", "acne", "inflammatory", "inflammatory", "", "", "")
    root = fitzpatrick(tmp_path / "data", row)
    message = (
        f"{root / 'fitzpatrick17k.csv'}: three_partition_label 'inflammatory' in row 1 (5e82a45b) "
        "is not one of malignant, benign, non-neoplastic. Say what it means with "
        "`rename=inflammatory=malignant`, or with another of these."
    )
    with refused(message):
        make("fitzpatrick17k", root)


def ddi(root, *rows):
    # pandas' row numbers come first, under no name.
    header = ("", "DDI_ID", "DDI_file", "skin_tone", "malignant", "disease")
    rows = rows or [
        ("0", "1", "000001.png", "56", "True", "melanoma-in-situ"),
        ("1", "2", "000002.png", "12", "True", "melanocytic-nevi"),
        ("2", "3", "000003.png", "34", "False", "verruca-vulgaris"),
    ]
    write_csv(root / "ddi_metadata.csv", header, rows)
    touch(root, *(row[2] for row in rows))
    return root


def test_ddi_names_the_rows_where_its_malignancy_is_not_the_taxonomys(tmp_path):
    said = []
    found = make("ddi", ddi(tmp_path / "data"), target="malignant", say=said.append)
    assert column(found, "label") == ["malignant", "malignant", "benign"]
    assert column(found, "condition") == ["melanoma", "nevus", "non_neoplastic"]
    assert column(found, "skin_tone") == ["V-VI", "I-II", "III-IV"]
    assert (
        "Rows whose malignancy the taxonomy has otherwise: 1. The data set's own column decides: "
        "melanocytic-nevi, malignant in the data set and benign in the taxonomy (1)." in said
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("", "1", "000001.png", "7", "True", "lipoma"),
         "skin_tone '7' in row 1 (000001) is not one of 12, 34, 56. Say "
         "what it means with `rename=7=12`, or with another of these."),
        (("", "1", "000001.png", "12", "maybe", "lipoma"),
         "malignant 'maybe' in row 1 (000001) is not one of True, False. Say "
         "what it means with `rename=maybe=True`, or with another of these."),
    ],
)  # fmt: skip
def test_a_fault_in_ddi_names_its_row(tmp_path, row, message):
    root = ddi(tmp_path / "data", row)
    with refused(f"{root / 'ddi_metadata.csv'}: {message}"):
        make("ddi", root)


# Chest X-rays


def chexpert(root):
    def row(path, **marks):
        about = {"Sex": "Female", "Age": "68", "Frontal/Lateral": "Frontal", "AP/PA": "AP"}
        values = dict.fromkeys(CHEXPERT, "") | about | {"Path": path} | marks
        return [values[name] for name in CHEXPERT]

    small = "CheXpert-v1.0-small"
    paths = [f"{small}/train/patient0000{i}/study1/view1_frontal.jpg" for i in range(1, 5)]
    marks = ["1.0", "0.0", "-1.0", ""]
    rows = [row(path, Pneumonia=mark) for path, mark in zip(paths, marks, strict=True)]
    lateral = {"Frontal/Lateral": "Lateral", "AP/PA": "", "Sex": "Unknown", "Pneumonia": "0.0"}
    rows.append(row(paths[0].replace("view1_frontal", "view2_lateral"), **lateral))
    write_csv(root / "train.csv", CHEXPERT, rows)
    valid = f"{small}/valid/patient64541/study1/view1_frontal.jpg"
    write_csv(root / "valid.csv", CHEXPERT, [row(valid, Pneumonia="1.0")])
    touch(root, *(r[0].removeprefix(f"{small}/") for r in [*rows, [valid]]))
    return root


def test_chexpert_never_guesses_uncertain_and_unmentioned_findings(tmp_path):
    root, said = chexpert(tmp_path / "data"), []
    found = make("chexpert", root, finding="Pneumonia", say=said.append)
    assert found.classes == ("absent", "present")
    assert column(found, "label") == ["present", "absent", "absent", "present"]
    assert column(found, "group_id") == [
        "patient00001",
        "patient00002",
        "patient00001",
        "patient64541",
    ]
    assert column(found, "sample_id")[2] == "train/patient00001/study1/view2_lateral"
    assert column(found, "view")[2] == "Lateral" and column(found, "projection")[2] is None
    assert column(found, "sex")[2] == "unknown"
    assert (
        "Rows left out of 6 for Pneumonia: 1 uncertain (`uncertain=present` or "
        "`uncertain=absent` keeps them) and 1 that do not mention it "
        "(`unmentioned=absent` keeps them)." in said
    )
    options = {"uncertain": "present", "unmentioned": "absent", "split": "published"}
    every = make("chexpert", root, finding="Pneumonia", **options)
    assert column(every, "label")[2:4] == ["present", "absent"]
    assert column(every, "split")[-1] == "val" and set(column(every, "split")[:5]) <= {
        "train",
        "test",
    }


def test_chexpert_needs_a_finding_that_it_has(tmp_path):
    root = chexpert(tmp_path / "data")
    with pytest.raises(
        TrustqError, match=r"^chexpert needs `finding`; its findings are No Finding, "
    ):
        make("chexpert", root)
    with refused("uncertain maybe: expected one of drop, absent, present."):
        make("chexpert", root, finding="Edema", uncertain="maybe")
    text = (root / "valid.csv").read_text().replace(",1.0,", ",2.0,")
    (root / "valid.csv").write_text(text)
    message = (
        f"{root / 'valid.csv'}: Pneumonia '2.0' in row 1 (valid/patient64541/study1/view1_frontal) "
        "is not one of 1, 0, -1. Say what it means with `rename=2.0=1`, or with another of these."
    )
    with refused(message):
        make("chexpert", root, finding="Pneumonia")


def nih(root, rows=None):
    rows = rows or [
        "00000001_000.png,Cardiomegaly,0,1,058Y,M,PA,2682,2749,0.143,0.143,",
        "00000001_001.png,Cardiomegaly|Emphysema,1,1,058Y,M,PA,2894,2729,0.143,0.143,",
        "00000002_000.png,No Finding,0,2,414Y,F,AP,2500,2048,0.171,0.171,",
        "00000003_000.png,Hernia,0,3,011M,F,PA,2500,2048,0.171,0.171,",
    ]
    root.mkdir(parents=True, exist_ok=True)
    (root / "Data_Entry_2017.csv").write_text("\n".join([NIH, *rows]) + "\n")
    (root / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n00000002_000.png")
    (root / "test_list.txt").write_text("00000003_000.png\n")
    touch(root, *(f"images_001/images/{row.split(',')[0]}" for row in rows))
    return root


def test_nih_reads_the_header_as_it_is_and_several_labels(tmp_path):
    root, said = nih(tmp_path / "data"), []
    found = make("nih-chestxray14", root, finding="Emphysema", split="published", say=said.append)
    assert column(found, "label") == ["absent", "present", "absent", "absent"]
    assert column(found, "native")[1] == "Cardiomegaly|Emphysema"
    assert column(found, "group_id") == ["1", "1", "2", "3"]
    assert column(found, "sex") == ["male", "male", "female", "female"]
    assert column(found, "age")[:3] == [58.0, 58.0, None]
    assert column(found, "age")[3] == pytest.approx(11 / 12)
    assert column(found, "split")[3] == "test" and column(found, "split")[0] != "test"
    assert "Ages above 120 years, now blank: row 3 (00000002_000)." in said
    any_of_them = make("nih-chestxray14", root, finding="any")
    assert column(any_of_them, "label") == ["present", "present", "absent", "present"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("00000009_000.png,Flu,0,9,20,F,PA,1,1,1,1,",
         "Finding Labels 'Flu' in row 1 (00000009_000) holds something that is not one of "
         "Atelectasis, "),
        ("00000009_000.png,No Finding|Mass,0,9,20,F,PA,1,1,1,1,",
         "No Finding beside another in row 1 (00000009_000)."),
        ("00000009_000.png,Mass,0,9,old,F,PA,1,1,1,1,",
         "Patient Age 'old' in row 1 (00000009_000) is no age such as 58, 058Y or 011M."),
    ],
)  # fmt: skip
def test_a_fault_in_nih_names_its_row(tmp_path, row, message):
    root = nih(tmp_path / "data", [row])
    with pytest.raises(TrustqError, match=re.escape(message)):
        make("nih-chestxray14", root, finding="Mass")


# Several data sets as one


@pytest.fixture
def three(tmp_path):
    """HAM10000-like manifests of three data sets and two domains, with 60 rows each."""
    manifests = []
    for name, domain in (("one", "dermoscopic"), ("two", "dermoscopic"), ("three", "smartphone")):
        folder = tmp_path / name
        rows = [
            (f"{name}{i}", f"{name}{i}.jpg", "ab"[i % 2], f"{name}g{i // 2}") for i in range(60)
        ]
        write_csv(folder / "t.csv", ("sample_id", "path", "label", "group_id"), rows)
        touch(folder, *(row[1] for row in rows))
        found = make("csv", folder, table=folder / "t.csv")
        columns = {**found.columns, "dataset": np.full(60, name, dtype=object)}
        columns["domain"] = np.full(60, domain, dtype=object)
        if name == "two":
            columns["age"] = np.arange(60.0)
        changed = type(found)(columns, found.classes, found.root, found.split_origin)
        write_manifest(changed, tmp_path / f"{name}.parquet")
        manifests.append(read_manifest(tmp_path / f"{name}.parquet"))
    return manifests


def test_combined_rows_are_split_by_group_and_stratified_by_label_and_domain(three):
    found = combine(three, external=["two"], seed=3)
    assert len(found) == 180 and found.dataset == "one+two+three"
    split, domain = found.columns["split"], found.columns["domain"]
    assert set(split[60:120].tolist()) == {"external"}
    for name in ("dermoscopic", "smartphone"):
        inside = (domain == name) & (split != "external")
        shares = Counter(split[inside].tolist())
        assert shares["train"] == 42 and shares["val"] + shares["test"] == 18
    assert found.image_path(70).is_file() and found.image_path(170).is_file()
    assert column(found, "age")[:2] == [None, None] and column(found, "age")[61] == 1.0
    kept = combine(three, keep_splits=True)
    assert column(kept, "split") == [s for m in three for s in column(m, "split")]


def test_blanks_of_numbers_stay_blanks_beside_texts(three):
    ages = np.arange(60.0)
    ages[1] = np.nan
    numbers, words = (
        type(m)({**m.columns, "age": column_of}, m.classes, m.root)
        for m, column_of in zip(three, (ages, np.full(60, "old", dtype=object)), strict=False)
    )
    found = combine([numbers, words], keep_splits=True)
    assert column(found, "age")[:3] == ["0.0", None, "2.0"] and column(found, "age")[60] == "old"


def test_what_cannot_be_combined_is_refused(three):
    one, two, _ = three
    with refused("Give two manifests or more to combine."):
        combine([one])
    with refused("`external=four`: no such data set; there are one, two."):
        combine([one, two], external=["four"])
    with refused(
        "one and one share 60 samples, e.g. one0: combined, they would count twice. Leave them out "
        "of one of the two."
    ):
        combine([one, one])
    other = type(two)(two.columns, ("b", "a", "c"), two.root)
    with refused(
        "two has the classes b, a, c and one a, b. Name two first, which has all of them, or leave "
        "out or rename c (`trustq data prepare`, `drop`, `rename`)."
    ):
        combine([one, other])
    other = type(two)(two.columns, ("a", "c"), two.root)
    with refused(
        "two has the classes a, c and one a, b. Prepare both with one `target`, e.g. condition, or "
        "leave out or rename c (`trustq data prepare`, `drop`, `rename`)."
    ):
        combine([one, other])
    named = type(two)({**two.columns, "dataset": one.columns["dataset"]}, two.classes, two.root)
    with refused(
        "`external=one`: 2 manifests are of a data set called one, as the table or folder that "
        "they were prepared from: rename that of one, and prepare it again."
    ):
        combine([one, named], external=["one"])
    ids = {"sample_id": one.columns["sample_id"]}
    ids["image_digest"] = np.array([f"d{row}" for row in range(60)], dtype=object)
    named = type(two)({**two.columns, **ids}, two.classes, two.root)
    with refused(
        "two and one call two images one0. Give the images of one other names, or its rows ids of "
        "their own in a table (`trustq data prepare csv`)."
    ):
        combine([one, named])


def test_a_data_set_that_lacks_classes_of_the_first_is_combined_with_it(three):
    one, two, _ = three
    rows = two.subset(np.arange(0, 60, 2))
    some = type(two)(rows.columns, ("A",), two.root)
    some.columns["label"] = np.full(30, "A", dtype=object)
    said = []
    found = combine([one, some], say=said.append)
    assert found.classes == ("a", "b") and column(found, "label")[60:] == ["a"] * 30
    assert said == ["Classes of two are called as in one: A as a.", "two has no rows of b."]


def test_classes_in_another_case_are_combined_under_the_names_of_the_first(three):
    one, two, _ = three
    labels = np.array([label.upper() for label in column(two, "label")], dtype=object)
    capitals = type(two)({**two.columns, "label": labels}, ("B", "A"), two.root)
    said = []
    found = combine([one, capitals], say=said.append)
    assert found.classes == ("a", "b")
    assert column(found, "label")[60:] == column(two, "label")
    assert said == ["Classes of two are called as in one: B as b, A as a."]
    apart = type(two)({**two.columns}, ("a", "b", "B"), two.root)
    with pytest.raises(TrustqError, match=r"^two has the classes a, b, B and one a, b\. Name two"):
        combine([one, apart])


def test_a_group_that_is_external_and_not_is_refused(three):
    one, two, _ = three
    columns = {**two.columns, "group_id": two.columns["group_id"].copy()}
    columns["group_id"][0] = "oneg0"
    shared = type(two)(columns, two.classes, two.root)
    with pytest.raises(TrustqError, match=r"^one and two: group 'oneg0' is in both "):
        combine([one, shared], external=["two"])
    said = []
    combine([one, shared], say=said.append)
    assert said == ["Groups that two manifests name, each kept whole: 1 (oneg0)."]


def test_duplicates_that_were_confirmed_share_a_group(tmp_path):
    root = isic(tmp_path / "data")
    header = ("sample_a", "sample_b", "confirmed")
    rows = [("ISIC_0", "ISIC_3", "yes"), ("ISIC_1_downsampled", "ISIC_0", "no"), ("x", "y", "yes")]
    write_csv(tmp_path / "pairs.csv", header, rows)
    said = []
    found = make("isic2019", root, merge_duplicates=tmp_path / "pairs.csv", say=said.append)
    assert column(found, "group_id") == ["ISIC_0", "MSK4_0011169", "ISIC_0", "ISIC_0"]
    assert "pairs.csv: 1 pairs of 2 are of these data; 3 groups became 2." in said
    write_csv(tmp_path / "pairs.csv", header, rows[1:])
    message = (
        f"{tmp_path / 'pairs.csv'}: none of its 1 pairs joins two samples of these data. A column "
        "`confirmed`, where there is one, must say yes."
    )
    with refused(message):
        make("isic2019", root, merge_duplicates=tmp_path / "pairs.csv")


def test_duplicates_in_two_data_sets_share_a_group_once_combined(three, tmp_path):
    write_csv(tmp_path / "pairs.csv", ("sample_a", "sample_b"), [("one0", "two7"), ("one0", "x")])
    said = []
    found = combine(three[:2], merge_duplicates=tmp_path / "pairs.csv", say=said.append)
    assert said == ["pairs.csv: 1 pairs of 2 are of these data; 60 groups became 59."]
    where = [column(found, "sample_id").index(name) for name in ("one0", "one1", "two6", "two7")]
    assert {column(found, "group_id")[row] for row in where} == {"oneg0"}
    assert len({column(found, "split")[row] for row in where}) == 1


def test_an_unclear_answer_to_a_pair_is_refused(three, tmp_path):
    path = tmp_path / "pairs.csv"
    header = ("sample_a", "sample_b", "confirmed")
    write_csv(path, header, [("one0", "two0", "Yes"), ("one0", "two2", "y?"), ("a", "b", "")])
    with refused(
        f"{path}: confirmed is 'y?' in row 2 (one0); expected true, t, yes, y, 1, false, f, no, n, "
        "0 or a blank."
    ):
        combine(three, merge_duplicates=path)


# On the command line


def test_a_csv_manifest_is_not_overwritten_by_parquet(three, tmp_path):
    path = tmp_path / "own.csv"
    rows = zip(*(three[0].columns[name].tolist() for name in REQUIRED), strict=True)
    write_csv(path, REQUIRED, list(rows))
    before = path.read_bytes()
    message = f"Error: {path}: a manifest is written as Parquet; call it own.parquet.\n"
    for words in (
        ("measure", path),
        ("target", path, "--column", "domain", "--out", path),
        ("combine", path, tmp_path / "two.parquet", "--out", path),
    ):
        refusal = run(*words)
        assert (refusal.exit_code, refusal.stderr) == (1, message), words
    assert path.read_bytes() == before


def test_layouts_that_nobody_has_seen_are_marked():
    lines = run("prepare", "--list").stdout.splitlines()
    marked = [line.split()[0] for line in lines if "unverified" in line]
    assert marked == ["bcn20000", "milk10k", "ddi", "chexpert", "nih-chestxray14"]
    assert marked == [name for name, adapter in ADAPTERS.items() if adapter.unverified]


def test_prepare_target_and_combine_from_the_command_line(tmp_path):
    out = tmp_path / "pad.parquet"
    words = ["--root", pad(tmp_path / "pad"), "--target", "ham10000", "--split", "external"]
    assert run("prepare", "pad-ufes-20", *words, "--out", out).exit_code == 0
    assert column(read_manifest(out), "label") == ["nv", "bcc"]
    again = run("target", out, "--column", "malignant", "--out", tmp_path / "malignant.parquet")
    assert again.exit_code == 0
    assert read_manifest(tmp_path / "malignant.parquet").classes == ("benign", "malignant")
    inside = tmp_path / "isic.parquet"
    words = ["--root", isic(tmp_path / "isic"), "--target", "ham10000"]
    assert run("prepare", "isic2019", *words, "--out", inside).exit_code == 0
    joined = run("combine", inside, out, "--out", tmp_path / "both.parquet")
    assert joined.exit_code == 0, joined.output
    both = read_manifest(tmp_path / "both.parquet")
    assert len(both) == 6 and column(both, "split")[4:] == ["external", "external"]
    assert "seed 0, fractions 0.7, 0.15, 0.15" in joined.stdout


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digits", {"split": "sometimes"},
         "`split=sometimes`: expected one of made, published, external."),
        ("digits", {"target": "malignant"}, "`target=malignant`: these data have native."),
        ("digits", {"drop": ["11"]},
         "`drop=11`: digits has no such label; it has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9."),
        ("digits", {"split": "published"},
         "digits comes without splits, or without the lists that hold them; leave out "
         "`split=published`."),
        ("folder", {"skip_missing": True},
         "`skip_missing` is no option of folder; its options are `group_regex`, `rename`."),
    ],
)  # fmt: skip
def test_what_an_adapter_lacks_is_refused(tmp_path, name, options, message):
    with refused(message):
        prepare(name, out=tmp_path / "m.parquet", **options)


# The published tables


@pytest.fixture
def published(monkeypatch):
    """Makes a data set's tables look as if all their images were there."""
    place = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not place.is_dir():
        pytest.skip("needs the real data in ../shared/data, which are not in the repository")

    def folder(name, *tables):
        ids = [i for table, ids in tables for i in read_table(place / name / table)[ids].tolist()]
        paths = [f"images/{i.removesuffix('.png')}.jpg" for i in ids]
        monkeypatch.setattr("trustq.datasets.rows.images_under", lambda root: paths)
        return place / name

    return folder


TRAINING = ("ISIC_2019_Training_GroundTruth.csv.gz", "image")


def test_real_isic2019_has_the_published_counts(published):
    rows = isic2019.read_rows(
        published("isic2019", TRAINING, ("ISIC_2019_Test_GroundTruth.csv", "image"))
    )
    part = rows.columns["published_split"]
    counts = {"train": isic2019.PUBLISHED["Training"], "test": isic2019.PUBLISHED["Test"]}
    for name, expected in counts.items():
        assert Counter(rows.columns["label"][part == name].tolist()) == expected
    assert [sum(expected.values()) for expected in counts.values()] == [25_331, 8_238]
    sources = Counter(rows.columns["acquisition_source"].tolist())
    assert sources == {"ham10000": 10_015, "bcn20000": 12_413, "msk": 819, None: 2_084 + 8_238}
    assert rows.columns["age"].mask.sum() == 437 + 326
    assert rows.notes == (
        "ISIC_2019_Training_GroundTruth.csv.gz: rows without a lesion id, each its own group: "
        "2,084 of 25,331.",
        "ISIC_2019_Test_GroundTruth.csv: rows without a lesion id, each its own group: 8,238 of "
        "8,238.",
    )


def test_real_bcn20000_rows_of_isic2019_are_the_published_ones(published):
    rows = bcn20000.read_rows(published("isic2019", TRAINING))
    assert len(rows.columns["label"]) == bcn20000.N_IN_ISIC
    assert len(set(rows.columns["group_id"].tolist())) == 3_576


def test_real_isic2018_task3_has_the_published_counts(published):
    table = ("ISIC2018_Task3_Test_GroundTruth.csv", "image_id")
    rows = isic2018_task3.read_rows(published("isic2018_task3_test", table))
    assert Counter(rows.columns["label"].tolist()) == isic2018_task3.PUBLISHED
    assert len(rows.columns["label"]) == 1_512 and rows.notes == ()
    assert len(set(rows.columns["group_id"].tolist())) == 1_223
    assert Counter(rows.columns["acquisition_source"].tolist())["external"] == 316


def test_real_pad_ufes_20_has_the_published_counts(published):
    rows = pad_ufes_20.read_rows(published("pad_ufes_20", ("metadata.csv", "img_id")))
    assert Counter(rows.columns["label"].tolist()) == pad_ufes_20.PUBLISHED
    assert len(rows.columns["label"]) == 2_298 and rows.notes == ()
    assert len(set(rows.columns["group_id"].tolist())) == 1_373
    assert rows.columns["sex"].tolist().count(None) == 804
    assert rows.columns["skin_tone"].tolist().count(None) == 804


def test_real_fitzpatrick17k_has_the_published_counts(published):
    read = fitzpatrick17k.read_rows(
        published("fitzpatrick17k", ("fitzpatrick17k.csv.gz", "md5hash"))
    )
    rows = with_target(read, "malignant", taxonomy="fitzpatrick17k")
    labels = Counter(rows.columns["label"].tolist())
    assert labels == {"benign": 12_080 + 2_234, "malignant": 2_263}
    assert Counter(rows.columns["fitzpatrick"].tolist()) == {
        None: 565, 1.0: 2947, 2.0: 4808, 3.0: 3308, 4.0: 2781, 5.0: 1533, 6.0: 635,
    }  # fmt: skip
    assert len(set(rows.columns["native"].tolist())) == 114
    assert Counter(rows.columns["qc"].tolist())["3 Wrongly labelled"] == 17
    assert len(rows.notes) == 1  # nothing differs, nothing is unmapped, nothing conflicts


@pytest.mark.parametrize(
    "files",
    [
        ["images/1.jpg", "labels/1.txt"],
        ["images/train/1.jpg", "images/val/2.jpg", "labels/train/1.txt", "labels/val/2.txt"],
        ["train/images/1.jpg", "train/labels/1.txt", "valid/images/2.jpg", "valid/labels/2.txt"],
        ["images/1.jpg", "images/2.jpg"],
        ["images/1.jpg", "masks/1.png"],
    ],
)
def test_a_set_of_boxes_is_no_set_of_the_one_class_images(tmp_path, files):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(TrustqError, match=r"images in folders called images, as sets of boxes"):
        make("folder", tmp_path)


def test_images_of_no_bytes_are_refused(tmp_path):
    for name in "abcd":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"x" * (name == "a"))
    says = "3 images of 0 bytes, b/1.jpg, c/1.jpg, d/1.jpg: copy again or remove what is empty."
    with refused(f"{tmp_path}: {says}"):
        make("folder", tmp_path)
