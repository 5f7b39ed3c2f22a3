"""Explanation commands on caches with maps: stability, trust, failures, sanity; their refusals."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import make_cache
from trustq.cli import app
from typer.testing import CliRunner

from trustq.data.manifest import make_manifest, write_manifest
from trustq.errors import TrustqError
from trustq.explain.failure_audit import AuditInput, audit_failures
from trustq.explain.sanity import sanity_checks
from trustq.explain.summaries import (
    BY_CONDITION,
    every_variants,
    failure_input,
    stability_table,
    trust_report,
)
from trustq.explain.variants import row_maps
from trustq.report.failure_page import write_failures
from trustq.report.sanity_page import write_sanity
from trustq.results import run_query
from trustq.statistics.paired import Interval
from trustq.store import Cache, read_cache, write_cache

N, GRID, CHANNELS = 240, 4, 8


def mapped(seed: int = 0, **fields: Any) -> Cache:
    """A cache whose logits are linear in pooled maps, with passes, views and checks."""
    base = make_cache(n=N, separation=1.0)
    rng = np.random.default_rng([seed, 7])
    truth = np.random.default_rng(5)
    where = truth.integers(0, GRID, (N, 2))
    maps = rng.gamma(1, 0.3, (N, GRID, GRID, CHANNELS))
    maps[np.arange(N), where[:, 0], where[:, 1], base.label] += 4
    weight = np.zeros((3, CHANNELS))
    weight[:, :3] = 8 * np.eye(3)
    weight += rng.normal(0, 0.5, weight.shape)

    def stored(array: np.ndarray) -> np.ndarray:
        return array.astype(np.float16)

    features = stored(maps).astype(np.float32).mean(axis=(1, 2))
    logits = features @ weight.T + rng.normal(0, 0.1, 3)
    bias = (logits - features @ weight.T)[0]
    noisy = logits + 0
    passes = np.stack([maps * rng.binomial(1, 0.8, (N, 1, 1, CHANNELS)) / 0.8 for _ in range(3)])
    pass_logits = np.stack([own.mean(axis=(1, 2)) @ weight.T + bias for own in passes])
    explained = np.maximum(np.einsum("nhwc,nc->nhw", maps, weight[logits.argmax(axis=1)]), 0)
    checks = 20
    extra = {
        "maps": stored(maps),
        "classifier/weight": weight.astype(np.float32),
        "classifier/bias": bias.astype(np.float32),
        "passes/path/maps": stored(passes),
        "passes/path/logits": pass_logits.astype(np.float32),
        "passes/path/parameters": np.array(['{"rate_of_last": 0.2}']),
        "views/flip-left-right/features": features,
        "views/flip-left-right/logits": noisy.astype(np.float32),
        "views/flip-left-right/maps": stored(maps + rng.normal(0, 0.1, maps.shape)),
        "views/flip-left-right/parameters": np.array(['{"left_right": true}']),
        "views/rotation-15/features": features,
        "views/rotation-15/parameters": np.array(['{"degrees": 15.0}']),
        "explanations/class": logits.argmax(axis=1).astype(np.int16),
        "explanations/gradcam/maps": stored(explained / explained.max(axis=(1, 2), keepdims=True)),
        "explanations/gradcam/scale": explained.max(axis=(1, 2)).astype(np.float32),
        "explanations/gradcam/parameters": np.array(
            ['{"class": "predicted", "layer": "forward_features", "method": "gradcam"}']
        ),
        "explanations/checked_rows": np.arange(checks),
        "explanations/gradcam/checks/stages": np.array(["as trained", "down to fc", "down to a"]),
        "explanations/gradcam/checks/randomised": np.stack(
            [
                stored(explained[:checks]),
                stored(explained[:checks] + rng.gamma(1, 0.5, explained[:checks].shape)),
                stored(rng.gamma(1, 1, explained[:checks].shape)),
            ]
        ),
    }
    for curve, end in (("deletion", -1), ("flipping", -1), ("insertion", 1)):
        steps = np.linspace(0, 1, 9)[None]
        fall = np.exp(-4 * steps) + rng.normal(0, 0.02, (checks, 9))
        extra[f"explanations/gradcam/checks/{curve}"] = fall if end < 0 else 1 - fall
        extra[f"explanations/gradcam/checks/{curve}_random"] = (
            1 - steps + rng.normal(0, 0.02, (checks, 9))
            if end < 0
            else steps + rng.normal(0, 0.02, (checks, 9))
        )
    values: dict[str, Any] = {
        "features": features.astype(np.float32),
        "logits": logits.astype(np.float32),
        "extra": extra,
        "backbone_seed": seed,
        "weights_digest": f"w{seed}",
    }
    return replace(base, **(values | fields))


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> list[Cache]:
    folder = tmp_path_factory.mktemp("caches")
    return [read_cache(write_cache(folder / f"seed{s}.h5", mapped(s)).path) for s in (0, 1)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest with an image for each row; every tenth is flat, one is no image."""
    root = tmp_path_factory.mktemp("images")
    base = make_cache(n=N, separation=1.0)
    rng = np.random.default_rng(0)
    for i, sample_id in enumerate(base.sample_id.tolist()):
        pixels = rng.integers(0, 255, (40, 60, 3)).astype(np.uint8)
        if i % 10 == 0:
            pixels[:] = 230
        Image.fromarray(pixels).save(root / f"{sample_id}.png")
    columns = {
        "sample_id": base.sample_id.astype(object),
        "path": np.array([f"{i}.png" for i in base.sample_id.tolist()], dtype=object),
        "label": np.array(base.classes, dtype=object)[base.label],
        "group_id": base.group_id.astype(object),
        "split": base.split.astype(object),
        "dataset": np.full(N, "gauss", dtype=object),
        "domain": np.array([f"site {i % 2}" for i in range(N)], dtype=object),
    }
    manifest = make_manifest(columns, classes=base.classes, root=root, source="test")
    write_manifest(manifest, root / "m.parquet")
    (root / f"{base.sample_id[4]}.png").write_bytes(b"no image")
    return root / "m.parquet"


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


# --- stability and trust -------------------------------------------------------------------------


def test_stability_is_told_for_passes_views_and_seeds(caches: list[Cache], tmp_path: Path) -> None:
    found = stability_table(caches, split="test")
    assert found.method == "exact" and len(found.rows) == int((caches[0].split == "test").sum())
    assert [row["over"] for row in found.means] == [
        "3 passes, path",
        "flip-left-right",
        "2 networks",
    ]
    assert all(0 < row["overlap"] <= 1 and row["shift"] < 1 for row in found.means)
    assert found.notes == ["View rotation-15: turned by an angle, and not turned back"]
    paths = [cache.path for cache in caches]
    result = run("explain", "stability", *paths, "--out", tmp_path / "rows.csv")
    assert result.exit_code == 0, result.output
    assert "3 passes, path" in result.stdout
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 1 + 3 * len(found.rows)


def test_stability_in_sql_is_of_every_network_and_row(caches: list[Cache], tmp_path: Path) -> None:
    paths = [cache.path for cache in caches]
    for _ in range(2):  # the same measurement is written once
        done = run("explain", "stability", *paths, "--results", tmp_path / "r")
        assert done.exit_code == 0, done.output
    rows = run_query(
        tmp_path / "r",
        "SELECT backbone_seed, over, count(*), avg(overlap), avg(shift), avg(max_sensitivity) "
        "FROM stability GROUP BY ALL ORDER BY ALL",
    ).rows
    expected = []
    for cache, other in (caches, caches[::-1]):
        found = stability_table([cache, other], split="test")
        for row in found.means:
            means = [row[name] for name in ("overlap", "shift", "max_sensitivity")]
            expected.append((cache.backbone_seed, row["over"], len(found.rows), *means))
    assert [row[:3] for row in rows] == [row[:3] for row in sorted(expected)]
    for row, own in zip(rows, sorted(expected), strict=True):
        np.testing.assert_allclose(row[3:], own[3:], rtol=1e-6)  # of float32
    wrong = run_query(
        tmp_path / "r",
        "SELECT count(*) FROM stability WHERE kind = 'seeds' AND backbone_seed = 0 "
        "AND label <> predicted",
    ).rows[0][0]
    test = caches[0].split == "test"
    assert wrong == (caches[0].logits.argmax(axis=1) != caches[0].label)[test].sum()


def test_stored_explanations_stand_in_where_maps_are_missing(caches: list[Cache]) -> None:
    exact = row_maps(caches[0])
    left = {k: v for k, v in caches[0].extra.items() if not k.endswith("maps") or "gradcam" in k}
    own = row_maps(replace(caches[0], extra=left))
    assert (exact.method, own.method) == ("exact", "gradcam")
    scale = np.abs(own.maps).max()
    # Grad-CAM's mean over places is a share of the stored sum.
    np.testing.assert_allclose(own.maps / GRID**2, exact.maps, atol=2e-3 * scale)


def test_trust_cells_are_printed_with_a_paired_answer(
    caches: list[Cache], images: Path, tmp_path: Path
) -> None:
    paths = [cache.path for cache in caches]
    asked = ("--over", "passes", "--metadata", images, "--by", "domain")
    result = run("explain", "trust", *paths, *asked, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert len(record["networks"]) == 2 and len(record["networks"][0]["cells"]) == 8
    assert record["answer"].startswith(("Yes", "No"))
    n_test = int((caches[0].split == "test").sum())
    by = record["tables"]["by domain, first network"]
    assert sum(row["n"] for row in by) == n_test
    for _ in range(2):
        done = run("explain", "trust", *paths, *asked, "--results", tmp_path / "r")
        assert done.exit_code == 0, done.output
    cells = run_query(
        tmp_path / "r",
        "SELECT backbone_seed, n, share, lower, upper, confidence_cut FROM trust_cells",
    ).rows
    own = [
        (one["seed"], *(cell[name] for name in ("n", "share", "lower", "upper")), cut)
        for one in record["networks"]
        for cell in one["cells"]
        if (cut := one["cuts"]["confidence"])
    ]
    np.testing.assert_allclose(sorted(cells), sorted(own), rtol=1e-12)
    answer = run_query(
        tmp_path / "r", "SELECT difference, lower, upper, p, answer FROM trust_cell_answers"
    ).rows
    added = record["added"]
    assert len(answer) == 1 and answer[0][4] == record["answer"]
    np.testing.assert_allclose(answer[0][:3], [added["difference"], *added["interval"]], rtol=1e-9)
    assert answer[0][3] == added["sign_flip"]["p_value"]
    text = run("explain", "trust", *paths, *asked)
    prose = text.stdout.partition("Does stability add anything to confidence?")
    assert prose[1] and max(map(len, (prose[1] + prose[2]).splitlines())) <= 80


def test_an_interval_that_there_is_none_of_is_blank(caches: list[Cache], tmp_path: Path) -> None:
    ids = caches[0].sample_id[caches[0].split == "test"]
    group = caches[0].group_id[caches[0].split == "test"]
    assert (sizes := Counter(group)).most_common(1)[0][
        1
    ] > 1  # several rows, one group: no interval
    one = sizes.most_common(1)[0][0]
    lines = [f"{i},{'one' if g == one else 'rest'}" for i, g in zip(ids, group, strict=True)]
    (tmp_path / "m.csv").write_text("\n".join(["sample_id,part", *lines]) + "\n")
    paths = [cache.path for cache in caches]
    asked = ("--over", "passes", "--metadata", tmp_path / "m.csv", "--by", "part")
    found = run("explain", "trust", *paths, *asked)
    assert found.exit_code == 0, found.output
    rows = found.stdout.partition("by part, first network")[2]
    assert "one " in rows and "nan" not in rows


# --- failures ------------------------------------------------------------------------------------


def test_a_failure_audit_has_its_kinds_causes_and_pages(
    caches: list[Cache], images: Path, tmp_path: Path
) -> None:
    paths = [cache.path for cache in caches]
    asked = ("--manifest", images, "--columns", "domain", "--positive", "a", "--most", 5)
    result = run("explain", "failures", *paths, *asked, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "cases.json").read_text())
    kinds = {case["kind"] for case in record["cases"]}
    assert {"confident error", "uncertain correct", "unstable", "random"} <= kinds
    wrong = [case for case in record["cases"] if case["label"] != case["predicted"]]
    assert wrong and all(case["cause"] and case["neighbours"] for case in wrong)
    by_domain = record["counts"]["domain"]
    assert sum(row["errors"] for row in by_domain) == record["n_errors"]
    for table in record["counts"].values():
        causes = [c["name"] for c in record["causes"]]
        assert all(sum(row[name] for name in causes) == row["errors"] for row in table)
    assert len(record["safety"]) == 4
    page = (tmp_path / "failures.html").read_text()
    assert "not a medical device" in page and "default-src 'none'" in page
    assert "://" not in page and "<script" not in page
    panels = list((tmp_path / "panels").glob("*.png"))
    assert len(panels) == len({case["sample_id"] for case in record["cases"]})
    with Image.open(panels[0]) as panel:
        assert panel.size[0] > 500


def test_cells_of_a_condition_are_of_what_the_view_shows(caches: list[Cache]) -> None:
    """Counted again by hand: the view's own predictions, the cut of clean validation rows."""
    rng = np.random.default_rng(3)
    name = "views/flip-left-right"
    seen = (caches[0].logits + rng.normal(0, 3, caches[0].logits.shape)).astype(np.float32)
    cache = replace(caches[0], extra=dict(caches[0].extra) | {f"{name}/logits": seen})
    found = trust_report([cache], over="passes")
    (row,) = found.tables[BY_CONDITION]
    test = np.flatnonzero(cache.split == "test")
    right = (seen.argmax(axis=1) == cache.label)[test]
    n_right = sum(row[key] for key in row if key.startswith("right_"))
    assert row["value"] == "flip-left-right" and n_right == right.sum() and row["n"] == len(test)
    n_wrong = sum(row[key] for key in row if key.startswith("wrong_"))
    assert n_wrong == (~right).sum()
    cut = found.record["networks"][0]["cuts"]["confidence"]
    validation = cache.split == "val"
    from trustq.calibration.temperature import TemperatureScaling
    from trustq.metrics.selective import log_odds_confidence

    scaler = TemperatureScaling().fit(cache.logits[validation], cache.label[validation])
    sure = log_odds_confidence(scaler.transform(seen))[test] >= cut
    assert row["right_uncertain"] == (right & ~sure).sum()
    n_sure = row["wrong_confident_stable"] + row["wrong_confident_unstable"]
    assert n_sure == (~right & sure).sum()


def test_the_most_confident_errors_and_uncertain_hits_are_the_first(caches: list[Cache]) -> None:
    found = audit_failures(caches[:1], k=3)
    cache = caches[0]
    rows = np.flatnonzero(cache.split == "test")
    errors = cache.logits.argmax(axis=1) != cache.label
    probs = np.exp(cache.logits - cache.logits.max(axis=1, keepdims=True))
    top = (probs / probs.sum(axis=1, keepdims=True)).max(axis=1)
    own = [case.row for case in found.cases if case.kind == "confident error"]
    assert own[0] == rows[errors[rows]][np.argmax(top[rows[errors[rows]]])]
    assert all(not errors[c.row] for c in found.cases if c.kind == "uncertain correct")
    assert found.n_errors == int(errors[rows].sum())


def test_images_of_any_aspect_and_missing_ones_are_drawn(
    caches: list[Cache], images: Path, tmp_path: Path
) -> None:
    given, files = failure_input(caches[:1], manifest=images)
    found = audit_failures(caches[:1], given=given, k=2)
    for aspect in ("squash", "crop", "pad"):
        written = write_failures(found, tmp_path / aspect, images=files, aspect=aspect)
        assert all(path.is_file() for path in written)
    blank = write_failures(found, tmp_path / "none", images=None)
    assert "no image" in blank[0].read_text()


def test_names_from_files_cannot_leave_the_page(caches: list[Cache], tmp_path: Path) -> None:
    ids = caches[0].sample_id.astype(object).copy()
    rows = np.flatnonzero(caches[0].split == "test")
    ids[rows] = [f"../<script>alert({i})</script>" for i in rows]
    odd = replace(caches[0], sample_id=ids.astype(str))
    written = write_failures(audit_failures([odd], k=2), tmp_path / "odd", images=None)
    assert "<script" not in written[0].read_text()
    assert all((tmp_path / "odd") in path.resolve().parents for path in written)


# --- sanity --------------------------------------------------------------------------------------


def test_maps_that_change_with_weights_pass_and_those_that_do_not_are_worthless(
    caches: list[Cache], tmp_path: Path
) -> None:
    (good,) = sanity_checks(caches[0])
    assert good.depends_on_weights and "Maps change with the weights" in good.verdict
    assert all(curve.is_better for curve in good.curves)
    path = "explanations/gradcam/checks/randomised"
    same = np.stack([caches[0].extra[path][0]] * 3)
    extra = dict(caches[0].extra) | {path: same}
    (bad,) = sanity_checks(replace(caches[0], extra=extra))
    assert not bad.depends_on_weights
    assert bad.verdict.startswith("These maps are worthless as explanations")
    result = run("explain", "sanity", caches[0].path, "--out", tmp_path / "s.html")
    page = (tmp_path / "s.html").read_text()
    assert result.exit_code == 0 and "Maps change" in page and "verdict good" in page
    # Maps that change, and mark nothing that the network uses, are no good ones either.
    curves = tuple(replace(curve, interval=Interval(-1.0, 1.0)) for curve in good.curves)
    blind = replace(good, curves=curves)
    write_sanity([blind], tmp_path / "s.html")
    assert "verdict good" not in (tmp_path / "s.html").read_text()


# --- what cannot be ------------------------------------------------------------------------------


def test_dropout_behind_the_pooling_is_refused(caches: list[Cache]) -> None:
    extra = {k: v for k, v in caches[0].extra.items() if not k.startswith(("passes", "views"))}
    extra["passes/dropout/logits"] = np.zeros((3, N, 3), np.float32)
    with pytest.raises(TrustqError) as error:
        every_variants([replace(caches[0], extra=extra)])
    assert "dropout behind the pooling moves logits and no map" in str(error.value)


def test_maps_of_another_layer_are_told(caches: list[Cache]) -> None:
    extra = dict(caches[1].extra)
    extra["maps"] = np.repeat(np.repeat(extra["maps"], 2, axis=1), 2, axis=2)
    with pytest.raises(TrustqError, match="8 x 8, those of .* 4 x 4: another layer or image size"):
        every_variants([caches[0], replace(caches[1], extra=extra)])


def test_one_class_absent_and_all_rows_right_are_notes(caches: list[Cache]) -> None:
    cache = caches[0]
    right = replace(cache, label=cache.logits.argmax(axis=1).astype(np.int16))
    found = audit_failures([right], k=2)
    assert found.n_errors == 0 and not found.rules
    assert any(note.endswith("none is wrong: there is no error to explain") for note in found.notes)
    assert {case.kind for case in found.cases} == {"uncertain correct", "random"}
    with pytest.raises(TrustqError, match="^All .* validation rows are right"):
        trust_report([right], over="passes")
    is_c = cache.label == 2
    split = np.where(is_c & (cache.split == "test"), "train", cache.split)
    absent = audit_failures([replace(cache, split=split)], k=2)
    assert "No row of test has the label c" in absent.notes


def test_rows_of_another_manifest_and_empty_splits_are_told(caches: list[Cache]) -> None:
    with pytest.raises(TrustqError, match="hold other rows or classes"):
        audit_failures([caches[0], replace(caches[1], sample_id=caches[1].sample_id[::-1])])
    with pytest.raises(TrustqError, match="has no labelled rows of split 'external'"):
        stability_table(caches[:1], split="external")
    with pytest.raises(TrustqError, match="unknown class 'd'; expected one of a, b, c"):
        stability_table(caches[:1], split="test", explain="d")


def test_unstable_cases_are_those_of_least_overlap(caches: list[Cache]) -> None:
    stability = np.linspace(1, 0, N)
    given = AuditInput(stability=stability, stability_of="a test")
    found = audit_failures(caches[:1], given=given, k=2)
    rows = np.flatnonzero(caches[0].split == "test")
    assert [c.row for c in found.cases if c.kind == "unstable"] == rows[-1:-3:-1].tolist()
