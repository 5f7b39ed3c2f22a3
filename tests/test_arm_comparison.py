"""Two arms of a results folder: figures of stored predictions, paired by seeds and groups."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from support import make_cache
from support_cli import invoke

from trustq.analysis.compare_arms import arm_table, compare_arms, format_arm_table
from trustq.analysis.pairs import Stored
from trustq.errors import TrustqError
from trustq.evaluation.bootstrap import crossed_figures
from trustq.experiments import repair
from trustq.metrics.probabilities import softmax
from trustq.recipes import load_recipe
from trustq.results import new_part, write_part
from trustq.statistics.paired import holm, sign_flip_test

CLASSES = np.array(["nv", "mel", "bcc"])  # not in alphabetical order


def columns(rows):
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


def write(folder, *, arms=("entropy", "none"), draws=(1, 2, 3, 4, 5), n=60, **changes):
    """Predictions of `entropy`, better than those of `none`; returns labels, groups and arrays."""
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 3, n), np.array([f"g{i // 3:02d}" for i in range(n)])
    ids = np.array([f"s{i:03d}" for i in range(n)])
    cells, blocks, stored = [], [], {arm: [] for arm in arms}
    for arm in arms:
        for draw in draws:
            logits = rng.normal(size=(n, 3))
            logits[np.arange(n), labels] += 2.0 if arm == "entropy" else 1.0
            probs = softmax(logits)
            stored[arm].append(probs)
            key = f"{arm}-{draw}"
            cell = {"key": key, "arm": arm, "arm_title": arm, "score": arm, "dataset": "d"}
            cell |= {"backbone_seed": 7, "draw_seed": draw, "head": "linear", "budget": "64"}
            cell["classes"] = json.dumps(CLASSES.tolist())
            cells.append(cell | changes.get(key, {}))
            blocks.append(
                {
                    "run": np.full(n, key),
                    "eval_dataset": np.full(n, "d"),
                    "split": np.full(n, "test"),
                    "stage": np.full(n, "calibrated"),
                    "sample_id": np.array([f"x{i}" for i in ids]) if key == "none-9" else ids,
                    "group_id": groups,
                    "label": CLASSES[np.roll(labels, 1) if key == "none-8" else labels],
                    "predicted": CLASSES[probs.argmax(axis=1)],
                    "probabilities": probs,
                }
            )
    predictions = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    write_part(folder, {"runs": columns(cells), "predictions": predictions}, part=new_part())
    return labels, groups, {arm: np.stack(probs) for arm, probs in stored.items()}


def test_one_call_compares_two_arms_from_their_predictions(tmp_path):
    labels, groups, probs = write(tmp_path)
    found = compare_arms(tmp_path, "entropy", "none")
    assert (found.n, found.n_groups, len(found.seeds)) == (60, 20, 5)
    expected = crossed_figures(
        labels,
        probs["entropy"],
        probs["none"],
        groups=groups,
        networks=[7] * 5,
        draws=range(5),
        seed=0,
    )
    for name, row in expected.items():
        assert found.figures[name].crossed == pytest.approx(row, abs=1e-12)
    right = [(one.argmax(axis=2) == labels).mean(axis=1) for one in probs.values()]
    test = sign_flip_test(right[0] - right[1])
    accuracy = found.figures["accuracy"]
    assert accuracy.runs.p_value == test.p_value and accuracy.runs.floor == 0.0625
    assert accuracy.p_holm >= test.p_value
    assert found.notes == (
        "tested over 5 draws of one network: about other draws, not about other networks, "
        "and so is the interval",
    )


def test_draws_of_several_networks_are_no_units(tmp_path):
    networks = {
        f"{arm}-{draw}": {"backbone_seed": 1 + draw % 2, "draw_seed": draw // 2}
        for arm in ("entropy", "none")
        for draw in range(8)
    }
    write(tmp_path, draws=tuple(range(8)), **networks)
    found = compare_arms(tmp_path, "entropy", "none", figures=("accuracy",))
    runs = found.figures["accuracy"].runs
    assert (runs.unit, runs.n, runs.n_draws, runs.floor) == ("network", 2, 4, 0.5)
    assert runs.p_value >= 0.5
    assert found.notes == ("tested over 2 networks, each averaged over its draws, 4 in all",)


def test_what_cannot_be_paired_is_refused(tmp_path):
    write(tmp_path / "one", draws=(1, 2))
    write(tmp_path / "heads", draws=(1,), **{"none-1": {"head": "xgboost"}})
    write(tmp_path / "rows", draws=(9,))
    labels, _, _ = write(tmp_path / "labels", draws=(8,))
    write(tmp_path / "budgets", draws=(1, 2), **{"none-2": {"draw_seed": 1, "budget": "128"}})
    write(tmp_path / "seeds", draws=(1,), **{"none-1": {"draw_seed": 2}})
    bad = [
        (
            ("one", "random"),
            f"{tmp_path}/one has no stored calibrated predictions of arm 'random' on test rows.",
        ),
        (
            ("heads", "none"),
            "The runs of entropy and none have several values of head: linear, xgboost. "
            "Choose one, e.g. `where=head = 'linear'`.",
        ),
        (("rows", "none"), "Cell none-9 was evaluated on other rows than entropy-9."),
        (
            ("labels", "none"),
            "Cell none-8 has another label than entropy-8 in "
            f"{(np.roll(labels, 1) != labels).sum()} of 60 rows: their caches were made of other "
            "reference labels or groups. Run both on one.",
        ),
        (
            ("budgets", "none"),
            "Arm 'none' has several runs of backbone seed 7 and draw 1, of budgets 64 and 128: "
            "name a budget.",
        ),
        (
            ("seeds", "none"),
            "entropy and none share no run, so nothing is paired: entropy 7/1 and none 7/2 have no "
            "partner (network/draw). Compare arms that ran on the same networks and draws.",
        ),
    ]
    for (folder, other), message in bad:
        with pytest.raises(TrustqError) as error:
            compare_arms(tmp_path / folder, "entropy", other)
        assert str(error.value) == message


def test_the_columns_of_classes_that_no_arm_predicts_are_known(tmp_path: Path) -> None:
    # Class names that sort otherwise than their columns, and a head that predicts one of them.
    cache = make_cache(classes=("z", "y", "x"))
    settings = ["sweep.noise=symmetric:0.2", "arms=none,random", "head=majority", "draws=5"]
    repair([cache], recipe=load_recipe(settings=settings), results=tmp_path / "r")
    found = compare_arms(tmp_path / "r", "random", "none", stored=Stored(stage="uncalibrated"))
    test = cache.split == "test"
    shares = np.bincount(cache.label[test], minlength=3) / test.sum()
    assert np.isclose(found.figures["accuracy"].crossed.b, shares).any()


def test_the_command_compares_the_first_arm_with_each_other(tmp_path: Path) -> None:
    write(tmp_path, arms=("entropy", "random", "none"))
    options = ["--arms", "entropy,random,none", "--results", tmp_path]
    answer = invoke("compare", [*options, "--format", "csv", "--metrics", "accuracy,nll"])
    assert answer.exit_code == 0, answer.output
    rows = list(csv.DictReader(io.StringIO(answer.stdout)))
    assert [(row["metric"], row["a"], row["b"]) for row in rows] == [
        ("accuracy", "entropy", "random"),
        ("accuracy", "entropy", "none"),
        ("nll", "entropy", "random"),
        ("nll", "entropy", "none"),
    ]
    p_values = np.array([float(row["p_value"]) for row in rows])
    np.testing.assert_allclose([float(row["p_holm"]) for row in rows], holm(p_values))
    one = compare_arms(tmp_path, "entropy", "none", figures=("accuracy",))
    crossed = one.figures["accuracy"].crossed
    assert float(rows[1]["lower"]) == crossed.lower and float(rows[1]["upper"]) == crossed.upper
    assert rows[1]["seeds"] == "7/1,7/2,7/3,7/4,7/5"
    for form in ("markdown", "latex"):
        out = tmp_path / f"table.{form}"
        answer = invoke("compare", [*options, "--format", form, "--out", out])
        assert answer.exit_code == 0 and answer.stdout == ""
        text = out.read_text()
        assert "Holm over the 14 rows of this table" in text
        assert "networks and draws crossed with groups (5 runs, 20 groups, 60 rows)" in text
        assert "5 draws of one network: about other draws, not about other networks" in text
    answer = invoke("compare", [*options, "--json"])
    assert len(json.loads(answer.stdout)) == 14


def test_one_seed_is_compared_over_groups_and_says_so(tmp_path: Path) -> None:
    write(tmp_path, draws=(1,))
    found = compare_arms(tmp_path, "entropy", "none")
    assert found.notes == (
        "with one run the interval is for other groups and not for other trainings",
    )
    row = arm_table([found])[0]
    assert np.isnan(row.sd) and row.floor == 1 and row.lower < row.difference < row.upper
    assert format_arm_table([found], "markdown").endswith(
        "With one run the interval is for other groups and not for other trainings."
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [],
            "Name two models (A=a.npz B=b.npz), or arms of a results folder "
            "(--arms self_confidence,random --results results).",
        ),
        (
            ["A=a.npz", "--arms", "a,b"],
            "Name two models (A=a.npz B=b.npz), or arms of a results folder "
            "(--arms self_confidence,random --results results), not both.",
        ),
        (["--arms", "a"], "--arms a: name at least two, the compared one first."),
        (
            ["--arms", "entropy,none", "--metrics", "f1"],
            "figures is f1: choose among accuracy, macro_f1, nll, brier, ece, aurc, augrc, "
            "balanced_accuracy, macro_auroc, macro_auprc.",
        ),
        (
            ["--arms", "entropy,none", "--format", "html"],
            "format is 'html': expected one of markdown, csv, latex.",
        ),
    ],
)
def test_what_the_command_cannot_compare_is_refused(
    tmp_path: Path, words: list[str], message: str
) -> None:
    write(tmp_path, draws=(1,))
    answer = invoke("compare", [*words, "--results", tmp_path])
    assert isinstance(answer.exception, TrustqError) and str(answer.exception) == message
