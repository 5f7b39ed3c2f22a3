"""The consensus of raters of unequal skill, beside cleanlab's own and the truth."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import refused
from trustq.cli import app
from typer.testing import CliRunner

from trustq.review import open_review
from trustq.review.journal import Answer, Journal
from trustq.review.raters import Ratings, rater_consensus, read_ratings
from trustq.review.summary import review_page

CLASSES = ("bcc", "mel", "nv")
SKILL = {"ann": 0.95, "bob": 0.6, "cy": 0.5}


def simulated(n: int = 400) -> tuple[Ratings, np.ndarray, np.ndarray, list[str]]:
    """Three raters, a model that is right in four of five, and the truth."""
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=n)
    ids = [f"s{i}" for i in range(n)]
    guess = np.where(rng.random(n) < 0.8, truth, rng.integers(3, size=n))
    probs = 0.1 + 0.7 * np.eye(3)[guess]
    ratings = {}
    for rater, skill in SKILL.items():
        said = np.where(rng.random(n) < skill, truth, rng.integers(3, size=n))
        ratings |= {
            (rater, ids[i]): CLASSES[said[i]] for i in range(n) if rng.random() < 0.9 or i < 9
        }
    return ratings, probs, truth, ids


def test_the_consensus_is_cleanlabs_and_nearer_the_truth_than_the_majority() -> None:
    from cleanlab.multiannotator import get_label_quality_multiannotator

    ratings, probs, truth, ids = simulated()
    found = rater_consensus(ratings, sample_ids=ids, probs=probs, classes=CLASSES)
    given = np.full((len(ids), 3), np.nan)
    for (rater, sample_id), label in ratings.items():
        given[int(sample_id[1:]), sorted(SKILL).index(rater)] = CLASSES.index(label)
    rows = ~np.isnan(given).all(axis=1)
    peer = get_label_quality_multiannotator(given[rows], probs[rows], verbose=False)
    expected = np.array(CLASSES, dtype=object)[peer["label_quality"]["consensus_label"]]
    assert found.labels.tolist() == expected.tolist()
    np.testing.assert_array_equal(found.quality, peer["label_quality"]["consensus_quality_score"])
    right = np.array(CLASSES, dtype=object)[truth[rows]]
    assert (found.labels == right).mean() > (found.majority == right).mean() + 0.04
    assert (found.labels == right).mean() > (probs[rows].argmax(axis=1) == truth[rows]).mean()
    by_quality = sorted(found.raters, key=lambda rater: -rater.quality)
    assert [rater.name for rater in by_quality] == ["ann", "bob", "cy"]
    stats = peer["annotator_stats"].sort_index()
    assert [rater.n_answers for rater in found.raters] == stats["num_examples_labeled"].tolist()


def test_order_of_rows_and_raters_changes_no_label() -> None:
    ratings, probs, _, ids = simulated(120)
    found = rater_consensus(ratings, sample_ids=ids, probs=probs, classes=CLASSES)
    order = np.random.default_rng(1).permutation(len(ids))
    shuffled = dict(sorted(ratings.items(), key=lambda item: hash(item[0])))
    again = rater_consensus(
        shuffled, sample_ids=[f"{ids[i]}.jpg" for i in order], probs=probs[order], classes=CLASSES
    )
    of = dict(zip(again.sample_ids.tolist(), again.labels.tolist(), strict=True))
    pairs = zip(found.sample_ids.tolist(), found.labels.tolist(), strict=True)
    assert [of[f"{sample_id}.jpg"] for sample_id, _ in pairs] == found.labels.tolist()


def test_what_cannot_be_combined_is_refused() -> None:
    probs = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    ask = {"sample_ids": ["a", "b"], "probs": probs, "classes": CLASSES}
    with refused("ann calls a 'naevus'; expected one of bcc, mel, nv."):
        rater_consensus({("ann", "a"): "naevus"}, **ask)  # type: ignore[arg-type]
    for ratings in ({("ann", "a"): "nv", ("bob", "b"): "nv"}, {}):
        with pytest.raises(Exception, match="No row has answers of two raters"):
            rater_consensus(ratings, **ask)  # type: ignore[arg-type]
    two = {("ann", "a"): "nv", ("bob", "a"): "nv", ("ann", "elsewhere"): "nv"}
    assert rater_consensus(two, **ask).left_out == 1  # type: ignore[arg-type]


def test_answers_join_and_name_classes_as_every_table(tmp_path: Path) -> None:
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    rows = [
        f"IMD{row},{rater},{label}" for row, label in ((0, "MEL"), (1, "nv")) for rater in (1, 2)
    ]
    (tmp_path / "t.csv").write_text("\n".join(["image,rater,label", *rows, "IMD2,1,NA"]) + "\n")
    found = rater_consensus(
        read_ratings(tmp_path / "t.csv"),
        sample_ids=["IMD0.jpg", "IMD1.jpg", "IMD2.jpg"],
        probs=probs,
        classes=["mel", "nv"],
    )
    assert found.labels.tolist() == ["mel", "nv"] and found.n_raters.tolist() == [2, 2]


def test_a_review_and_a_table_hold_the_same_answers(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "answers.jsonl", classes=CLASSES)
    rows = [("ann", "a", "nv"), ("bob", "a", "mel"), ("bob", "b", "mel")]
    for number, (rater, sample_id, label) in enumerate(rows):
        event = f"{number:032x}"
        journal.add(Answer(event, rater, sample_id, "label", (label,)))
    journal.close()
    table = tmp_path / "answers.csv"
    table.write_text("sample_id,rater,label\n" + "".join(f"{s},{r},{x}\n" for r, s, x in rows))
    ratings = read_ratings(tmp_path / "answers.jsonl")
    assert ratings == read_ratings(table) == {(r, s): label for r, s, label in rows}
    table.write_text("sample_id,rater,label\na,ann,nv\na,ann,mel\n")
    with refused(f"{table}: ann gives a two labels, nv and mel: keep one."):
        read_ratings(table)


def test_answers_of_nobody_or_of_nothing_are_refused_and_no_column_is_made_up(
    tmp_path: Path,
) -> None:
    table = tmp_path / "answers.csv"

    def read(*rows: str, head: str = "image,rater,label") -> Ratings:
        table.write_text("\n".join([head, *rows]) + "\n")
        return read_ratings(table)

    for row, lacks in ((",ann,nv", "image"), ("a,,nv", "rater")):
        with refused(
            f"{table}, row 3: {lacks} is blank and label is nv: fill it in, also where one cell "
            "stands for several rows."
        ):
            read("a,bob,mel", row)
    assert read("a,bob,mel", ",,") == {("bob", "a"): "mel"}
    assert read("a,1,mel", "b,1.0,mel") == {("1", "a"): "mel", ("1", "b"): "mel"}
    with refused(
        f"{table}: raters 'Ann' and 'ann' differ in case alone: spell them alike if they are one, "
        "and apart if they are two."
    ):
        read("a,Ann,mel", "b,ann,mel")
    with refused(
        f"{table} has no column rater; it has image, annotator, label. A table of answers has one "
        "row an answer, with sample_id, rater, label: rename its columns, and where each rater has "
        "a column write them below each other."
    ):
        read("a,ann,mel", head="image,annotator,label")
    ratings = {(rater, "IMG_1"): "nv" for rater in ("ann", "bob")}
    probs = np.array([[0.8, 0.1, 0.1]])
    with refused(
        "The answers share no id with the model's rows, e.g. 'IMG_1' and 'img_01' (1 differs in "
        "spelling alone from ids that are there, e.g. 'IMG_1' and 'img_01'): spell the ids alike."
    ):
        rater_consensus(ratings, sample_ids=["img_01"], probs=probs, classes=CLASSES)


def test_the_command_writes_a_sheet_that_audit_apply_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ratings, probs, truth, ids = simulated(150)
    features = np.eye(3)[truth] + np.random.default_rng(2).normal(size=(150, 3))
    labels = np.array(CLASSES)[np.where(np.arange(150) % 7 == 0, (truth + 1) % 3, truth)]
    np.savez("e.npz", features=features, labels=labels, sample_ids=np.array(ids))
    lines = [f"{s},{r},{label}\n" for (r, s), label in ratings.items()]
    Path("answers.csv").write_text("sample_id,rater,label\n" + "".join(lines))
    run = CliRunner().invoke
    done = run(app, ["audit", "consensus", "answers.csv", "e.npz"])
    assert done.exit_code == 0, done.output
    assert "rows with a label, of 3 raters, in consensus.csv" in done.stdout
    assert run(app, ["audit", "labels", "e.npz", "--out", "audit"]).exit_code == 0
    by_audit = ["audit", "consensus", "answers.csv", "audit", "--out", "same.csv"]
    assert run(app, by_audit).exit_code == 0  # its folder says what the rows are of
    assert Path("same.csv").read_text() == Path("consensus.csv").read_text()
    by_hand = ["audit", "apply", "audit", "--accept-suggestions", "--out"]
    for command in (by_audit[:-1], by_hand):
        done = run(app, [*command, "same.xlsx"])
        assert "same.xlsx: the table is written as CSV; call it same.csv." in done.output
        assert not Path("same.xlsx").exists()
    done = run(app, ["audit", "apply", "audit", "--answers", "consensus.csv"])
    assert done.exit_code == 0, done.output


def test_the_folder_of_a_review_is_enough_for_its_consensus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ratings, _, truth, ids = simulated(150)
    features = np.eye(3)[truth] + np.random.default_rng(2).normal(size=(150, 3))
    labels = np.array(CLASSES)[np.where(np.arange(150) % 7 == 0, (truth + 1) % 3, truth)]
    np.savez("e.npz", features=features, labels=labels, sample_ids=np.array(ids))
    run = CliRunner().invoke
    assert run(app, ["audit", "labels", "e.npz", "--seed", "3", "--out", "audit"]).exit_code == 0
    session = open_review(Path("audit"))
    for (rater, sample_id), label in ratings.items():
        session.answer(Answer(f"{rater}-{sample_id}", rater, sample_id, "label", (label,)))
    assert review_page(session).endswith(": trustq audit consensus audit")
    session.close()
    done = run(app, ["audit", "consensus", "audit"])
    assert done.exit_code == 0, done.output
    apart = ["audit", "consensus", "audit/answers.jsonl", "e.npz", "--seed", "3", "--out", "a.csv"]
    assert run(app, apart).exit_code == 0
    assert Path("consensus.csv").read_text() == Path("a.csv").read_text()
    done = run(app, ["audit", "consensus", "audit/answers.jsonl"])
    assert done.exit_code == 1
    assert "does not say what its rows are of. Name the audit" in done.output
    np.savez("e.npz", features=-features, labels=labels, sample_ids=np.array(ids))
    done = run(app, ["audit", "consensus", "audit"])
    assert done.exit_code == 1 and "has changed since it was audited" in done.output


def test_cleanlab_is_loaded_for_a_consensus_alone() -> None:
    code = (
        "import sys, trustq.review, trustq.review.raters, trustq.audit, trustq.scoring\n"
        "print({'cleanlab', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_answers_on_two_images_of_one_name_stay_apart() -> None:
    probs = np.array([[0.9, 0.1], [0.1, 0.9]])
    ask = {"sample_ids": ["a.jpg", "a.png"], "probs": probs, "classes": ["mel", "nv"]}
    labels = {"a.jpg": "mel", "a.png": "nv"}
    ratings = {(rater, own): label for rater in ("ann", "bob") for own, label in labels.items()}
    found = rater_consensus(ratings, **ask)  # type: ignore[arg-type]
    assert dict(zip(found.sample_ids, found.labels, strict=True)) == labels
    ask["sample_ids"] = ["a", "b"]
    ratings = {("ann", "a"): "mel", ("bob", "a"): "mel", ("ann", "a.jpg"): "nv"}
    with refused("ann gives a two labels, mel and nv, under two spellings of its id: keep one."):
        rater_consensus(ratings, **ask)  # type: ignore[arg-type]
