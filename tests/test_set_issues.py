"""What else is wrong with a set: planted outliers, copies, overlaps, weak clusters, odd images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trustq.cli import app
from typer.testing import CliRunner

import trustq as tq
from trustq.audit import audit_labels, open_source
from trustq.audit.close_rows import close_rows, nearest_distances
from trustq.audit.set_issues import find_set_issues, issue_counts
from trustq.core.columns import write_parquet
from trustq.core.generators import generator

N = 600


def make_set(folder: Path, **more: Any) -> tuple[Path, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, N)
    features = (rng.normal(size=(N, 12)) + 4 * np.eye(12)[labels]).astype("f4")
    path = folder / "set.npz"
    np.savez(path, **({"features": features, "labels": labels} | more))
    return path, features, labels


def issues_of(path: Path, **more: Any) -> list[Any]:
    return find_set_issues(audit_labels([open_source(path)]), **more)


def test_planted_outliers_and_copies_are_found_and_few_others(tmp_path: Path) -> None:
    _, features, labels = make_set(tmp_path)
    rng = np.random.default_rng(0)
    features[7] += 60 * rng.normal(size=12)
    features[100] = features[50] + 0.01
    labels[100] = (labels[50] + 1) % 3
    path, _, _ = make_set(tmp_path, features=features, labels=labels)
    found = issues_of(path)
    assert [one.sample_id for one in found if one.kind == "outlier"][0] == "7"
    pairs = [(one.sample_id, one.other, one.note) for one in found if one.kind == "near_duplicate"]
    assert pairs == [("50", "100", "another label")]
    counts = issue_counts(found)
    assert counts["outlier"] < 5 and counts["weak_cluster"] == counts["overlapping_classes"] == 0
    # Rows of one group are no duplicates of each other.
    groups = np.arange(N)
    groups[100] = 50
    path, _, _ = make_set(tmp_path, features=features, labels=labels, groups=groups)
    assert issue_counts(issues_of(path))["near_duplicate"] == 0


def test_many_rows_are_searched_in_parts_and_planted_copies_are_found() -> None:
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(30, 48))
    features = (centres[rng.integers(0, 30, 6000)] + rng.normal(size=(6000, 48))).astype("f4")
    copies = rng.permutation(6000)[:200].reshape(100, 2)
    features[copies[:, 1]] = features[copies[:, 0]] + 0.02 * rng.normal(size=(100, 48)).astype("f4")
    groups = np.arange(6000)
    near = nearest_distances(features, groups)
    found = {(a, b) for a, b, _ in close_rows(features, groups, usual=near.nearest)}
    planted = {(min(a, b), max(a, b)) for a, b in copies.tolist()}
    assert len(found & planted) >= 97 and found <= planted
    few = nearest_distances(features[:4000], groups[:4000])
    assert abs(few.nearest / near.nearest - 1) < 0.05
    distances = close_rows(features[:4000], groups[:4000], usual=few.nearest)
    exact = {
        (a, b)
        for a, b in planted
        if b < 4000 and np.linalg.norm(features[a] - features[b]) < 0.13 * few.nearest
    }
    assert {(a, b) for a, b, _ in distances} == exact and len(exact) > 20


def test_distances_of_many_rows_are_those_to_the_rows_of_other_groups() -> None:
    rng = np.random.default_rng(2)
    features = rng.normal(size=(5100, 6)).astype("f4")
    groups = np.arange(5100) // 2
    features[1::2] = features[::2]  # the nearest row of all is of the same group
    near = nearest_distances(features, groups)
    order = generator(0, "reference rows").permutation(5100)
    apart = np.linalg.norm(features[:, None].astype(float) - features[order[:2000]], axis=2)
    apart[groups[:, None] == groups[order[:2000]]] = np.inf
    exact = np.sort(apart, axis=1)[:, :10].mean(axis=1)
    np.testing.assert_allclose(near.mean, exact, rtol=1e-4)
    assert near.nearest == pytest.approx(np.median(apart[:, :500].min(axis=0)), rel=1e-4)


def test_classes_that_overlap_and_a_cluster_where_the_model_fails_are_named(
    tmp_path: Path,
) -> None:
    _, features, labels = make_set(tmp_path)
    rng = np.random.default_rng(2)
    # A corner of class 2 in which half the rows are called 0.
    corner = np.flatnonzero(labels == 2)[:80]
    features[corner, 5] += 9
    given = labels.copy()
    given[corner] = np.where(rng.random(80) < 0.5, 0, 2)
    path, _, _ = make_set(tmp_path, features=features, labels=given)
    found = issues_of(path)
    overlap = [one for one in found if one.kind == "overlapping_classes"]
    assert {overlap[0].sample_id, overlap[0].other} == {"0", "2"}
    weak = [one for one in found if one.kind == "weak_cluster"]
    assert weak and weak[0].value > 2 * weak[0].usual
    rows = {int(one.sample_id) for one in weak if one.sample_id and one.other == weak[0].other}
    assert len(rows & set(corner.tolist())) > 0.8 * len(rows)


def test_odd_images_and_columns_that_tell_the_label_are_named(tmp_path: Path) -> None:
    from scipy.stats import kruskal
    from scipy.stats.contingency import association

    path, _, labels = make_set(tmp_path)
    rng = np.random.default_rng(4)
    grey = rng.normal(120, 10, N)
    grey[11], grey[12] = 5.0, 250.0
    width = np.full(N, 300.0)
    width[13] = 30.0
    ruler = np.where((labels == 1) & (rng.random(N) < 0.8), "ruler", "none").astype(object)
    columns = {
        "mean_grey": grey,
        "image_width": width,
        "image_height": np.full(N, 300.0),
        "laplacian_variance": np.r_[1e-3, np.exp(rng.normal(5, 0.3, N - 1))],
        "ruler": ruler,
        "warmth": labels + rng.normal(size=N),
        "noise": rng.normal(size=N),
        "malignant": np.where(labels == 2, "yes", "no").astype(object),
        "id": np.array([f"i{i}" for i in range(N)], dtype=object),
    }
    found = issues_of(path, columns=columns)
    odd = {(one.sample_id, one.other) for one in found if one.kind == "image"}
    assert {("11", "dark"), ("12", "bright"), ("13", "tall"), ("0", "blurred")} <= odd
    assert len(odd) < 8
    told = {one.other: one.value for one in found if one.kind == "predicts_label"}
    assert set(told) == {"ruler", "warmth"}
    # The field's own figures: H by scipy; V without the correction is close on 600 rows.
    h = kruskal(*(columns["warmth"][labels == c] for c in range(3))).statistic
    assert told["warmth"] == pytest.approx((h - 2) / (N - 3))
    table = np.array([[((ruler == r) & (labels == c)).sum() for c in range(3)] for r in set(ruler)])
    assert told["ruler"] == pytest.approx(association(table, "cramer"), abs=0.01)


def test_the_command_and_the_report_write_the_same_table(tmp_path: Path) -> None:
    path, features, labels = make_set(tmp_path)
    features[100] = features[50]
    path, _, _ = make_set(tmp_path, features=features, labels=labels)
    write_parquet(
        tmp_path / "meta.parquet",
        {
            "sample_id": np.array([str(i) for i in range(N)], dtype=object),
            "warmth": labels + np.random.default_rng(0).normal(size=N),
        },
    )
    out = tmp_path / "audit"
    run = CliRunner().invoke(
        app,
        ["audit", "labels", str(path), "--out", str(out), "--results", str(tmp_path / "r")]
        + ["--metadata", str(tmp_path / "meta.parquet")],
    )
    assert run.exit_code == 0, run.output
    assert "pairs of rows nearly the same" in run.output
    assert "columns that predict the label" in run.output
    report = tq.audit_labels(str(path), metadata=tmp_path / "meta.parquet")
    report.save(tmp_path / "again")
    assert (out / "set_issues.csv").read_bytes() == (
        tmp_path / "again" / "set_issues.csv"
    ).read_bytes()
    kinds = report.set_issues["kind"].tolist()
    assert "near_duplicate" in kinds and "predicts_label" in kinds
    plain = tmp_path / "probs.npz"
    np.savez(plain, probs=np.eye(3)[labels] * 0.7 + 0.1, labels=labels)
    assert issue_counts(issues_of(plain))["outlier"] == 0
