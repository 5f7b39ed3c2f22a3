"""`trustq audit labels` against scikit-learn's out-of-fold probabilities and cleanlab's Datalab.

    python tests/benchmarks/audit_study.py --rows 20000 --columns 768

Both are whole processes on one file of features and labels (ten classes, a fifth of the labels
wrong, rows that lie nearly twice). The peer: StandardScaler and LogisticRegression, 5-fold
cross_val_predict, then `Datalab.find_issues` with features and probabilities (label, outlier,
near_duplicate). Ours: `trustq audit labels`, which chooses a penalty of four and says what else is
wrong with the set. Prints a Markdown table: processor and wall seconds, peak
memory in parts of the features', and the share wrong among as many of the first as are wrong.
Run it with OMP_NUM_THREADS=1; `--peer` takes the minutes that it takes.
"""

import argparse
import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PEER = """
import sys
sys.path += sys.argv[3:]
import builtins, pyarrow
builtins.MonthDayNano = pyarrow.MonthDayNano  # where pickle looks for it
import numpy as np
from cleanlab import Datalab
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
with np.load(sys.argv[1]) as arrays:
    features, labels = arrays["features"], arrays["labels"]
model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
probs = cross_val_predict(model, features, labels, cv=5, method="predict_proba")
lab = Datalab({"label": labels}, label_name="label", verbosity=0)
kinds = {"label": {}, "outlier": {}, "near_duplicate": {}}
lab.find_issues(features=features, pred_probs=probs, issue_types=kinds)
np.save(sys.argv[2], lab.get_issues("label")["label_score"].to_numpy())
"""


def make(path: Path, rows: int, columns: int) -> np.ndarray:
    """Features of ten overlapping classes with wrong labels; returns which are wrong."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 10, rows)
    centres = rng.normal(size=(10, columns)).astype(np.float32)
    mix = rng.normal(size=(64, columns)).astype(np.float32) / 2
    features = 0.35 * centres[truth] + rng.normal(size=(rows, 64)).astype(np.float32) @ mix
    features += rng.normal(size=(rows, columns)).astype(np.float32)
    labels = np.where(rng.random(rows) < 0.2, rng.integers(0, 10, rows), truth)
    np.savez(path, features=features.astype(np.float32), labels=labels)
    return np.asarray(labels != truth)


def timed(command: list[str]) -> tuple[float, float, float]:
    """Processor seconds, wall seconds and peak MiB of a process."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    wall = time.perf_counter() - started
    return used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 1024


def main() -> None:
    """Run both and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--columns", type=int, default=768)
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--only-peer", action="store_true")
    parser.add_argument("--path", nargs="*", default=[], help="Where the peer's packages lie.")
    asked = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    trustq = Path(sys.executable).with_name("trustq")
    print("| rows x columns | who | processor s | wall s | peak / features | precision |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "set.npz"
        wrong = make(data, asked.rows, asked.columns)
        n_wrong = int(wrong.sum())
        size = asked.rows * asked.columns * 4 / 2**20
        ours = [str(trustq), "audit", "labels", str(data), "--review", str(n_wrong)]
        ours += ["--out", str(folder / "audit"), "--results", str(folder / "results")]
        runs = [] if asked.only_peer else [("trustq audit labels", ours)]
        if not asked.no_peer:
            scores = folder / "scores.npy"
            runs.append(
                ("scikit-learn, Datalab", [sys.executable, "-c", PEER, data, scores, *asked.path])
            )
        for who, command in runs:
            spent, wall, peak = timed([str(part) for part in command])
            if who.startswith("trustq"):
                with open(folder / "audit" / "label_issues.csv", newline="") as file:
                    first = [int(row["sample_id"]) for row in csv.DictReader(file)]
            else:
                first = np.argsort(np.load(folder / "scores.npy"))[:n_wrong].tolist()
            print(
                f"| {asked.rows:,} x {asked.columns} | {who} | {spent:.1f} | {wall:.1f} | "
                f"{peak / size:.2f} | {wrong[first].mean():.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
