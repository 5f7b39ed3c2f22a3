"""Sweeps under stress, in full: kills, writers beside readers, overhead, AURC in SQL.

    python tests/benchmarks/sweep_study.py kill|together|overhead|sql [--cells 1000]

The tests run the same functions in small form.
"""

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support_sweep import (
    finish_sweep,
    kill_sweeps,
    points_of,
    read_and_write,
    rows_digest,
    runs_of_cells,
    trivial_recipe,
    write_caches,
)

CELLS_PER_DRAW = 10  # of the recipe below, on two caches


def kill(folder: Path, cells: int) -> None:
    """20 kills at random times; the rows equal those of an undisturbed run."""
    recipe = trivial_recipe(folder, write_caches(folder), draws=str(cells // CELLS_PER_DRAW))
    started = time.perf_counter()
    finish_sweep(recipe, folder / "undisturbed")
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    finish_sweep(recipe, folder / "undisturbed")  # nothing is left to run
    idle = time.perf_counter() - started
    # Times up to such a one that the runs together do about all the work, so that most kills find
    # a sweep at work: a run killed at t < longest has worked for t - idle.
    share = (seconds - idle) / 20
    longest = idle + share + math.sqrt(share**2 + 2 * idle * share)
    n_killed = kill_sweeps(recipe, folder / "killed", kills=20, longest=longest)
    n_before = sum(runs_of_cells(folder / "killed").values())
    finish_sweep(recipe, folder / "killed")
    runs = runs_of_cells(folder / "killed")
    same = rows_digest(folder / "undisturbed") == rows_digest(folder / "killed")
    print(
        f"{len(runs)} runs, undisturbed {seconds:.1f} s; {n_killed} of 20 sweeps were alive when "
        f"killed, {n_before} runs were committed before the last run; run more than once: "
        f"{sum(n > 1 for n in runs.values())}; rows equal: {same}"
    )


def together(folder: Path, cells: int) -> None:
    """Two sweeps writing and four readers for two minutes."""
    caches = write_caches(folder)
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    recipes = [
        trivial_recipe(folder / name, caches, head=f'"{head}"')
        for name, head in (("a", "majority"), ("b", "lda"))
    ]
    n_queries, n_cells = read_and_write(recipes, folder / "results", readers=4, seconds=120)
    print(f"{n_queries} queries answered while {n_cells} runs were written; no error")


def overhead(folder: Path, cells: int) -> None:
    """What a sweep of trivial cells costs beyond computing them."""
    from trustq.experiments import plan_sweep, run_sweep
    from trustq.results import run_query

    recipe = trivial_recipe(folder, write_caches(folder), draws=str(cells // CELLS_PER_DRAW))
    for jobs in (1, 2):
        results = folder / f"jobs{jobs}"
        started = time.perf_counter()
        plan = plan_sweep(points_of(recipe), results=results)
        run_sweep(plan, results=results, jobs=jobs)
        seconds = time.perf_counter() - started
        # Round 0 is in the seconds of every cell of a group and is computed once.
        query = "SELECT count(*), sum(seconds) FROM runs"
        n, computing = run_query(results, query).rows[0]
        print(f"jobs {jobs}: {n} runs in {seconds:.1f} s; their own seconds add to {computing:.1f}")


def sql(folder: Path, cells: int) -> None:
    """AURC and AUGRC of 100 cells x 10,000 predictions in SQL."""
    import numpy as np

    from trustq.metrics.selective import augrc, aurc
    from trustq.results import run_query, write_part

    rng = np.random.default_rng(0)
    n, expected = 10_000, {}
    for part in range(4):
        keys = np.array([f"{part}-{i:030d}" for i in range(25)], dtype=object)
        confidence = rng.random((25, n)) ** 0.3
        confidence[0] = confidence[0].round(2)  # ties
        wrong = rng.random(confidence.shape) > confidence
        for key, c, w in zip(keys, confidence, wrong, strict=True):
            expected[key] = (aurc(w, c), augrc(w, c))
        texts = {"eval_dataset": "d", "split": "test", "stage": "calibrated", "label": "nv"}
        predictions = {name: np.full(25 * n, text, object) for name, text in texts.items()}
        predictions |= {
            "run": np.repeat(keys, n),
            "round": np.zeros(25 * n, int),
            "sample_id": np.tile(np.array([f"s{i}" for i in range(n)], object), 25),
            "predicted": np.array(["nv", "mel"], object)[wrong.ravel().astype(int)],
            "confidence": confidence.ravel(),
            "probabilities": np.repeat(confidence.ravel()[:, None], 7, axis=1),
        }
        write_part(folder, {"runs": {"key": keys}, "predictions": predictions}, part=f"p{part}")
    times = []
    for _ in range(7):
        started = time.perf_counter()
        rows = run_query(folder, "SELECT run, aurc, augrc FROM selective").rows
        times.append(time.perf_counter() - started)
    error = max(max(abs(a - expected[k][0]), abs(b - expected[k][1])) for k, a, b in rows)
    print(f"{len(rows)} runs x {n}: median {np.median(times):.2f} s, least {min(times):.2f} s")
    print(f"largest difference from Python {error:.1e}")


def main() -> None:
    """Run one study in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    studies = {"kill": kill, "together": together, "overhead": overhead, "sql": sql}
    parser.add_argument("study", choices=studies)
    parser.add_argument("--cells", type=int, default=1000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        studies[asked.study](Path(folder), asked.cells)


if __name__ == "__main__":
    main()
