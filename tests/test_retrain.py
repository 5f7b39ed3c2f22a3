"""The whole loop: labels bought from one network, and the network trained again on them."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from support import make_cache, refused
from support_extract import Heard, extract_one, make_rows, tiny
from trustq.cli import app
from typer.testing import CliRunner

from trustq.analysis.main_table import main_table
from trustq.analysis.refit_order import refit_order_warnings
from trustq.analysis.significance import results_seed_tables, significance
from trustq.core.columns import read_metadata, read_table, write_parquet
from trustq.data.manifest import Manifest
from trustq.data.purchase_origin import Origin, training_digest
from trustq.errors import TrustqError
from trustq.experiments import repair
from trustq.extraction import extract
from trustq.recipes import load_recipe
from trustq.report import repair_table
from trustq.results import connect, run_query, save_repaired_labels
from trustq.store import read_cache
from trustq.store.format import SEEN_OBSERVED

torch = pytest.importorskip("torch")

ARMS = "arms=none,random,oracle,random:drop"


def repair_recipe(*settings: str) -> Any:
    asked = ["noise=stored", "budgets=6", "rounds=2", "folds=2", *settings]
    return load_recipe(settings=asked, part="sweep")


@pytest.fixture(scope="module")
def loop(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest, Path]:
    """Results of two seeds: heads on the noisy networks, and networks trained again."""
    root = tmp_path_factory.mktemp("loop")
    manifest, out, results = make_rows(images), root / "cache", root / "results"
    made = extract(manifest, recipe=tiny(), seeds=[5, 6], out=out, progress=Heard())
    caches = [read_cache(each.path, manifest=manifest) for each in made]
    repair(caches, recipe=repair_recipe(ARMS), results=results)
    repair(caches, recipe=repair_recipe("arms=none", "head=backbone"), results=results)
    for arm in ("random", "oracle"):
        save_repaired_labels(results, root / arm, arm=arm)
        labels = f"observed={root / arm}/seed{{seed}}.parquet"
        recipe = replace(tiny("extract.noise=none", labels), name=arm)
        again = extract(manifest, recipe=recipe, seeds=[5, 6], out=out, progress=Heard())
        caches = [read_cache(each.path, manifest=manifest) for each in again]
        for head in ("backbone", "linear"):
            asked = repair_recipe("arms=none", f"head={head}")
            assert not [
                n for n in repair(caches, recipe=asked, results=results).notes if "arm" in n
            ]
    return root, manifest, results


def test_a_network_trained_again_is_its_arm_with_the_backbone_refitted(loop: Any) -> None:
    root, _, results = loop
    rows = run_query(
        results,
        """SELECT arm, refit, head, budget, n_bought, noise, n_wrong_start, n_trusted, exposure
           FROM runs WHERE backbone_seed = 5 AND refit IN ('backbone', 'both') ORDER BY ALL""",
    ).rows
    assert [row[:5] for row in rows] == [
        ("none", "backbone", "backbone", "0", 0),
        ("oracle", "backbone", "backbone", "6", 6),
        ("oracle", "both", "linear", "6", 6),
        ("random", "backbone", "backbone", "6", 6),
        ("random", "both", "linear", "6", 6),
    ]
    # All of the one experiment, whose labels were as wrong for each arm at its start.
    assert {row[5:] for row in rows} == {("stored (symmetric:0.2)", *rows[0][6:8], rows[0][8])}


def test_the_labels_of_a_purchase_are_what_the_network_is_trained_on(loop: Any) -> None:
    root, manifest, results = loop
    cache = read_cache(root / "cache/shapes/oracle/seed6.h5", manifest=manifest)
    labels = run_query(
        results,
        """SELECT sample_id, current_label, l.trusted FROM labels l JOIN runs c ON l.run = c.key
           WHERE arm = 'oracle' AND refit = 'head' AND backbone_seed = 6""",
    ).rows
    told = {sample: (label, trusted) for sample, label, trusted in labels}
    for row in np.flatnonzero(cache.observed >= 0):
        label, trusted = told.pop(str(cache.sample_id[row]))
        assert (cache.classes[cache.observed[row]], bool(cache.trusted[row])) == (label, trusted)
    assert not told


def test_networks_trained_again_pair_with_the_one_whose_labels_they_repair(loop: Any) -> None:
    _, _, results = loop
    rows = run_query(
        results,
        """SELECT arm, baseline, n, mean_difference FROM paired
           WHERE refit = 'backbone' AND unit = 'backbone_seed' AND metric = 'nll'
             AND split = 'test' AND stage = 'uncalibrated' AND arm < baseline""",
    ).rows
    figures = {
        (arm, seed): figure
        for arm, seed, figure in run_query(
            results,
            """SELECT arm, backbone_seed, value FROM metric_values WHERE refit = 'backbone'
               AND metric = 'nll' AND split = 'test' AND stage = 'uncalibrated'""",
        ).rows
    }
    expected = [
        (a, b, 2, pytest.approx(np.mean([figures[a, s] - figures[b, s] for s in (5, 6)])))
        for a, b in (("none", "oracle"), ("none", "random"), ("oracle", "random"))
    ]
    assert sorted(rows) == expected
    tables = results_seed_tables(results, arms=["oracle", "random", "none"], metrics=["nll"])
    found = significance(tables, metrics=["nll"])
    assert {row.evaluation for row in found} == {
        "head linear, refit head",
        "head backbone, refit backbone",
        "head linear, refit both",
    }


def test_curves_place_a_network_trained_again_at_the_labels_it_cost(loop: Any) -> None:
    _, _, results = loop
    bought = "SELECT DISTINCT arm, n_bought_total FROM curves WHERE is_final AND refit = "
    rows = sorted(run_query(results, f"{bought} 'backbone'").rows)
    assert [arm for arm, _ in rows] == ["none", "oracle", "random"]
    assert set(rows) < set(run_query(results, f"{bought} 'head'").rows)


def test_the_table_of_a_repair_holds_networks_trained_again(loop: Any) -> None:
    _, _, results = loop
    keys = [key for (key,) in run_query(results, "SELECT key FROM runs").rows]
    records = repair_table(results, keys).records
    found = {
        (record["arm"], record["refit"]): record
        for record in records
        if record["head"] == "backbone" and record["split"] == "test"
    }
    assert set(found) == {("none", "backbone"), ("oracle", "backbone"), ("random", "backbone")}
    again = found["oracle", "backbone"]
    assert again["errors_found"] is None and again["n"] == 2
    assert again["accuracy_gain_over_random"]["n"] == 2
    heads = [r for r in records if (r["arm"], r["refit"]) == ("oracle", "head")]
    assert heads and all(record["errors_found"] is not None for record in heads)
    assert {record["bought"] for record in heads} == {again["bought"]}


def test_a_table_warns_where_heads_and_networks_order_arms_differently(tmp_path: Path) -> None:
    base = make_cache(n=600, separation=1.0, recipe={"name": "noisy", "extract": {"epochs": 3}})
    rng = np.random.default_rng(0)
    train = base.split == "train"
    observed = np.where(train, base.label, -1).astype(np.int16)
    wrong = train & (rng.random(600) < 0.4)
    observed[wrong] = (observed[wrong] + 1) % 3
    seen = np.where(train, SEEN_OBSERVED, 0).astype(np.uint8)
    kept = {"exposure": "finetuned-observed", "observed": observed, "seen": seen}
    base = replace(base, **kept, noise={"spec": "simulated", "trusted": 0.0})
    results = tmp_path / "r"
    recipe = repair_recipe("arms=none,random,oracle", "budgets=all-wrong")
    repair([base], recipe=recipe, results=results)
    for arm, sign in (("random", 1), ("oracle", -1)):  # for the networks, the other way round
        (saved,) = save_repaired_labels(results, tmp_path / arm, arm=arm)
        origin = read_metadata(saved.path)["origin"]
        logits = sign * np.eye(3, dtype=np.float32)[base.label] + rng.normal(0, 0.1, (600, 3))
        again = replace(
            base,
            logits=logits.astype(np.float32),
            recipe={"name": arm, "extract": {"epochs": 3, "observed": "labels"}},
            noise={"spec": "file:labels", "trusted": 0.0, "origin": origin},
            content_digest=arm,
        )
        repair([again], recipe=repair_recipe("arms=none", "head=backbone"), results=results)
    with connect(results) as connection:
        warnings = refit_order_warnings(connection)
    told = [text.split(",")[0].removeprefix("REFIT ORDER: by ") for text in warnings]
    assert {"accuracy", "nll"} <= set(told) <= {"accuracy", "macro_f1", "nll"}
    assert warnings[0] == (
        "REFIT ORDER: by accuracy, linear heads on fixed features put oracle (wrong labels only) > "
        "random; networks trained again on the same labels put random > oracle (wrong labels only) "
        "(budget all-wrong). Head-only figures do not stand for the whole loop."
    )
    assert main_table(results).notes[: len(told)] == tuple(warnings)


def test_a_network_trained_otherwise_is_no_arm(loop: Any, tmp_path: Path) -> None:
    root, manifest, _ = loop
    labels = f"observed={root / 'random'}/seed{{seed}}.parquet"
    cache = extract_one(manifest, tiny("extract.noise=none", labels, "epochs=1"), tmp_path / "c")
    asked = repair_recipe("arms=none", "head=backbone")
    run = repair([cache], recipe=asked, results=tmp_path / "r")
    assert any("random bought, but with other settings" in note for note in run.notes)
    rows = run_query(tmp_path / "r", "SELECT arm, noise FROM runs").rows
    assert rows == [("none", "stored (file:seed5.parquet)")]


def test_labels_bought_for_another_seed_are_refused(loop: Any, tmp_path: Path) -> None:
    root, manifest, _ = loop
    path = root / "random/seed6.parquet"
    with refused(
        f"{path}: its labels were bought for the network of seed 6, and seed 5 is to be trained, "
        "so the two would be no pair. Train `seeds=6`, or name a file for each seed: "
        "`observed=FOLDER/seed{seed}.parquet`."
    ):
        extract_one(manifest, tiny("extract.noise=none", f"observed={path}"), tmp_path)


def test_labels_of_a_part_of_the_rows_are_no_arm(loop: Any, tmp_path: Path) -> None:
    root, manifest, _ = loop
    table = read_table(root / "random/seed5.parquet")
    origin = read_metadata(root / "random/seed5.parquet")
    path = tmp_path / "part.parquet"
    write_parquet(path, {name: column[2:] for name, column in table.items()}, metadata=origin)
    first = ", ".join(table["sample_id"][:2])
    with refused(f"{path}: 2 ids to train on are not in it, though a purchase is of all: {first}."):
        extract_one(manifest, tiny("extract.noise=none", f"observed={path}"), tmp_path)
    recipe = {"name": "r", "extract": {"epochs": 1}}
    repair(
        [make_cache(recipe=recipe)],
        recipe=repair_recipe("rows=unseen", "noise=symmetric:0.2", "arms=random"),
        results=tmp_path / "r",
    )
    with refused(
        "Arm 'random' bought labels of some training rows or of another target (rows unseen, "
        "target None, fit_on None); a network is trained again on all rows of the train split and "
        "their own labels. Choose other runs with `where`."
    ):
        save_repaired_labels(tmp_path / "r", tmp_path, arm="random")


def test_dropped_rows_are_blank_in_the_labels(loop: Any, tmp_path: Path) -> None:
    _, _, results = loop
    saved = save_repaired_labels(results, tmp_path, arm="random:drop", where="backbone_seed = 5")
    labels = read_table(saved[0].path)["label"].tolist()
    assert labels.count(None) == 6 and saved[0].n_rows == len(labels)


def test_what_names_no_single_purchase_is_refused(loop: Any, tmp_path: Path) -> None:
    root, _, results = loop
    with refused(
        f"{results} has no run of arm 'entropy'; it has arms none, oracle, random, random:drop."
    ):
        save_repaired_labels(results, tmp_path, arm="entropy")
    cache = read_cache(root / "cache/shapes/tiny/seed5.h5")
    repair([cache], recipe=repair_recipe("arms=random", "draws=2"), results=tmp_path / "r")
    with refused(
        "Arm 'random' has 2 runs of backbone seed 5, which differ in draw_seed (0, 1). Choose "
        "with, for example, `where=budget = '64' AND head = 'linear' AND draw_seed = 0`."
    ):
        save_repaired_labels(tmp_path / "r", tmp_path, arm="random")
    result = CliRunner().invoke(
        app, ["export", "labels", "random", "--results", str(tmp_path / "r"), "--where", "draw ="]
    )
    assert result.exit_code == 1 and "is no condition on runs" in result.output
    with refused(
        f"No run of {results} meets \"budget = '77'\". What it has: `trustq sql` "
        "with `SELECT DISTINCT arm, budget, head, refit, cache_recipe FROM runs`."
    ):
        connect(results, where="budget = '77'")
    with pytest.raises(TrustqError, match="is no condition on runs"):
        connect(tmp_path / "r", where="true); DROP TABLE trustq.committed; SELECT (1")


def test_an_origin_that_no_cell_has_is_refused(loop: Any, tmp_path: Path) -> None:
    root, manifest, _ = loop
    table = read_table(root / "random/seed5.parquet")
    for spoilt in ("text", {"arm": "random"}):
        write_parquet(tmp_path / "x.parquet", table, metadata={"origin": spoilt})
        with pytest.raises(TrustqError, match="its origin "):
            recipe = tiny("extract.noise=none", f"observed={tmp_path / 'x.parquet'}")
            extract_one(manifest, recipe, tmp_path / "c")
    with pytest.raises(TrustqError, match="n_bought = True"):
        Origin.of({**dict.fromkeys(("arm",), "a"), **_whole(), "n_bought": True}, where="x")


def _whole() -> dict[str, Any]:
    from trustq.data.purchase_origin import PURCHASE_COLUMNS

    made = {str: "a", int: 1, bool: False}
    return {
        name: made[kind if isinstance(kind, type) else kind[0]]
        for name, kind in PURCHASE_COLUMNS.items()
    }


def test_how_a_network_learnt_is_known_apart_from_its_labels() -> None:
    def digest(**settings: Any) -> str | None:
        return training_digest({"extract": settings})

    assert digest(epochs=3) == digest(epochs=3, mode="crossfit", noise="x", observed="y", passes=9)
    assert digest(epochs=3) != digest(epochs=3, loss="gce")
    assert digest(mode="frozen") is None and training_digest({}) is None
    assert training_digest({"extract": {"epochs": 3}, "with": "other"}) is None
