"""The loop trains on what it bought, keeps account, and goes on wherever it was stopped."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from support_extract import TINY, Heard, make_rows, tiny

from trustq.analysis.compare_arms import compare_arms
from trustq.analysis.pairs import Stored
from trustq.analysis.significance import results_seed_tables, significance
from trustq.core.columns import read_table
from trustq.data.manifest import Manifest, write_manifest
from trustq.errors import InputError
from trustq.results import run_query
from trustq.store import read_cache

pytest.importorskip("torch")
pytest.importorskip("timm")

from trustq.experiments.train_loop import LoopRun, train_loop

LOOP = (
    "extract.noise=symmetric:0.4",
    "extract.trusted=0.1",
    "arms=none,random,oracle",
    "budgets=8",
    "rounds=2",
    "folds=2",
)


@pytest.fixture(scope="module")
def manifest(images: Path) -> Manifest:
    return make_rows(images)


def looped(manifest: Manifest, out: Path, *settings: str, seeds: tuple[int, ...] = (1,)) -> LoopRun:
    recipe = tiny(*LOOP, *settings)
    return train_loop(manifest, recipe=recipe, seeds=seeds, out=out, progress=Heard())


@pytest.fixture(scope="module")
def whole(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LoopRun, Path]:
    out = tmp_path_factory.mktemp("loop")
    return looped(manifest, out, seeds=(1, 2)), out


def test_every_arm_starts_from_one_network_and_trains_after_each_purchase(
    whole: tuple[LoopRun, Path],
) -> None:
    run, _ = whole
    places = [(one.arm, one.round, one.seed) for one in run.rounds]
    assert places == [
        *(("none", 0, seed) for seed in (1, 2)),
        *((arm, r, s) for arm in ("random", "oracle") for s in (1, 2) for r in (1, 2)),
    ]
    assert len({one.digest for one in run.rounds}) == len(run.rounds)


def test_networks_are_trained_on_the_labels_that_were_bought(whole: tuple[LoopRun, Path]) -> None:
    run, _ = whole
    first = {one.seed: read_cache(one.cache) for one in run.rounds if one.round == 0}
    for one in run.rounds:
        cache, start = read_cache(one.cache), first[one.seed]
        rows = cache.split == "train"
        bought = cache.trusted & ~start.trusted & rows
        # Experts are right: what was bought is the reference label, and nothing else moved.
        assert bought.sum() == one.n_bought == 4 * one.round
        assert (cache.observed[bought] == cache.label[bought]).all()
        others = rows & ~bought
        np.testing.assert_array_equal(cache.observed[others], start.observed[others])
        assert one.n_wrong == (cache.observed != cache.label)[rows].sum()
        assert one.n_trusted == start.trusted[rows].sum()


def test_the_oracle_buys_wrong_labels_alone(whole: tuple[LoopRun, Path]) -> None:
    run, _ = whole
    start = {one.seed: one.n_wrong for one in run.rounds if one.round == 0}
    for one in run.rounds:
        if one.arm == "oracle":
            assert one.n_wrong == start[one.seed] - one.n_bought


def test_figures_are_the_networks_own(whole: tuple[LoopRun, Path]) -> None:
    run, _ = whole
    table = run.table()
    for one, accuracy in zip(run.rounds, table["accuracy"], strict=True):
        cache = read_cache(one.cache)
        rows = cache.split == "test"
        assert cache.logits is not None
        right = cache.logits[rows].argmax(axis=1) == cache.label[rows]
        assert accuracy == pytest.approx(right.mean(), abs=1e-12)
    paired = run.paired()
    assert {(row["arm"], row["n"], row["smallest_p"]) for row in paired} == {
        ("random", 2, 0.5),
        ("oracle", 2, 0.5),
    }
    with pytest.raises(InputError, match="no arm 'entropy'; it has none, random, oracle"):
        run.paired(against="entropy")


def test_arms_of_a_loop_are_compared_by_what_they_bought_in_all(
    whole: tuple[LoopRun, Path],
) -> None:
    run, out = whole
    table = run.table()
    accuracy = {
        (arm, n, seed): value
        for arm, n, seed, value in zip(
            *(table[name] for name in ("arm", "n_bought", "backbone_seed", "accuracy")),
            strict=True,
        )
    }
    stored = Stored(stage="uncalibrated")
    for other, n in (("none", 0), ("oracle", 8)):
        found = compare_arms(out / "results", "random", other, budget="8", stored=stored)
        assert [network for network, _ in found.seeds] == [1, 2] and len({*found.seeds}) == 2
        expected = [accuracy["random", 8, s] - accuracy[other, n, s] for s in (1, 2)]
        assert found.figures["accuracy"].crossed.difference == pytest.approx(np.mean(expected))
        tables = results_seed_tables(
            out / "results",
            arms=["random", other],
            metrics=["accuracy"],
            stage="uncalibrated",
            where="budget IN ('0', '8')",
        )
        (row,) = significance(tables, metrics=["accuracy"])
        assert (row.n, row.difference) == (2, pytest.approx(np.mean(expected)))
    with pytest.raises(InputError, match="name a budget"):
        compare_arms(out / "results", "random", "none", stored=stored)
    spent = run_query(
        out / "results", "SELECT DISTINCT arm, n_bought, n_trusted, draw_seed FROM runs"
    )
    clean = run.rounds[0].n_trusted
    assert sorted(spent.rows) == [
        ("none", 0, clean, 0),
        *((arm, n, clean, 0) for arm in ("oracle", "random") for n in (4, 8)),
    ]


def test_a_second_run_makes_nothing_anew(whole: tuple[LoopRun, Path], manifest: Manifest) -> None:
    run, out = whole
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.h5")}
    again = looped(manifest, out, seeds=(1, 2))
    assert again.rounds == run.rounds
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.h5")} == before
    for name, column in run.table().items():
        np.testing.assert_array_equal(again.table()[name], column)


def test_killed_at_random_the_tables_are_those_of_an_undisturbed_loop(
    whole: tuple[LoopRun, Path], manifest: Manifest, tmp_path: Path
) -> None:
    run, _ = whole
    write_manifest(manifest, tmp_path / "m.parquet")
    (tmp_path / "tiny.toml").write_text("")
    out = tmp_path / "loop"
    words = ["loop", str(tmp_path / "m.parquet"), f"--recipe={tmp_path / 'tiny.toml'}"]
    words += [*(f"--set={s}" for s in (*TINY, *LOOP)), "--seeds=1,2", f"--out={out}", "--json"]
    code = "from trustq.cli import app\napp()\n"
    draws = random.Random(0)
    n_killed = 0
    for _ in range(30):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if n_killed < 2:
            done = len(list(out.rglob("*.h5")))
            # Killed a moment after it has made something more, so that every run gets further.
            while process.poll() is None and len(list(out.rglob("*.h5"))) < done + 2:
                time.sleep(0.02)
            time.sleep(draws.random())
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                n_killed += 1
        if process.wait() == 0:
            break
    assert n_killed == 2
    found = read_table(out / "networks.parquet")
    for name, column in run.table().items():
        assert found[name].tolist() == column.tolist(), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("mode=frozen", "extract.noise=none", "extract.trusted=0.0"), "mode=frozen trains no"),
        (("budgets=8,16",), "one budget in 2 rounds; found 8, 16"),
        (("arms=self_confidence:drop",), "'self_confidence:drop' buys no label"),
        (("arms=self_confidence@crossfit",), "Use `mode=crossfit`"),
    ],
)
def test_what_is_no_loop_is_told_before_anything_is_trained(
    manifest: Manifest, tmp_path: Path, settings: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        looped(manifest, tmp_path / "loop", *settings)
    assert not (tmp_path / "loop").exists()


def test_only_networks_that_buy_are_cross_fitted(manifest: Manifest, tmp_path: Path) -> None:
    settings = ("mode=crossfit", "crossfit_folds=2", "arms=self_confidence@crossfit", "budgets=4")
    recipe = replace(tiny(*LOOP, *settings, "rounds=1"), name="cross")
    run = train_loop(manifest, recipe=recipe, seeds=[1], out=tmp_path, progress=Heard())
    found = [read_cache(one.cache).exposure for one in run.rounds]
    assert found == ["crossfit", "finetuned-observed"]
    assert [one.arm for one in run.rounds] == ["none", "self_confidence@crossfit"]
