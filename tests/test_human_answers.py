"""People's answers: the truth of the rows that they cover, joined by ids in any usual spelling."""

from pathlib import Path

import numpy as np
import pytest
from support import make_cache
from support_cli import invoke

from trustq.analysis.repair_table import repair_table
from trustq.audit.apply import read_off_topic
from trustq.audit.known import answers_of, known_labels
from trustq.core.label_sheets import read_sheet
from trustq.core.sample_ids import find_ids, nearly
from trustq.data.manifest import make_manifest, split_suspicions
from trustq.data.noise import observe_labels
from trustq.errors import InputError, TrustqError
from trustq.evaluation.predictions import read_predictions
from trustq.experiments import repair
from trustq.recipes import load_recipe
from trustq.repair.human_answers import as_answered, read_votes
from trustq.repair.setup import draw_experiment
from trustq.report.page import write_report
from trustq.results import run_query
from trustq.review.raters import read_ratings
from trustq.store import crossfit_signs, import_cache, relabel_cache
from trustq.store.format import SEEN_OBSERVED, SEEN_REFERENCE


def recipe(*settings: str):  # type: ignore[no-untyped-def]
    base = ["arms=none,self_confidence", "budgets=20", "folds=3", "references=false"]
    return load_recipe(settings=[*base, "regularisation=0.1", *settings])


def answered_file(tmp_path: Path, *, wrong: int = 9, right: int = 21, ending: str = ".jpg"):  # type: ignore[no-untyped-def]
    """A cache without noise, and a sheet that corrects some of its labels and confirms others."""
    cache = make_cache()
    rows = np.flatnonzero(cache.split == "train")[: wrong + right]
    truth = cache.label[rows].copy()
    truth[:wrong] = (truth[:wrong] + 1) % len(cache.classes)
    lines = [
        f" {cache.sample_id[row]}{ending} ,{cache.classes[label].upper()}"
        for row, label in zip(rows, truth, strict=True)
    ]
    sheet = tmp_path / "answers.csv"
    sheet.write_text("image,label\n" + "\n".join(lines) + "\n")
    return cache, rows, truth, sheet


def test_answers_are_the_truth_and_corrections_are_the_errors_to_find(tmp_path: Path) -> None:
    cache, rows, truth, sheet = answered_file(tmp_path)
    sweep = recipe(f"answers={sheet}").sweep
    experiment = draw_experiment(cache, sweep=sweep, draw_seed=0)
    place = {row: i for i, row in enumerate(experiment.rows.tolist())}
    own = np.array([place[row] for row in rows.tolist()])
    np.testing.assert_array_equal(experiment.labels[own], truth)
    np.testing.assert_array_equal(experiment.start.observed, cache.label[experiment.rows])
    assert experiment.n_wrong == 9 and experiment.noise == "as given"
    assert experiment.notes[0].startswith(
        "Answers are the truth of 30 of 144 training rows; they change 9 labels, which are the "
        "errors there are to find. No noise is simulated."
    )
    # No draw changes anything that was not drawn.
    again = draw_experiment(cache, sweep=sweep, draw_seed=5)
    np.testing.assert_array_equal(again.start.observed, experiment.start.observed)


def test_found_errors_are_corrections_and_the_page_says_what_is_known(tmp_path: Path) -> None:
    cache, _, _, sheet = answered_file(tmp_path)
    folder = tmp_path / "r"
    run = repair([cache], recipe=recipe(f"answers={sheet}", "budgets=100%"), results=folder)
    rows = run_query(
        folder, "SELECT noise, n_wrong_start, n_bought, errors_findable FROM runs ORDER BY arm"
    ).rows
    assert rows == [("as given", 9, 0, 0), ("as given", 9, 30, 9)]
    assert run_query(folder, "SELECT count(*) FROM queries WHERE was_wrong").rows == [(9,)]
    caption = repair_table(folder, run.keys).caption
    assert "9 of those that people answered for wrong at the start" in caption
    write_report(folder, tmp_path / "page.html")
    assert "KNOWN OF ANSWERED ROWS ALONE" in (tmp_path / "page.html").read_text()


def test_what_a_network_was_trained_on_stays_on_record(tmp_path: Path) -> None:
    cache, rows, _, sheet = answered_file(tmp_path, wrong=4, right=4)
    cache.seen[:] = SEEN_REFERENCE
    own, _ = as_answered(cache, sweep=recipe(f"answers={sheet}").sweep)
    assert (own.seen[rows[:4]] == SEEN_OBSERVED).all()
    np.testing.assert_array_equal(own.observed[rows], cache.label[rows])


def test_a_stated_noise_is_still_put_on_the_labels(tmp_path: Path) -> None:
    cache, _, _, sheet = answered_file(tmp_path, wrong=0)
    sweep = recipe(f"answers={sheet}", "sweep.noise=symmetric:0.3").sweep
    experiment = draw_experiment(cache, sweep=sweep, draw_seed=0)
    assert experiment.noise == "symmetric:0.3" and experiment.n_wrong > 20


def test_a_trusted_start_would_take_unchecked_labels_for_right(tmp_path: Path) -> None:
    cache, _, _, sheet = answered_file(tmp_path)
    with pytest.raises(InputError, match=r"^`trusted=0\.1` takes labels for right that nobody"):
        as_answered(cache, sweep=recipe(f"answers={sheet}", "sweep.trusted=0.1").sweep)


def test_ids_in_another_spelling_are_said(tmp_path: Path) -> None:
    cache = make_cache()
    sheet = tmp_path / "a.csv"
    sheet.write_text(f"sample_id,label\n{str(cache.sample_id[0]).upper()},a\n")
    with pytest.raises(InputError) as refused:
        read_votes(sheet, cache)
    assert "(1 differs in spelling alone from ids that are there, e.g. 'S0000' and 's0000')" in str(
        refused.value
    )


def test_answers_that_join_no_row_are_said(tmp_path: Path) -> None:
    cache = make_cache()
    first, second = str(cache.sample_id[0]), str(cache.sample_id[1])
    sheet = tmp_path / "a.csv"
    sheet.write_text(f"sample_id,label\n{first},a\n{second.upper()},a\nelsewhere,b\n")
    notes = as_answered(cache, sweep=recipe(f"answers={sheet}").sweep)[1]
    assert (
        f"2 answered ids, first {second.upper()}, are none of {cache.name} (1 differs in spelling "
        f"alone from ids that are there, e.g. '{second.upper()}' and '{second}'): their answers "
        "are not used."
    ) in notes


@pytest.mark.parametrize("blank", ["", " ", "NA", "nan", "None", "unknown"])
def test_words_for_a_blank_are_no_answer_but_where_a_class_is_called_so(
    tmp_path: Path, blank: str
) -> None:
    sheet = tmp_path / "a.csv"
    sheet.write_text(f"sample_id,label\ns0000,mel\ns0001,{blank}\n")
    assert read_sheet(sheet, classes=("mel", "nv")) == {"s0000": [0]}
    if blank.strip():
        assert read_sheet(sheet, classes=("mel", blank)) == {"s0000": [0], "s0001": [1]}


def test_every_sheet_is_joined_by_the_same_ids(tmp_path: Path) -> None:
    cache = make_cache()
    sheet = tmp_path / "a.csv"
    sheet.write_text(f"sample_id,label\n {cache.sample_id[3]}.PNG ,B\n")
    assert read_sheet(sheet, classes=cache.classes) == {f"{cache.sample_id[3]}.PNG": [1]}
    assert read_votes(sheet, cache).labels[3] == 1
    relabelled = relabel_cache(cache, sheet).cache if cache.label[3] != 1 else None
    assert relabelled is None or relabelled.label[3] == 1
    lines = [f"{name}.jpg,{cache.classes[0]}" for name in cache.sample_id]
    sheet.write_text("sample_id,observed\n" + "\n".join(lines) + "\n")
    drawn = observe_labels(
        f"file:{sheet}",
        cache.label.astype(np.int64),
        classes=cache.classes,
        seed=0,
        features=cache.features,
        sample_ids=cache.sample_id,
    )
    assert (drawn.labels == 0).all()


def test_an_id_that_may_be_two_rows_is_refused_and_a_spelt_one_is_not() -> None:
    ids = np.array(["1.jpg", "1.png", "2"])
    assert find_ids(["1.png", "2.tif"], ids, source="a.csv") == [1, 2]
    with pytest.raises(TrustqError, match=r"^a\.csv: '1' may be '1\.jpg' or '1\.png': spell it"):
        find_ids(["1"], ids, source="a.csv")
    assert nearly(["03"], np.array(["1", "2"])) == ""


def test_crossfit_logits_that_know_wrong_labels_are_suspected(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 200)
    given = np.where(np.arange(200) < 30, (truth + 1) % 3, truth)
    arrays = {
        "features": rng.normal(size=(200, 4)),
        "labels": truth,
        "observed": given,
        "folds": np.arange(200) % 5,
    }
    for name, known in (("saw.npz", given), ("out.npz", truth)):
        logits = 4 * np.eye(3)[known] + rng.normal(size=(200, 3))
        np.savez(tmp_path / name, crossfit_logits=logits, **arrays)
    assert crossfit_signs(import_cache(tmp_path / "out.npz")) == []
    (sign,) = crossfit_signs(import_cache(tmp_path / "saw.npz"))
    assert sign.startswith("suspicion of in-sample crossfit logits: they agree with ")
    shown = invoke("cache", ["import", tmp_path / "saw.npz", "--out", tmp_path / "saw.h5"])
    assert f"Note: {sign}" in shown.output  # type: ignore[attr-defined]


def test_lesions_and_ids_of_two_splits_in_two_spellings_are_said() -> None:
    rows = {
        "sample_id": ["IMG_1", "IMG_2", "img_01"],
        "path": ["a", "b", "c"],
        "label": ["x", "x", "x"],
        "group_id": ["les_1", "other", "LES_1"],
        "split": ["train", "val", "test"],
        "dataset": ["d"] * 3,
        "domain": ["d"] * 3,
    }
    columns = {name: np.array(values, dtype=object) for name, values in rows.items()}
    manifest = make_manifest(columns, classes=["x"], root=Path(), source="m")
    ids, groups = split_suspicions(manifest)
    assert "1 id of test and other rows differs in spelling alone, e.g. 'img_01' and 'IMG_1'" in ids
    assert "1 group of test and other rows" in groups


def test_a_file_of_images_alone_says_what_to_do(tmp_path: Path) -> None:
    images = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "m.npz", **{f"{s}_images": images for s in ("train", "val", "test")})
    for reader in (import_cache, read_predictions):
        with pytest.raises(InputError, match=r"holds images \(train_images\) and no features or"):
            reader(tmp_path / "m.npz")


@pytest.mark.parametrize("spelt", [str.lower, str.upper, str.title])
def test_columns_of_a_sheet_are_found_in_any_case(tmp_path, spelt):
    head = ",".join(map(spelt, ["image_id", "label", "rater", "off_topic"]))
    path = tmp_path / "sheet.csv"
    path.write_text(f"{head}\nr1,a,ann,\nr2,b,ann,yes\n", encoding="utf-8")
    assert read_sheet(path, classes=["a", "b"]) == {"r1": [0], "r2": [1]}
    assert answers_of(path) == {"r1": "a", "r2": "b"}
    assert read_ratings(path) == {("ann", "r1"): "a", ("ann", "r2"): "b"}
    assert read_off_topic(path) == {"r2"}
    assert known_labels(trust="off_topic=yes", metadata=path).labels == {"r2": None}
