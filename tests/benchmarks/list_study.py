"""The first tenth of an audit's list beside the plain script's, at whichever penalty is best.

    python tests/benchmarks/list_study.py SET.npz... [--draws 3] [--noises reference,pair:0.2,...]

A set holds `features` and true `labels`, where rows belong together `groups`. Noise is put on the
labels; ours is what `trustq audit labels` ranks by, from a file of features and noisy labels alone.
The plain script is StandardScaler and LogisticRegression at four penalties, folds by group, and
cleanlab's self-confidence; its best penalty is chosen by the truth, which no script could. Prints
a Markdown table, the worst first: the share wrong of the first tenth, and ours less each. The
reference noise is of HAM10000's classes: sets of other classes get rates of their own drawn like
its, most classes nearly right and some mistaken for one or two others (`uneven`).
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
from cleanlab.rank import get_label_quality_scores
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trustq.audit import audit_labels, open_source
from trustq.core.generators import generator
from trustq.data.noise import Noise, draw_noise, observe_labels, parse_noise

HAM_CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)


def main() -> None:
    """Print a row for each set and noise."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sets", nargs="+", type=Path)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--noises", default="reference,pair:0.2,instance:0.2,symmetric:0.2")
    asked = parser.parse_args()
    rows = []
    for path in asked.sets:
        with np.load(path, allow_pickle=False) as file:
            features, labels = file["features"].astype(np.float32), file["labels"].astype(np.int64)
            groups = file["groups"] if "groups" in file.files else np.arange(len(labels))
        for noise in asked.noises.split(","):
            found = [of_draw(features, labels, groups, noise, s) for s in range(asked.draws)]
            rows.append((path.stem, features.shape, noise, np.array(found)))
            print(row_of(*rows[-1]), flush=True)
    print("\n| set | noise | wrong | ours | plain, best | plain, by log loss | ours - best |")
    print("|---" * 7 + "|")
    for row in sorted(rows, key=lambda one: (one[3][:, 1] - one[3][:, 2]).mean()):
        print(row_of(*row))


def of_draw(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, noise: str, seed: int
) -> tuple[float, float, float, float]:
    """Shares wrong: of all, of ours, of the plain script's best penalty and of its own choice."""
    given = noisy(features, labels, noise, seed)
    wrong = given != labels
    first = len(labels) // 10
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set.npz"
        np.savez(path, features=features, labels=given, groups=groups)
        audit = audit_labels([open_source(path)])
    ranked = np.argsort(np.where(np.isnan(audit.quality), np.inf, audit.quality), kind="stable")
    tried = []
    for penalty in PENALTIES:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=1000))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            probs = cross_val_predict(
                model, features, given, groups=groups, cv=GroupKFold(5), method="predict_proba"
            )
        probs /= probs.sum(axis=1, keepdims=True)
        quality = get_label_quality_scores(given, probs)
        hit = wrong[np.argsort(quality, kind="stable")[:first]].mean()
        tried.append((log_loss(given, probs), float(hit)))
    best = max(hit for _, hit in tried)
    return float(wrong.mean()), float(wrong[ranked[:first]].mean()), best, min(tried)[1]


def noisy(features: np.ndarray, labels: np.ndarray, noise: str, seed: int) -> np.ndarray:
    """Labels as somebody would have given them."""
    k = int(labels.max()) + 1
    if noise.startswith("instance"):
        rows = {"features": StandardScaler().fit_transform(features), "sample_ids": np.arange(k)}
        return observe_labels(noise, labels, classes=names(k), seed=seed, **rows).labels
    if noise == "reference" and k != len(HAM_CLASSES):
        return draw_noise(labels, noise=uneven(k), seed=seed)
    return draw_noise(labels, noise=parse_noise(noise, classes=names(k)), seed=seed)


def names(k: int) -> tuple[str, ...]:
    """HAM10000's classes, or as many letters."""
    return HAM_CLASSES if k == len(HAM_CLASSES) else tuple(f"class{i}" for i in range(k))


def uneven(k: int) -> Noise:
    """Rates as in the reference noise: its columns and diagonal, of classes in a random order."""
    rng = generator(0, "uneven noise")
    reference = parse_noise("reference", classes=HAM_CLASSES).matrix
    errors = np.sort(1 - np.diagonal(reference))[::-1]
    matrix = np.eye(k)
    for i in range(k):
        others = rng.choice(np.delete(np.arange(k), i), 2, replace=False)
        rate = errors[i % len(errors)]
        matrix[i, i] = 1 - rate
        matrix[i, others] = rate * np.array([0.7, 0.3])
    return Noise("uneven", matrix)


def row_of(name: str, shape: tuple[int, ...], noise: str, found: np.ndarray) -> str:
    """A row of the table: means over draws, and the least and largest difference."""
    apart = found[:, 1] - found[:, 2]
    wrong, ours, best, chosen = found.mean(axis=0)
    return (
        f"| {name}, {shape[0]:,} x {shape[1]:,} | {noise} | {wrong:.3f} | {ours:.3f} | {best:.3f} "
        f"| {chosen:.3f} | {apart.mean():+.3f} [{apart.min():+.3f}, {apart.max():+.3f}] |"
    )


if __name__ == "__main__":
    main()
