"""`trustq audit labels` against scikit-learn's out-of-fold probabilities and cleanlab's Datalab.

    python tests/benchmarks/audit_study.py --rows 20000 --columns 768

Both are whole processes on one file of features and labels (ten classes, a fifth of the labels
wrong, rows that lie nearly twice). The peer: StandardScaler and LogisticRegression, 5-fold
cross_val_predict, then `Datalab.find_issues` with features and probabilities (label, outlier,
near_duplicate). Ours: `trustq audit labels`, which chooses a penalty of four and says what else is
wrong with the set. With `--plain` also the script that most people would write: the same four
penalties in scikit-learn, and cleanlab's list. Prints a Markdown table: processor and wall seconds,
peak memory in parts of the features', and the share wrong among as many of the first as are wrong.
Run it with OMP_NUM_THREADS=1; `--peer` takes the minutes that it takes.
"""

import argparse
import csv
import resource
import subprocess
import sys
import tempfile
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

PLAIN = """
import sys
import numpy as np
from cleanlab.filter import find_label_issues
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from cleanlab.rank import get_label_quality_scores
with np.load(sys.argv[1]) as arrays:
    features, labels = arrays["features"], arrays["labels"]
tried = []
for penalty in (1e-3, 1e-2, 1e-1, 1.0):
    model = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=1000))
    probs = cross_val_predict(model, features, labels, cv=5, method="predict_proba")
    tried.append((log_loss(labels, probs), probs))
probs = min(tried, key=lambda one: one[0])[1]
find_label_issues(labels, probs)
np.save(sys.argv[2], get_label_quality_scores(labels, probs))
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


# In a process of its own that holds nothing: a child's peak begins with that of its parent.
MEASURE = """
import resource, subprocess, sys, time
started = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
wall = time.perf_counter() - started
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 1024)
sys.exit(done.returncode)
"""


def timed(command: list[str]) -> tuple[float, float, float]:
    """Processor seconds, wall seconds and peak MiB of a process."""
    measure = [sys.executable, "-c", MEASURE, *command]
    done = subprocess.run(measure, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{command} ended with {done.returncode}")
    spent, wall, peak = map(float, done.stdout.split())
    return spent, wall, peak


def main() -> None:
    """Run both and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--columns", type=int, default=768)
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--only-peer", action="store_true")
    parser.add_argument("--plain", action="store_true", help="Four penalties and cleanlab too.")
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
        if asked.plain:
            scores = folder / "scores.npy"
            plain = [sys.executable, "-c", PLAIN, data, scores]
            runs.append(("scikit-learn at four penalties, cleanlab", plain))
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
