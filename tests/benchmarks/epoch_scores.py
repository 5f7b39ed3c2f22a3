"""Scores over the epochs of a network trained on the noise, against out-of-fold ones.

    python tests/benchmarks/epoch_scores.py --data DIR

arXiv 2510.16211 finds probabilities of the training rows themselves, averaged over training, with
the logit margin, best in most scenarios. Here one hidden layer (128) is trained by Adam on frozen
features with noise put on their labels: Food-101 (CLIP), HAM10000 (ConvNeXt-Atto, rows it was not
trained on), scikit-learn's digits. In-sample scores are of one network on all rows, over its 20
epochs and at the last; out-of-fold ones of five networks, each on the rows of the other folds, and
of linear heads at the penalty that an audit chooses. Prints a Markdown table: false negatives at a
budget of as many rows as are wrong, and average precision, means over three seeds (worst).
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score

from trustq.data.noise import observe_labels
from trustq.data.splits import group_folds
from trustq.heads import SharedFeatures, make_head
from trustq.metrics.probabilities import softmax
from trustq.scoring import SCORES
from trustq.scoring.dynamics import dynamics_quality

EPOCHS, HIDDEN, BATCH = 20, 128, 64
NOISE = ("symmetric:0.2", "pair:0.2", "instance:0.2")
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)


def sets(data: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Name, standardised features, true labels and groups."""
    with np.load(data / "food101_clip_embeddings/food101_10class_clip_vitb32.npz") as file:
        features = np.concatenate([file["train_features"], file["test_features"]])
        labels = np.concatenate([file["train_labels"], file["test_labels"]])
    yield "Food-101, CLIP", scaled(features), labels.astype(int), np.arange(len(labels))
    with np.load(data / "ham10000_features/convnext_atto_64px.npz") as file:
        own = file["split"] != 0  # the network was trained on the others
        own = own if own.any() and not own.all() else np.ones(len(own), dtype=bool)
        features, labels = file["features"][own], file["labels"][own].astype(int)
        groups = np.unique(file["groups"][own], return_inverse=True)[1]
    yield "HAM10000, ConvNeXt-Atto", scaled(features), labels, groups
    digits = load_digits()
    yield "digits", scaled(digits.data), digits.target, np.arange(len(digits.target))


def scaled(features: np.ndarray) -> np.ndarray:
    """Columns less their mean, in units of their spread."""
    features = features.astype(np.float64)
    spread = features.std(axis=0)
    return ((features - features.mean(axis=0)) / np.where(spread < 1e-6, 1, spread)).astype("f4")


def trained(
    features: np.ndarray, labels: np.ndarray, k: int, rows: np.ndarray, seed: int
) -> np.ndarray:
    """Logits of every row after each epoch of training on some rows, (epochs, n, k)."""
    torch.manual_seed(seed)
    network = torch.nn.Sequential(
        torch.nn.Linear(features.shape[1], HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, k)
    )
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    steps = torch.optim.Adam(network.parameters(), lr=1e-3)
    found = []
    for _ in range(EPOCHS):
        for batch in torch.from_numpy(rows)[torch.randperm(len(rows))].split(BATCH):
            steps.zero_grad()
            torch.nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
            steps.step()
        with torch.no_grad():
            found.append(network(x).numpy())
    return np.stack(found).astype(np.float64)


def linear(features: np.ndarray, labels: np.ndarray, k: int, fold: np.ndarray) -> np.ndarray:
    """Out-of-fold probabilities of linear heads at the penalty of the lowest log loss."""
    shared, tried = SharedFeatures(features), []
    for penalty in PENALTIES:
        probs = np.empty((len(labels), k))
        for f in np.unique(fold):
            head = make_head("linear", n_classes=k, C=penalty)
            head.fit(shared, labels, sample_weight=(fold != f).astype(float))
            probs[fold == f] = softmax(head.predict_logits(features[fold == f]))
        own = np.log(np.maximum(probs[np.arange(len(labels)), labels], 1e-12))
        tried.append((-own.mean(), probs))
    return min(tried, key=lambda one: one[0])[1]


def qualities(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, k: int, seed: int
) -> dict[str, np.ndarray]:
    """Every score of the labels, lower is more suspicious."""
    n = len(labels)
    fold = group_folds(labels, groups, n_folds=5, seed=seed)
    inside = trained(features, labels, k, np.arange(n), seed)
    outside = np.empty_like(inside)
    for f in range(5):
        held = fold == f
        outside[:, held] = trained(features, labels, k, np.flatnonzero(~held), seed)[:, held]
    made = {}
    for where, logits in (("in-sample", inside), ("out of fold", outside)):
        for score in ("aum", "mean_margin", "mean_self_confidence"):
            made[f"network, {where}: {score} over epochs"] = dynamics_quality(
                labels, logits, score=score
            )
        last = softmax(logits[-1])
        made[f"network, {where}: self_confidence, last epoch"] = SCORES["self_confidence"](
            labels, last
        )
    made["network, out of fold: mean_rank, mean over epochs"] = SCORES["mean_rank"](
        labels, np.mean([softmax(own) for own in outside], axis=0)
    )
    probs = linear(features, labels, k, fold)
    for score in ("self_confidence", "mean_rank"):
        made[f"linear heads, out of fold: {score}"] = SCORES[score](labels, probs)
    return made


def main() -> None:
    """Print the table, the best score of each condition in bold."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="Sets whose name holds this.")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    missed: dict[str, list[str]] = {}
    ranked: dict[str, list[str]] = {}
    titles = []
    for name, features, truth, groups in sets(asked.data):
        if asked.only not in name:
            continue
        k = int(truth.max()) + 1
        for kind in NOISE:
            titles.append(f"{name}, {kind}")
            figures: dict[str, list[tuple[float, float]]] = {}
            for seed in range(asked.seeds):
                labels = observe_labels(
                    kind,
                    truth.astype(np.int64),
                    classes=tuple(map(str, range(k))),
                    seed=seed,
                    features=features,
                    sample_ids=np.arange(len(truth)).astype(str),
                ).labels.astype(np.int64)
                wrong = labels != truth
                for score, quality in qualities(features, labels, groups, k, seed).items():
                    first = np.argsort(quality, kind="stable")[: int(wrong.sum())]
                    figures.setdefault(score, []).append(
                        (1 - wrong[first].mean(), average_precision_score(wrong, -quality))
                    )
            means = {score: np.mean(own, axis=0) for score, own in figures.items()}
            best = [min(m[0] for m in means.values()), max(m[1] for m in means.values())]
            for score, own in figures.items():
                for place, table in ((0, missed), (1, ranked)):
                    worst = (max if place == 0 else min)(one[place] for one in own)
                    text = f"{means[score][place]:.3f}"
                    text = f"**{text}**" if means[score][place] == best[place] else text
                    table.setdefault(score, []).append(f"{text} ({worst:.3f})")
    for title, table in (("false negatives", missed), ("average precision", ranked)):
        print(f"| {title} |" + "".join(f" {one} |" for one in titles))
        print("|---" * (len(titles) + 1) + "|")
        for score, cells in table.items():
            print(f"| {score} |" + "".join(f" {cell} |" for cell in cells))
        print()


if __name__ == "__main__":
    main()
