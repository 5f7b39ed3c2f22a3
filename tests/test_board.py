"""Scores of training dynamics, and the board that compares scores on sets of known truth."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trustq.cli import app
from typer.testing import CliRunner

from trustq.audit import audit_labels, open_source
from trustq.audit.board import board
from trustq.audit.labels import default_score
from trustq.errors import TrustqError
from trustq.metrics.probabilities import softmax
from trustq.scoring.dynamics import DYNAMICS, dynamics_quality


def slow(labels: np.ndarray, logits: np.ndarray, name: str) -> list[float]:
    """The scores written out a row at a time."""
    found = []
    for row, label in enumerate(labels):
        own = [one[row] for one in logits if not np.isnan(one[row]).any()]
        if not own:
            found.append(np.nan)
            continue
        probs = [softmax(one[None])[0] for one in own]
        if name == "forgetting":
            right = [int(one.argmax()) == label for one in own]
            events = sum(a and not b for a, b in zip(right, right[1:], strict=False))
            found.append(1 - (events if any(right) else len(own)) / len(own))
            continue
        values = {
            "aum": [one[label] - np.delete(one, label).max() for one in own],
            "mean_margin": [p[label] - np.delete(p, label).max() for p in probs],
            "mean_self_confidence": [p[label] for p in probs],
        }[name]
        mean = float(np.mean(values))
        squeezed = (1 + mean / (1 + abs(mean))) / 2
        shown = {"aum": squeezed, "mean_margin": (1 + mean) / 2, "mean_self_confidence": mean}
        found.append(shown[name])
    return found


@pytest.mark.parametrize("name", list(DYNAMICS))
def test_scores_of_dynamics_are_their_formulas_and_leave_out_what_was_not_seen(name: str) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 40, 4)) * 3
    logits[rng.random((6, 40)) < 0.2] = np.nan
    logits[:, 7] = np.nan
    labels = rng.integers(0, 4, 40)
    found = dynamics_quality(labels, logits, score=name)
    np.testing.assert_allclose(found, slow(labels, logits, name), atol=1e-12)
    assert np.isnan(found[7]) and np.nanmin(found) >= 0 and np.nanmax(found) <= 1
    with pytest.raises(TrustqError, match="unknown score of training dynamics"):
        dynamics_quality(labels, logits, score="entropy")


def make_source(folder: Path, **more: Any) -> tuple[Path, np.ndarray]:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 300)
    features = (rng.normal(size=(300, 6)) + 3 * np.eye(6)[truth]).astype("f4")
    path = folder / "set.npz"
    np.savez(path, features=features, labels=truth, **more)
    return path, truth


def test_the_board_finds_what_scores_find_and_random_does_not(tmp_path: Path) -> None:
    path, _ = make_source(tmp_path)
    rows = board([path], noise=["symmetric:0.2", "pair:0.1"], seeds=2)
    by = {(row.set, row.score): row for row in rows}
    sets = {row.set for row in rows}
    assert sets == {"set, symmetric:0.2", "set, pair:0.1"}
    for one in sets:
        own = by[one, "self_confidence"]
        assert own.missed_low <= own.missed <= own.missed_high < 0.6
        assert own.average_precision > 0.6 and own.precision_5 > 0.7
        assert (own.over, own.over_low, own.over_high) == (0, 0, 0)
        path_row = by[one, "aum (path)"]
        assert path_row.saw == "path of penalties, in-sample"
        assert path_row.over_low <= path_row.over <= path_row.over_high
    assert abs(by["set, pair:0.1", "self_confidence"].noise_rate - 0.1) < 0.05
    # The same call again is the same table.
    again = board([path], noise=["pair:0.1"], seeds=2, scores=["noise_posterior"])
    assert again[0] == by["set, pair:0.1", "noise_posterior"]


def test_the_list_is_as_long_as_an_audits_and_its_precision_is_counted(tmp_path: Path) -> None:
    path, truth = make_source(tmp_path)
    rng = np.random.default_rng(5)
    wrong = rng.random(300) < 0.2
    given = np.where(wrong, (truth + 1) % 3, truth)
    features = np.load(path)["features"]
    probs = open_source(path).out_of_fold.probs
    np.savez(tmp_path / "two.npz", probs=probs, observed=given, labels=truth)
    [own] = [r for r in board([tmp_path / "two.npz"], scores=["mean_rank"]) if r.over]
    audit = audit_labels([open_source(tmp_path / "two.npz")], score="mean_rank")
    assert own.n_listed == len(audit.order) > 20
    assert own.list_precision == pytest.approx(wrong[audit.order].mean())
    plain = audit_labels(
        [open_source(tmp_path / "two.npz")], score="self_confidence", review=len(audit.order)
    )
    assert own.list_over == pytest.approx(wrong[audit.order].mean() - wrong[plain.order].mean())
    assert own.list_over_low <= own.list_over <= own.list_over_high
    # Of features alone the named scores are those of the whole board, but for the path.
    np.savez(tmp_path / "three.npz", features=features, labels=given)
    rows = board([tmp_path / "three.npz"], noise=["pair:0.1"], seeds=1, scores=["noise_posterior"])
    assert [row.score for row in rows] == ["noise_posterior", "self_confidence"]


def test_the_boards_default_is_the_score_that_an_audit_takes(tmp_path: Path) -> None:
    path, truth = make_source(tmp_path)
    wrong = np.random.default_rng(5).random(300) < 0.2
    probs = open_source(path).out_of_fold.probs
    given = np.where(wrong, (truth + 1) % 3, truth)
    of_file, of_heads = tmp_path / "p.npz", tmp_path / "f.npz"
    np.savez(of_file, probs=probs, observed=given, labels=truth)
    np.savez(of_heads, features=np.load(path)["features"], observed=given, labels=truth)
    for file, taken in ((of_file, "self_confidence"), (of_heads, "mean_rank")):
        found = {row.score: row for row in board([file], scores=["default", "mean_rank"])}
        audit = audit_labels([open_source(file)])
        assert audit.score == taken and audit.why == audit.notes[-1]
        assert found["default"].saw.endswith(f": {taken}")
        assert found["default"].list_precision == found[taken].list_precision
        assert found["default"].list_precision == pytest.approx(wrong[audit.order].mean())
    assert found["mean_rank"].list_over != 0
    # Seeds of one set may be of both kinds: then no pattern is trusted.
    assert default_score([open_source(of_file), open_source(of_heads)])[0] == "self_confidence"


def test_probabilities_alone_are_ranked_as_they_are_under_noise(tmp_path: Path) -> None:
    path, truth = make_source(tmp_path)
    probs = open_source(path).out_of_fold.probs
    np.savez(tmp_path / "p.npz", probs=probs, labels=truth)
    rows = board([tmp_path / "p.npz"], noise=["pair:0.2"], seeds=2, scores=["mean_rank"])
    assert {row.saw for row in rows} == {"file, saw no noise"}
    assert min(row.average_precision for row in rows) > 0.9
    with pytest.raises(TrustqError, match="looks at features, and .*p.npz has prob"):
        board([tmp_path / "p.npz"], noise=["instance:0.2"])
    with pytest.raises(TrustqError, match="pair:0.2 has no nope; it has self_confidence"):
        board([tmp_path / "p.npz"], noise=["pair:0.2"], scores=["nope"])


def test_the_command_writes_its_table(tmp_path: Path) -> None:
    path, _ = make_source(tmp_path)
    runner = CliRunner()
    made = runner.invoke(
        app,
        ["audit", "board", str(path), "--noise", "pair:0.2", "--seeds", "1"]
        + ["--out", str(tmp_path / "board.csv")],
    )
    assert made.exit_code == 0, made.output
    assert "self_confidence" in made.output
    assert len((tmp_path / "board.csv").read_text().splitlines()) > 8


def test_an_audit_by_the_epochs_of_a_network_says_what_they_saw(tmp_path: Path) -> None:
    from dataclasses import replace

    from test_audit import noisy_cache

    from trustq.store import write_cache

    cache = noisy_cache()
    rng = np.random.default_rng(0)
    epochs = np.full((4, len(cache), 3), np.nan, dtype=np.float32)
    trained = cache.observed >= 0
    # It learns the labels slowly: at first what the image says, at last what it was told.
    for e in range(4):
        towards = np.eye(3)[cache.label] * (4 - e) + np.eye(3)[cache.observed] * e
        epochs[e, trained] = (towards + rng.normal(size=towards.shape) * 0.3)[trained]
    path = tmp_path / "seed0.h5"
    write_cache(path, replace(cache, extra={"epochs/logits": epochs}))
    audit = audit_labels([open_source(path)], score="aum", review=40)
    wrong = audit.reference != audit.given
    assert wrong[audit.order[:30]].mean() > 0.9
    assert any("aum looks at the logits of each epoch" in note for note in audit.notes)
    write_cache(tmp_path / "none.h5", cache)
    with pytest.raises(TrustqError, match="holds no logits of its epochs"):
        audit_labels([open_source(tmp_path / "none.h5")], score="aum")
