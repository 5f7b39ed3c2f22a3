"""Processor seconds of `evaluate` and `cache import` on a million rows, of two builds in turn.

Makes its files (predictions of 7 classes, features of 32 columns; npz, Parquet, CSV) and runs both
programs on each in alternating order; medians of user and system seconds.

Run: python tests/benchmarks/reading_bench.py BEFORE NOW [--runs 5] [--rows 1000000], where BEFORE
and NOW are the `trustq` programs of the two builds.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

import duckdb
import numpy as np

K, D = 7, 32
FORMS = ("npz", "parquet", "csv")


def write_files(folder: Path, n: int) -> None:
    """Predictions and features of n rows in every form."""
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, K, n), rng.normal(size=(n, K))
    scores[np.arange(n), labels] += 1.5
    probs = np.exp(scores)
    probs = (probs / probs.sum(axis=1, keepdims=True)).astype(np.float32)
    features = rng.normal(size=(n, D)).astype(np.float32)
    classes = np.array([f"c{c}" for c in range(K)])
    ids = np.array([f"s{row:07d}" for row in range(n)])
    for name, values, prefix in (("probs", probs, "prob_c"), ("features", features, "feature_")):
        given = {"labels": labels, "classes": classes, "sample_id": ids}
        np.savez(folder / f"{name}.npz", **{name: values}, **given)  # type: ignore[arg-type]
        columns = {"sample_id": ids.astype(object), "labels": classes[labels].astype(object)}
        columns |= {f"{prefix}{c}": values[:, c].copy() for c in range(values.shape[1])}
        with duckdb.connect() as connection:
            connection.register("rows_of_it", columns)
            for form in FORMS[1:]:
                connection.execute(f"COPY rows_of_it TO '{folder / f'{name}.{form}'}'")


def cost(command: list[str]) -> float:
    """Processor seconds of a program that ends well."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("builds", nargs=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, asked.rows)
        print("| command | file | before, s | now, s | now / before |")
        print("|---" * 5 + "|")
        # The bootstrap of the build before would take most of its time: one replicate of it.
        works = [("evaluate", "probs", ["--replicates", "1"])]
        for command, file, more in [*works, ("cache import", "features", ["--out"])]:
            for form in FORMS:
                found: list[list[float]] = [[], []]
                for run in range(asked.runs):
                    for which in (0, 1) if run % 2 else (1, 0):
                        out = folder / "out.h5"
                        out.unlink(missing_ok=True)
                        last = [str(out)] if more == ["--out"] else []
                        source = str(folder / f"{file}.{form}")
                        program = [asked.builds[which], *command.split(), source, *more, *last]
                        found[which].append(cost(program))
                before, now = map(statistics.median, found)
                print(
                    f"| {command} | {form} | {before:.2f} | {now:.2f} | {now / before:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
