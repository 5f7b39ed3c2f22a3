"""How many labels are wrong: the estimate is right on average, its interval covers, it says what
it does not know; what is known already is learned from and never asked again."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openpyxl
import pytest
import scipy
from test_review import CLASSES, make_audit, said

from trustq.audit import KnownLabels, audit_labels, known_labels, open_source
from trustq.audit.apply import apply_answers, read_answers, read_off_topic
from trustq.audit.folder import read_audit_folder
from trustq.errors import InputError, TrustqError
from trustq.report.audit import write_audit
from trustq.review import open_review
from trustq.review.estimate import outlook
from trustq.review.queue import Plan
from trustq.review.summary import review_page, review_summary
from trustq.statistics.wrong_count import Stratum, calibrated_wrong, wrong_count


def simulated(rng: np.random.Generator, *, n: int, noise: float, skill: float) -> Any:
    """An audit of n rows whose score separates wrong labels by `skill` standard deviations."""
    wrong = rng.random(n) < noise
    score = rng.normal(size=n) + skill * wrong
    listed = score >= np.sort(score)[-max(int(noise * n), 10)]
    rank = np.zeros(n, dtype=np.int64)
    rank[np.argsort(-score)] = np.arange(1, n + 1)
    order = np.flatnonzero(listed)[np.argsort(rank[listed])]
    ids = np.array([str(i) for i in range(n)])
    audit = SimpleNamespace(
        listed=listed,
        rank=rank,
        order=order,
        trusted=np.zeros(n, dtype=bool),
        asked=np.ones(n, dtype=bool),
        p_wrong=1 / (1 + np.exp(-score)),
        sample_ids=ids,
    )
    return audit, wrong


@pytest.mark.parametrize(
    ("noise", "skill"), [(0.01, 3.0), (0.05, 0.5), (0.2, 0.5), (0.2, 3.0), (0.4, 3.0)]
)
def test_after_a_hundred_answers_the_interval_covers_and_the_value_is_unbiased(
    noise: float, skill: float
) -> None:
    rng = np.random.default_rng(11)
    covered, near, values, truths = 0, 0, [], []
    for seed in range(100):
        audit, wrong = simulated(rng, n=3000, noise=noise, skill=skill)
        queue = Plan(0.1, seed, "", 0).queue(audit)
        answers = {row: bool(wrong[row]) for row in queue.rows[:100].tolist()}
        found = outlook(audit, queue, answers, []).count
        covered += found.low <= wrong.sum() <= found.high
        assert found.value is not None
        values.append(found.value)
        truths.append(wrong.sum())
        near += abs(found.value / wrong.sum() - 1) <= 0.25
    assert covered >= 90
    if noise >= 0.05:
        spread = np.std(values) / np.sqrt(100)
        assert abs(np.mean(values) - np.mean(truths)) < 4 * spread + 1
    if noise >= 0.2 and skill > 1:
        assert near >= 90


def test_before_answers_nothing_is_known_and_after_all_everything() -> None:
    audit, wrong = simulated(np.random.default_rng(0), n=500, noise=0.2, skill=2.0)
    queue = Plan(0.5, 0, "", 0).queue(audit)
    before = outlook(audit, queue, {}, [])
    assert (before.count.value, before.count.low, before.count.high) == (None, 0, 500)
    assert before.text.startswith("How many of the 500 labels are wrong is not known before")
    found = outlook(audit, queue, {row: bool(wrong[row]) for row in range(500)}, [2.0])
    total = int(wrong.sum())
    assert (found.count.value, found.count.low, found.count.high) == (total, total, total)


def test_a_list_that_is_nearly_through_still_has_a_value() -> None:
    audit, wrong = simulated(np.random.default_rng(0), n=2500, noise=0.04, skill=3.0)
    queue = Plan(0.1, 3, "", 0).queue(audit)
    for n in range(len(queue.rows) - 15, len(queue.rows) + 1):
        answers = {row: bool(wrong[row]) for row in queue.rows[:n].tolist()}
        found = outlook(audit, queue, answers, [1.0])
        assert found.count.value is not None
        assert found.count.low <= found.count.value <= found.count.high
    assert found.n_next == 0 and np.isnan(found.p_next)


def test_what_nobody_could_tell_widens_the_interval_on_both_sides() -> None:
    sure = wrong_count([Stratum(900, 100, 10)], n_answered=100, n_wrong=10)
    unsure = wrong_count([Stratum(900, 100, 10, 20)], n_answered=100, n_wrong=10, n_unknown=20)
    assert unsure.low <= sure.low and unsure.high > sure.high + 100
    assert unsure.value == pytest.approx(10 + 900 * 10 / 80)


def test_answers_correct_a_model_that_promises_too_much() -> None:
    rng = np.random.default_rng(1)
    p = rng.uniform(0.05, 0.95, 4000)
    truth = rng.random(4000) < p / (p + 4 * (1 - p))  # odds a quarter of what the model says
    rows = rng.permutation(4000)[:400]
    found = calibrated_wrong(p, rows, truth[rows])
    assert abs(found.mean() - truth.mean()) < 0.04 < abs(p.mean() - truth.mean())


@pytest.mark.parametrize("seed", range(20))
def test_a_sure_model_that_is_wrong_is_corrected_to_the_best_line(seed: int) -> None:
    # Whole steps of Newton's diverge on some of these.
    rng = np.random.default_rng(seed)
    p = np.where(rng.random(60) < 0.8, 1e-9, 1 - 1e-9) if seed % 2 else rng.random(60) ** 8
    wrong = rng.random(40) < (0.9 if seed % 4 < 2 else 0.1)
    found = calibrated_wrong(p, np.arange(40), wrong)
    odds = np.log(np.clip(p, 1e-3, 1 - 1e-3) / (1 - np.clip(p, 1e-3, 1 - 1e-3)))

    def loss(line: np.ndarray) -> float:
        z = line[0] + line[1] * odds[:40]
        prior = (line[0] / 2) ** 2 / 2 + ((line[1] - 1) / 0.5) ** 2 / 2
        return float(np.logaddexp(0, z).sum() - z[wrong].sum() + prior)

    best = scipy.optimize.minimize(loss, [0.0, 1.0], method="Nelder-Mead", tol=1e-10).x
    expected = 1 / (1 + np.exp(-(best[0] + best[1] * odds)))
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(("n_listed", "n"), [(40, 4000), (400, 1000), (904, 1000)])
def test_early_rows_are_random_in_proportion_and_spread_over_the_list(
    n_listed: int, n: int
) -> None:
    audit, _ = simulated(np.random.default_rng(0), n=n, noise=n_listed / n, skill=2.0)
    met = np.zeros(n)
    for seed in range(300):
        queue = Plan(0.1, seed, "", 0).queue(audit)
        first = queue.rows[:100]
        ahead = first[np.isin(first, queue.ahead)]
        assert sorted(queue.rows) == sorted([*audit.order, *queue.sampled])
        assert len(ahead) >= 10
        if n_listed == 400:  # sizes times sd: 200 of 320, so four of seven
            assert 48 <= len(ahead) <= 53
        # Eight rows of any whole round come from eight eighths of the list.
        eighths = (audit.rank[queue.ahead[:8]] - 1) * 8 // n_listed
        assert sorted(eighths) == list(range(8))
        met[queue.ahead[:10]] += 1
    # Each listed row as likely as another.
    rate = met[audit.listed] / 300
    expected = 10 / n_listed
    assert abs(rate.mean() - expected) < 1e-9
    spread = np.sqrt(expected * (1 - expected) / 300)
    assert np.abs(rate - expected).max() < 5 * spread + 1e-9


def test_a_review_says_how_many_and_what_the_next_answers_bring(tmp_path: Path) -> None:
    folder, truth = make_audit(tmp_path, images=0)
    session = open_review(folder, random_share=0.4)
    assert "not known before answers" in session.state("ada")["estimate"]
    for i, row in enumerate(session.queue[:60].tolist()):
        answer = said(str(session.audit.sample_ids[row]), CLASSES[truth[row]], n=i)
        session.answer(answer)
    found = review_summary(session)
    given = np.array([CLASSES.index(name) for name in session.audit.given])
    wrong = int((given != truth).sum())
    assert found["number_wrong"]["low"] <= wrong <= found["number_wrong"]["high"]
    assert found["number_wrong"]["n_answered"] == 60
    assert "with 95 % confidence" in review_page(session)
    state = session.state("ada")
    assert (state["n_answered"], state["n_listed_answered"]) == (
        60,
        int(session.audit.listed[session.queue[:60]].sum()),
    )
    session.close()


def test_the_loop_goes_on_with_what_was_answered(tmp_path: Path) -> None:
    folder, truth = make_audit(tmp_path, images=0)
    session = open_review(folder)
    asked = session.queue[:40].tolist()
    for i, row in enumerate(asked):
        session.answer(said(str(session.audit.sample_ids[row]), CLASSES[truth[row]], n=i))
    session.close()
    cleaned = apply_answers(
        session.audit, answers=read_answers(folder / "answers.csv", classes=CLASSES)
    )
    known = known_labels(answers=folder / "answers.csv")
    again = audit_labels([open_source(tmp_path / "embeddings.npz", known=known)])
    assert set(np.flatnonzero(again.trusted).tolist()) == set(asked)
    assert not again.listed[asked].any()
    assert (again.given[asked] == truth[asked]).all()
    # Apply and the next audit agree on what the labels are now.
    names = np.array(CLASSES, dtype=object)
    assert (names[again.given] == cleaned.columns["label"]).all()
    write_audit(again, tmp_path / "second")
    second = open_review(tmp_path / "second")
    assert not np.isin(second.queue, asked).any() and len(second.queue)
    n_open = int((~again.trusted).sum())
    assert f"How many of the {n_open} labels" in second.state("ada")["estimate"]
    second.close()
    wrong_before = int((np.array([CLASSES.index(g) for g in session.audit.given]) != truth).sum())
    assert int((again.given != truth).sum()) < wrong_before


def test_trusted_columns_are_learned_from_and_never_listed(tmp_path: Path) -> None:
    folder, truth = make_audit(tmp_path, images=0)
    table = tmp_path / "meta.csv"
    kinds = np.where(np.arange(len(truth)) % 4 == 0, "histo", "consensus")
    lines = [f"img_{i:05d},{kind}" for i, kind in enumerate(kinds.tolist())]
    table.write_text("sample_id,dx_type\n" + "\n".join(lines) + "\n")
    known = known_labels(trust="dx_type=histo", metadata=table)
    audit = audit_labels([open_source(tmp_path / "embeddings.npz", known=known)], review=400)
    assert (audit.trusted == (kinds == "histo")).all()
    assert not (audit.listed & audit.trusted).any()
    assert any("100 labels are trusted by dx_type=histo" in note for note in audit.notes)


def test_by_group_one_row_stands_for_its_group_and_label(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    n = 400
    truth = np.repeat(rng.integers(0, 4, n // 4), 4)
    features = rng.normal(size=(n, 8)) + 4 * np.eye(8)[truth]
    observed = truth.copy()
    bad = rng.permutation(n // 4)[:15]
    rows = (bad[:, None] * 4 + np.arange(4)).ravel()
    observed[rows] = (observed[rows] + 1) % 4
    groups = np.array([f"lesion{i // 4}" for i in range(n)])
    source = tmp_path / "e.npz"
    np.savez(
        source, features=features.astype("f4"), labels=observed, groups=groups,
        classes=np.array(CLASSES[:4]),
    )  # fmt: skip
    audit = audit_labels([open_source(source)], unit="group", review=15)
    assert len({audit.groups[row] for row in audit.order}) == 15
    assert audit.asked.sum() == n // 4
    write_audit(audit, tmp_path / "audit")
    session = open_review(tmp_path / "audit")
    first = int(session.audit.order[0])
    session.answer(said(str(session.audit.sample_ids[first]), CLASSES[truth[first]]))
    assert session.outlook().count.n_rows == n // 4
    session.close()
    answers = read_answers(tmp_path / "audit" / "answers.csv", classes=CLASSES[:4])
    same = np.flatnonzero(groups == groups[first])
    assert answers == {str(audit.sample_ids[row]): CLASSES[truth[first]] for row in same}
    assert read_audit_folder(tmp_path / "audit").unit == "group"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trust": "dx_type"}, "expected COLUMN=VALUE"),
        ({"trust": "dx_type=histo"}, "needs a table"),
        ({"trust": "kind=histo", "metadata": "meta.csv"}, "expected sample_id and kind"),
        ({"trust": "dx_type=biopsy", "metadata": "meta.csv"}, "no row has dx_type 'biopsy'"),
        ({"answers": "empty.csv"}, "holds no answers yet"),
        ({"answers": "twice.csv"}, "'a' is answered in two ways"),
    ],
)
def test_what_cannot_be_known_is_told(tmp_path: Path, fields: Any, message: str) -> None:
    (tmp_path / "meta.csv").write_text("sample_id,dx_type\na,histo\n")
    (tmp_path / "empty.csv").write_text("sample_id,label\na,\n")
    (tmp_path / "twice.csv").write_text("sample_id,label\na,x\na,y\n")
    paths = {k: tmp_path / v if k in ("answers", "metadata") else v for k, v in fields.items()}
    with pytest.raises(TrustqError, match=message):
        known_labels(**paths)


def test_known_labels_of_another_data_set_are_refused(tmp_path: Path) -> None:
    make_audit(tmp_path, images=0)
    with pytest.raises(TrustqError, match="is among its 1 id"):
        open_source(tmp_path / "embeddings.npz", known=KnownLabels({"x": None}, "sheet"))
    with pytest.raises(TrustqError, match="unknown class 'nevi'"):
        open_source(tmp_path / "embeddings.npz", known=KnownLabels({"img_00001": "nevi"}, "sheet"))


def test_bounds_by_bisection_are_those_of_all_totals() -> None:
    from trustq.statistics.confidence_sequence import evidence_against, share_bound

    rng = np.random.default_rng(5)
    for n_rows, share, t in [(50, 0.1, 20), (400, 0.02, 90), (400, 0.5, 300), (1000, 0.2, 9)]:
        wrong = rng.random(t) < share
        found = share_bound(wrong, n_rows=n_rows)
        low, high, looks = 0, n_rows, sorted({*(1.1 ** np.arange(200)).astype(int), t})
        for look in [k for k in looks if k == t or 8 <= k < t]:
            s = int(wrong[:look].sum())
            own = np.arange(max(low, s), min(high, n_rows - (look - s)) + 1)
            against = evidence_against(own, n_rows=n_rows, n_sampled=look, n_wrong=s)
            kept = own[against < -np.log(0.05)]
            low, high = int(kept[0]), int(kept[-1])
        assert (found.low, found.high) == (low, high)


@pytest.mark.parametrize("form", ["csv", "xlsx"])
def test_answers_are_joined_by_ids_and_classes_in_any_usual_spelling(
    tmp_path: Path, form: str
) -> None:
    _, truth = make_audit(tmp_path, images=0)
    rows = [["image", "label", "off_topic"]]
    rows += [[f" img_{i:05d}.JPG", f" {CLASSES[truth[i]].upper()}", ""] for i in range(20)]
    rows += [["img_00030", "NA", "1"], ["img_00031", "", "TRUE"], ["IMG_40.png", CLASSES[0], "no"]]
    sheet = tmp_path / f"answers.{form}"
    if form == "csv":
        with open(sheet, "w", newline="") as file:
            csv.writer(file).writerows(rows)
    else:
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append([1 if cell == "1" else cell or None for cell in row])
        book.save(sheet)
    known = known_labels(answers=sheet)
    audit = audit_labels([open_source(tmp_path / "embeddings.npz", known=known)])
    assert np.flatnonzero(audit.trusted).tolist() == list(range(20))
    assert (audit.given[:20] == truth[:20]).all()
    (note,) = (note for note in audit.notes if "are trusted by" in note)
    assert note.endswith(
        "; 1 other id is no row of it (1 differs in spelling alone from ids that are there, "
        "e.g. 'IMG_40.png' and 'img_00040')"
    )
    assert read_off_topic(sheet) == {"img_00030", "img_00031"}
    answers = {"img_00001": CLASSES[0], "img_00001.jpg": CLASSES[1]}
    with pytest.raises(InputError, match="'img_00001' is answered in two ways"):
        open_source(tmp_path / "embeddings.npz", known=known_labels(answers=answers))


def test_trusted_values_and_ids_that_are_numbers_are_compared_as_numbers(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (["id", "tone"], [1, 3.0], [2, None], [3, 3]):
        book.active.append(row)
    book.save(tmp_path / "meta.xlsx")
    known = known_labels(trust="tone=3", metadata=tmp_path / "meta.xlsx")
    assert known is not None and known.labels == {"1": None, "3": None}
