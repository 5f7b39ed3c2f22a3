"""Sweeps: every cell once, whatever runs it and however often it is stopped."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import make_cache, reordered
from support_sweep import (
    finish_sweep,
    kill_sweeps,
    points_of,
    rows_digest,
    runs_of_cells,
    trivial_recipe,
    write_caches,
)
from trustq.cli import app
from typer.testing import CliRunner

import trustq as tq
from trustq.errors import TrustqError
from trustq.experiments import estimate_seconds, plan_sweep, repair, run_sweep
from trustq.experiments.parallel import LARGEST_CHUNK, _chunks
from trustq.recipes import load_recipe, load_sweep, packaged_sweeps
from trustq.results import run_query
from trustq.store import read_cache, write_cache
from trustq.store.format import SEEN_REFERENCE


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_caches(tmp_path_factory.mktemp("caches"))


def sweep(recipe: Path, results: Path, **options: object):  # type: ignore[no-untyped-def]
    plan = plan_sweep(points_of(recipe), results=results)
    return run_sweep(plan, results=results, **{"jobs": 1, **options})  # type: ignore[arg-type]


def run(*words: str | Path):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(caches: Path, results: Path, *settings: str) -> str:
    with pytest.raises(TrustqError) as caught:
        plan_sweep(load_sweep("", settings=[f"caches={caches}", *settings]), results=results)
    return str(caught.value)


def test_every_cell_is_run_once_and_then_never_again(caches: Path, tmp_path: Path) -> None:
    keys = {"head": '["majority", "lda"]', "rounds": "[1, 2]", "draws": "2"}
    recipe = trivial_recipe(tmp_path, caches, **keys)
    told: list[tuple[int, int, int]] = []
    first = sweep(recipe, tmp_path / "r", progress=lambda *counts: told.append(counts))
    # 2 caches x 2 draws x 2 heads x (no repair once, 2 arms x 2 budgets x 2 rounds)
    assert first.n_new == len(set(first.keys)) == 2 * 2 * 2 * 9
    assert told[-1] == (72, 72, 0)
    assert run_query(tmp_path / "r", "SELECT count(*) FROM runs").rows == [(72,)]
    again = sweep(recipe, tmp_path / "r")
    assert (again.n_new, sorted(again.keys)) == (0, sorted(first.keys))
    assert set(runs_of_cells(tmp_path / "r").values()) == {1}


def test_a_grid_over_purchases_runs_what_buys_nothing_once(caches: Path, tmp_path: Path) -> None:
    caps = ", ".join(f'"{cap}"' for cap in range(1, 19))  # enough for two of them in one part
    keys = {"arms": '["none", "random"]', "budgets": '["3"]', "class_cap": f"[{caps}]"}
    recipe = trivial_recipe(tmp_path, caches, **keys, draws="1", references="false")
    assert plan_sweep(points_of(recipe), results=tmp_path / "r").n_cells == 2 * (1 + 18)
    assert len(set(sweep(recipe, tmp_path / "r").keys)) == 2 * (1 + 18)
    assert set(runs_of_cells(tmp_path / "r").values()) == {1}
    assert plan_sweep(points_of(recipe), results=tmp_path / "r").n_cells == 0


def test_one_noise_in_two_words_is_one_cell(caches: Path, tmp_path: Path) -> None:
    recipe = trivial_recipe(tmp_path, caches, noise='["auto", "symmetric:0.2"]', draws="2")
    done = sweep(recipe, tmp_path / "r")
    assert (done.n_new, len(set(done.keys))) == (2 * 2 * 5, 2 * 2 * 5)
    assert set(runs_of_cells(tmp_path / "r").values()) == {1}


@pytest.mark.bits
def test_a_sweep_and_a_repair_of_the_same_cells_are_the_same_cells(
    caches: Path, tmp_path: Path
) -> None:
    recipe = trivial_recipe(tmp_path, caches)
    opened = [read_cache(path.resolve()) for path in sorted(caches.parent.glob("*.h5"))]
    repair(opened, recipe=load_recipe(str(recipe)), results=tmp_path / "repair")
    sweep(recipe, tmp_path / "sweep")
    assert rows_digest(tmp_path / "repair") == rows_digest(tmp_path / "sweep")
    assert sweep(recipe, tmp_path / "repair").n_new == 0


@pytest.mark.bits
def test_processes_give_the_rows_that_one_gives(caches: Path, tmp_path: Path) -> None:
    keys = {"head": '["linear", "xgboost"]', "arms": '["none", "self_confidence"]', "draws": "2"}
    recipe = trivial_recipe(tmp_path, caches, **keys, trees="5", references="false")
    sweep(recipe, tmp_path / "one")
    sweep(recipe, tmp_path / "two", jobs=2)
    assert rows_digest(tmp_path / "one") == rows_digest(tmp_path / "two")


@pytest.mark.bits
def test_killed_and_resumed_is_as_undisturbed(caches: Path, tmp_path: Path) -> None:
    recipe = trivial_recipe(tmp_path, caches, draws="15")
    sweep(recipe, tmp_path / "undisturbed")
    kill_sweeps(recipe, tmp_path / "killed", kills=2, longest=4.0)
    finish_sweep(recipe, tmp_path / "killed")
    assert rows_digest(tmp_path / "killed") == rows_digest(tmp_path / "undisturbed")
    assert set(runs_of_cells(tmp_path / "killed").values()) == {1}


def test_a_stopped_sweep_says_how_to_go_on(caches: Path, tmp_path: Path) -> None:
    recipe = trivial_recipe(tmp_path, caches, draws="500")
    command = [sys.executable, "-c", "from trustq.cli import app; app()", "sweep", str(recipe)]
    results = tmp_path / "r"
    process = subprocess.Popen(
        [*command, "--results", str(results), "--jobs", "1"],
        stderr=subprocess.PIPE,
        start_new_session=True,
        # Whoever runs the tests in the background may have told them to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not list(results.glob("runs/*.parquet")):
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    errors = process.communicate()[1].decode()
    assert process.returncode == 130, errors
    assert f"Stopped. Committed runs stay in {results}; the same command goes on" in errors
    assert "Traceback" not in errors
    n_committed = run_query(results, "SELECT count(*) FROM runs").rows[0][0]
    assert len(plan_sweep(points_of(recipe), results=results).there) == n_committed


def test_a_cell_that_fails_is_recorded_and_the_others_go_on(caches: Path, tmp_path: Path) -> None:
    arms = '["none", "random", "self_confidence@crossfit"]'
    recipe = trivial_recipe(tmp_path, caches, arms=arms, draws="1")
    done = run("sweep", recipe, "--results", tmp_path / "r", "--jobs", "1")
    assert done.exit_code == 1
    assert "Error: 4 runs failed; the others are committed.\n" in done.stderr
    assert run_query(tmp_path / "r", "SELECT arm, count(*) FROM runs GROUP BY ALL ORDER BY 1").rows
    rows = run_query(
        tmp_path / "r", "SELECT arm, backbone_seed, budget, error FROM failures ORDER BY ALL"
    ).rows
    assert [row[:3] for row in rows] == [
        ("self_confidence@crossfit", seed, budget) for seed in (0, 1) for budget in ("3", "6")
    ]
    assert "crossfit" in rows[0][3]
    # Failed cells are tried again, and each stands in the table once.
    again = plan_sweep(points_of(recipe), results=tmp_path / "r")
    assert again.n_cells == 4
    run_sweep(again, results=tmp_path / "r", jobs=1)
    assert run_query(tmp_path / "r", "SELECT count(*) FROM failures").rows == [(4,)]


def test_an_experiment_that_is_refused_fails_alone(tmp_path: Path) -> None:
    write_caches(tmp_path)
    seen = np.full(60, SEEN_REFERENCE, dtype=np.uint8)
    tainted = make_cache(
        n=60, d=4, seed=7, backbone_seed=7, seen=seen, exposure="finetuned-clean",
        recipe={"name": "toy"},
    )  # fmt: skip
    write_cache(tmp_path / "seed7.h5", tainted)
    recipe = trivial_recipe(tmp_path, tmp_path / "seed*.h5", draws="1")
    found = sweep(recipe, tmp_path / "r")
    assert (found.n_new, len(found.failures)) == (10, 5)
    assert found.failures[0].startswith("seed7.h5, draw 0, head majority, arm none, budget 0: ")
    assert "already be known to the features" in found.failures[0]
    # What succeeds later is no failure any more.
    write_cache(tmp_path / "seed7.h5", make_cache(n=60, d=4, seed=8, backbone_seed=7))
    assert run_query(tmp_path / "r", "SELECT count(*) FROM failures").rows == [(5,)]


def test_a_noise_file_that_changes_makes_other_cells(caches: Path, tmp_path: Path) -> None:
    matrix = tmp_path / "noise.toml"
    recipe = trivial_recipe(tmp_path, caches, noise=f'"matrix:{matrix}"', draws="1")
    for rate, n_new in ((0.2, 10), (0.2, 0), (0.3, 10)):
        rows = [[1 - rate, rate, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
        matrix.write_text(f'classes = ["a", "b", "c"]\nmatrix = {rows}\n')
        assert sweep(recipe, tmp_path / "r").n_new == n_new


def test_a_dry_run_lists_the_cells_and_runs_none(caches: Path, tmp_path: Path) -> None:
    recipe = trivial_recipe(tmp_path, caches, draws="2")
    shown = run("sweep", recipe, "--dry-run", "--json", "--results", tmp_path / "r")
    assert shown.exit_code == 0, shown.output
    listed = json.loads(shown.stdout)
    assert len(listed["runs"]) == 20
    assert listed["runs"][1] == {
        "cache": "seed0.h5", "dataset": "gauss", "draw": 0, "noise": "symmetric:0.2",
        "head": "majority", "arm": "random", "budget": "3", "rounds": 1, "folds": 2,
    }  # fmt: skip
    assert 0 < listed["core_seconds"] < 60
    assert not (tmp_path / "r").exists()


def test_time_is_foretold_from_cells_that_were_run(caches: Path, tmp_path: Path) -> None:
    recipe = trivial_recipe(tmp_path, caches)
    sweep(recipe, tmp_path / "r")
    more = points_of(trivial_recipe(tmp_path, caches, draws="9"))
    plan = plan_sweep(more, results=tmp_path / "r")
    query = "SELECT avg(seconds) FROM runs"
    mean = run_query(tmp_path / "r", query).rows[0][0]

    def opened(path: Path) -> object:
        raise AssertionError("a run of this kind was run before")

    foretold = estimate_seconds(plan, results=tmp_path / "r", opened=opened)  # type: ignore[arg-type]
    assert 0 < foretold <= 1.5 * mean * plan.n_cells


def test_bad_input_is_refused_before_anything_runs(caches: Path, tmp_path: Path) -> None:
    results = tmp_path / "r"
    assert refused(tmp_path / "none*.h5", results) == (
        f"No cache matches {tmp_path}/none*.h5. `trustq extract` makes caches, `trustq cache "
        "import` takes features from elsewhere."
    )
    assert refused(caches, results, "arms=best").startswith("Arm 'best': unknown score 'best'")
    assert refused(caches, results, "budgets=much").startswith("Budget 'much': expected a number")
    assert refused(caches, results, "sweep.noise=loud").startswith("Unknown label noise 'loud'")
    assert refused(caches, results, "draws=0").endswith("draws is 0, expected 1 or more.")
    with pytest.raises(TrustqError, match=r"^Recipe default names no caches\. Add `caches"):
        plan_sweep(load_sweep(""), results=results)
    with pytest.raises(TrustqError, match=r"^jobs is -1, expected 1 or more, or 0 for one per"):
        run_sweep(plan_sweep([], results=results), results=results, jobs=-1)
    write_caches(tmp_path, 1)
    write_cache(tmp_path / "other.h5", make_cache(n=60, k=4, backbone_seed=5))
    assert refused(tmp_path / "*.h5", results, "sweep.noise=none") == (
        f"{tmp_path}/other.h5 and {tmp_path}/seed0.h5 are both of data set 'gauss', but their "
        "classes are a, b, c, d and a, b, c. Extract them from one manifest, or run them as two "
        "sweeps."
    )
    assert not results.exists()


@pytest.mark.parametrize("head", ["linear", "backbone"])
def test_classes_in_another_order_and_case_change_no_number(tmp_path: Path, head: str) -> None:
    numbers = {}
    for name in ("same", "other"):
        folder = tmp_path / name
        for seed in (0, 1):
            cache = make_cache(n=90, seed=seed, backbone_seed=seed)
            cache = replace(
                cache,
                logits=cache.features[:, :3].copy(),
                weights_digest=f"w{seed}",
                content_digest=f"c{seed}",
            )
            outside = replace(
                make_cache(n=30, seed=5 + seed, backbone_seed=seed),
                dataset="outside",
                logits=np.random.default_rng(seed).standard_normal((30, 3)).astype(np.float32),
                weights_digest=f"w{seed}",
                content_digest=f"o{seed}",
                sample_id=np.array([f"o{i}" for i in range(30)]),
                group_id=np.array([f"o{i}" for i in range(30)]),
            )
            moved = seed and name == "other"
            write_cache(folder / f"seed{seed}.h5", reordered(cache) if moved else cache)
            write_cache(folder / f"out{seed}.h5", reordered(outside) if moved else outside)
        settings = [
            f"caches={folder}/seed*.h5",
            f"external={folder}/out*.h5",
            f"head={head}",
            "sweep.noise=symmetric:0.3",
            f"arms={'none' if head == 'backbone' else 'none,self_confidence,random'}",
            "budgets=8",
        ]
        for how, jobs in (("sweep", 1), ("pool", 2), ("repair", 0)):
            results = tmp_path / f"{name}-{how}"
            if jobs:
                run = run_sweep(
                    plan_sweep(load_sweep("", settings=settings), results=results),
                    results=results,
                    jobs=jobs,
                )
                assert not run.failures
            else:
                opened = [read_cache(folder / f"seed{seed}.h5") for seed in (0, 1)]
                outside = [read_cache(folder / f"out{seed}.h5") for seed in (0, 1)]
                recipe = load_recipe(settings=settings[2:], part="sweep")
                repair(opened, recipe=recipe, results=results, externals=outside)
            told = "c.arm, c.backbone_seed, c.draw_seed, f.split, f.eval_dataset, f.stage"
            numbers[name, how] = [
                run_query(
                    results,
                    f"""SELECT {told}, f.round, metric, class_name, value
                        FROM metrics f JOIN runs c ON f.run = c.key ORDER BY ALL""",
                ).rows,
                run_query(
                    results,
                    f"""SELECT {told}, f.round, sample_id, label, predicted, probabilities
                        FROM predictions f JOIN runs c ON f.run = c.key ORDER BY ALL""",
                ).rows,
                sorted(run_query(results, "SELECT DISTINCT classes FROM runs").rows),
                sorted(run_query(results, "SELECT key FROM runs").rows) if name == "other" else [],
            ]
    first = numbers["same", "sweep"]
    assert len(first[0]) > 100 and {row[4] for row in first[0]} == {"gauss", "outside"}
    for (_, how), found in numbers.items():
        assert found[:3] == first[:3], how
    assert numbers["other", "sweep"][3] == numbers["other", "repair"][3]


def test_results_of_a_newer_version_are_refused_and_left_alone(
    caches: Path, tmp_path: Path
) -> None:
    (tmp_path / "results.json").write_text('{"format": "trustq.results", "format_version": 99}')
    message = refused(caches, tmp_path)
    assert message.startswith(f"{tmp_path} holds results of format 99; this trustq knows formats")
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_truncated_part_is_named_and_only_its_cells_run_again(
    caches: Path, tmp_path: Path
) -> None:
    recipe = trivial_recipe(tmp_path, caches)
    results = tmp_path / "r"
    sweep(recipe, results)
    before = rows_digest(results)
    part = sorted(results.glob("runs/*.parquet"))[0]
    whole = part.read_bytes()
    part.write_bytes(whole[:-20])
    with pytest.raises(TrustqError) as caught:
        plan_sweep(points_of(recipe), results=results)
    size = len(whole)
    assert str(caught.value) == (
        f"{part} is damaged: it has {size - 20} bytes, and {size} were written. Delete that part "
        f"({results}/*/{part.stem}.*) and run the same command again; only the runs of that part "
        "are computed anew."
    )
    for path in results.glob(f"*/{part.stem}.*"):
        path.unlink()
    again = sweep(recipe, results)
    assert 0 < again.n_new < 50
    assert rows_digest(results) == before


def test_a_full_disk_stops_the_sweep_and_loses_nothing(caches: Path, tmp_path: Path) -> None:
    recipe = trivial_recipe(tmp_path, caches, draws="1")
    sweep(recipe, tmp_path / "r")
    before = rows_digest(tmp_path / "r")
    more = trivial_recipe(tmp_path, caches, draws="3")
    code = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    code += "from trustq.cli import app; app()"
    words = ["sweep", str(more), "--results", str(tmp_path / "r"), "--jobs", "1"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
    )
    assert done.returncode == 1, done.stderr
    assert "could not be written" in done.stderr and "Nothing was left half-written" in done.stderr
    assert "Traceback" not in done.stderr
    assert rows_digest(tmp_path / "r") == before
    assert not [path for path in (tmp_path / "r").rglob(".*.part*")]
    assert sweep(more, tmp_path / "r").n_new == 20


def test_chunks_keep_to_one_cache_and_cover_every_group(caches: Path, tmp_path: Path) -> None:
    plan = plan_sweep(points_of(trivial_recipe(tmp_path, caches, draws="70")), results=tmp_path)
    for jobs in (1, 2, 64):
        chunks = _chunks(plan, jobs)
        assert [group for chunk in chunks for group in chunk] == list(plan.groups)
        assert all(len({group.cache for group in chunk}) == 1 for chunk in chunks)
        assert jobs == 1 or max(map(len, chunks)) <= LARGEST_CHUNK


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real scheduler and two worker processes on loopback."""
    pytest.importorskip("distributed", reason="needs trustq[dask]")
    folder = tmp_path_factory.mktemp("dask")
    found = folder / "scheduler.json"
    module = [sys.executable, "-m", "distributed.cli"]
    host = ["--host", "127.0.0.1"]
    file = ["--scheduler-file", str(found)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    scheduler = [*module[:2], "distributed.cli.dask_scheduler", *host, *file]
    worker = [*module[:2], "distributed.cli.dask_worker", *host, *file]
    processes = [
        subprocess.Popen([*scheduler, "--port", "0", "--no-dashboard"], **quiet),  # type: ignore[call-overload]
    ]
    try:
        while not found.exists():
            assert processes[0].poll() is None, "the scheduler did not start"
            time.sleep(0.1)
        options = ["--no-nanny", "--nthreads", "1", "--no-dashboard"]
        for number in range(2):
            own = [*worker, *options, "--name", str(number)]
            processes.append(subprocess.Popen(own, **quiet))  # type: ignore[call-overload]
        address = json.loads(found.read_text())["address"]
        from distributed import Client

        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield address
    finally:
        for process in processes:
            process.kill()  # a worker that is asked to end waits for a scheduler that has gone
        for process in processes:
            process.wait()


def test_a_cluster_gives_the_rows_that_processes_give(
    caches: Path, cluster: str, tmp_path: Path
) -> None:
    keys = {"head": '["linear", "majority"]', "arms": '["none", "self_confidence"]', "draws": "3"}
    recipe = trivial_recipe(tmp_path, caches, **keys, references="false")
    sweep(recipe, tmp_path / "processes", jobs=2)
    found = sweep(recipe, tmp_path / "cluster", scheduler=cluster)
    assert found.n_new == 2 * 2 * 3 * (1 + 2)  # head, cache and draw: none, and two budgets
    assert rows_digest(tmp_path / "cluster") == rows_digest(tmp_path / "processes")


def test_no_cluster_is_said_so(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = trivial_recipe(tmp_path, caches)
    with pytest.raises(TrustqError, match=r"^No Dask scheduler answers at nowhere://x\. Start one"):
        sweep(recipe, tmp_path / "r", scheduler="nowhere://x")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(TrustqError) as caught:
        sweep(recipe, tmp_path / "r", scheduler="tcp://127.0.0.1:8786")
    assert str(caught.value) == (
        "`scheduler` needs Dask, which is not installed: pip install 'trustq[dask]'"
    )


def test_packaged_sweeps_are_listed_and_expand() -> None:
    listed = json.loads(run("sweep", "--list", "--json").stdout)
    assert [row["recipe"] for row in listed] == list(packaged_sweeps())
    assert {"study-main", "budget-curve", "head-comparison", "calibration-comparison"} <= set(
        packaged_sweeps()
    )
    for name in packaged_sweeps():
        points = load_sweep(name)
        assert points and all(point.sweep.caches for point in points), name


def test_a_recipe_without_a_sweep_is_not_run_as_the_default_one(tmp_path: Path) -> None:
    write_cache(tmp_path / "c.h5", make_cache())
    listed = {
        row["recipe"]: row["sweep"] for row in json.loads(run("recipes", "list", "--json").stdout)
    }
    assert {listed[name] for name in packaged_sweeps()} == {"yes"}
    assert (listed["digits"], listed["reference-study"]) == ("no", "name caches")
    (tmp_path / "mine.toml").write_text("[extract]\nepochs = 2\n")
    for name in ("digits", str(tmp_path / "mine.toml")):
        said = f"Recipe {name} says how networks are trained and has no [sweep]"
        with pytest.raises(TrustqError, match=re.escape(said)):
            tq.sweep(name, caches=str(tmp_path / "c.h5"), results=tmp_path / "r")
        done = run("sweep", name, "--set", f"caches={tmp_path / 'c.h5'}", "--dry-run")
        assert done.exit_code == 1 and said in done.stderr
    settings = (f"caches={tmp_path / 'c.h5'}", "noise=symmetric:0.2", "trusted=0.1")
    named = (word for setting in settings for word in ("--set", setting))
    points = run("sweep", "reference-study", *named, "--dry-run")
    assert points.exit_code == 0, points.output


def test_usage_without_a_recipe_is_2() -> None:
    done = run("sweep")
    assert done.exit_code == 2
    assert re.search(r"name a recipe \(--list shows", done.stderr)
