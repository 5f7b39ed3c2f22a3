"""How well each label-quality score finds wrong labels: human noise, human checks, simulations.

Run: python tests/benchmarks/label_scores.py --data DIR [--out experiments/label-scores]

DIR holds `cifar10n_worst`, `label_errors`, `food101_clip_embeddings` and `ham10000_features`, as
experiments/label-scores/README.md lists their sources. One Markdown table a question.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score

from trustq.data.noise import draw_noise, parse_noise
from trustq.heads import SharedFeatures, make_head
from trustq.metrics.probabilities import softmax
from trustq.scoring import SCORE_TITLES, SCORES
from trustq.scoring.confident import estimated_noise_rate

TOLERANCE = 0.002  # average precision that `adaptive` was allowed to lose


def main() -> None:
    """Write the three tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("experiments/label-scores"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for name, table in (
        ("human_noise.md", human_noise(asked.data / "cifar10n_worst")),
        ("checked_labels.md", checked_labels(asked.data / "label_errors")),
        ("adaptive.md", adaptive(asked.data)),
    ):
        (asked.out / name).write_text(table, encoding="utf-8")
        print(table)


def human_noise(folder: Path) -> str:
    """Every score on 50,000 labels that people gave, 40 % of them wrong."""
    columns = {}
    for model in ("resnet18", "swin"):
        file = np.load(folder / f"cifar10n_worst_{model}.npz")
        labels, probs = file["noisy_labels"].astype(int), file["pred_probs"].astype(float)
        wrong = labels != file["true_labels"]
        columns[model] = {
            score: (_first_tenth(wrong, quality), average_precision_score(wrong, -quality))
            for score, quality in _qualities(labels, probs)
        }
    head = "".join(f" {m}: first 10 % | {m}: average precision |" for m in columns)
    lines = [f"| score |{head}", "|---" * 5 + "|"]
    for score in SCORES:
        figures = (f" {a:.3f} | {b:.4f} |" for a, b in (columns[m][score] for m in columns))
        lines.append(f"| {SCORE_TITLES[score]} |{''.join(figures)}")
    return "\n".join(lines) + "\n"


def checked_labels(folder: Path) -> str:
    """Every score against the majority of five people, on labels that a filter had picked out."""
    columns = {}
    for data_set in ("mnist", "20news"):
        file = np.load(folder / f"{data_set}_test_set.npz")
        labels, probs = file["labels"].astype(int), file["pred_probs"].astype(float)
        checks = json.loads((folder / f"{data_set}_mturk.json").read_text())
        rows = np.array([check["id"] for check in checks])
        # Wrong: fewer than three of five people chose the given label.
        wrong = np.array([check["mturk"]["given"] < 3 for check in checks])
        everywhere = np.zeros(len(labels), dtype=bool)
        everywhere[rows] = wrong
        columns[f"{data_set}, {wrong.sum()} wrong of {len(rows)} checked"] = {
            score: (
                average_precision_score(wrong, -quality[rows]),
                average_precision_score(everywhere, -quality),
            )
            for score, quality in _qualities(labels, probs)
        }
    head = "".join(f" {name} | of all {name.split(',')[0]} rows |" for name in columns)
    lines = [f"| score |{head}", "|---" * (1 + 2 * len(columns)) + "|"]
    for score in SCORES:
        figures = (f" {a:.3f} | {b:.3f} |" for a, b in (columns[c][score] for c in columns))
        lines.append(f"| {SCORE_TITLES[score]} |{''.join(figures)}")
    return "\n".join(lines) + "\n"


def adaptive(data: Path) -> str:
    """What a choice of self-confidence or margin by the estimated noise rate loses to the better.

    The rule that is tried is the best in hindsight: of all thresholds and both directions, the one
    with the smallest mean loss on these very cases.
    """
    cases, rates, both, blends = [], [], [], []
    for name, labels, probs, truth in _cases(data):
        wrong = labels != truth
        own = [SCORES[s](labels, probs) for s in ("self_confidence", "normalized_margin")]
        both.append([average_precision_score(wrong, -quality) for quality in own])
        blends.append(average_precision_score(wrong, -(own[0] + own[1])))
        rates.append(estimated_noise_rate(labels, probs))
        cases.append((name, wrong.mean()))
    of, rate = np.array(both), np.array(rates)
    better = of.max(axis=1)
    rules = [
        (
            np.where(rate <= t, of[:, low], of[:, 1 - low]),
            f"{('self', 'margin')[low]} up to {t:.2f}",
        )
        for t in np.quantile(rate, np.linspace(0, 1, 101))
        for low in (0, 1)
    ]
    chosen, told = min(rules, key=lambda rule: (better - rule[0]).mean())
    lines = [
        f"| {len(cases)} cases: average precision lost to the better of the two | mean | worst | "
        f"cases over {TOLERANCE} |",
        "|---|---|---|---|",
    ]
    for name, found in (
        ("always self-confidence", of[:, 0]),
        ("always normalised margin", of[:, 1]),
        ("mean of both", np.array(blends)),
        (f"by the estimated rate, best in hindsight ({told})", chosen),
    ):
        lost = better - found
        lines.append(
            f"| {name} | {lost.mean():.4f} | {lost.max():.4f} | {(lost > TOLERANCE).sum()} |"
        )
    lines += [
        "",
        "| case | wrong | estimated | self-confidence | margin |",
        "|---|---|---|---|---|",
    ]
    for (name, true_rate), r, (confidence, margin) in zip(cases, rate, of, strict=True):
        lines.append(f"| {name} | {true_rate:.3f} | {r:.3f} | {confidence:.4f} | {margin:.4f} |")
    return "\n".join(lines) + "\n"


Case = tuple[str, np.ndarray, np.ndarray, np.ndarray]


def _cases(data: Path) -> Iterator[Case]:
    """Labels, out-of-fold probabilities and truth: human noise, then two kinds of simulated."""
    for model in ("resnet18", "swin"):
        file = np.load(data / "cifar10n_worst" / f"cifar10n_worst_{model}.npz")
        probs, labels = file["pred_probs"].astype(float), file["noisy_labels"].astype(int)
        yield f"CIFAR-10N worst, {model}", labels, probs, file["true_labels"].astype(int)
    for name, features, truth in _features(data):
        k = int(truth.max()) + 1
        shared = SharedFeatures(features)
        fold = np.random.default_rng(0).permutation(len(truth)) % 5
        for kind, rate in [("symmetric", r / 10) for r in range(1, 6)] + [
            ("next class", r / 10) for r in range(1, 5)
        ]:
            matrix = parse_noise(f"symmetric:{rate}", classes=tuple(map(str, range(k))))
            for seed in (0, 1):
                labels = draw_noise(truth, noise=matrix, seed=seed)
                if kind == "next class":
                    flip = np.random.default_rng(seed).random(len(truth)) < rate
                    labels = np.where(flip, (truth + 1) % k, truth)
                for penalty in (0.01, 0.1):
                    probs = np.empty((len(truth), k))
                    for f in range(5):
                        head = make_head("linear", n_classes=k, C=penalty)
                        head.fit(shared, labels, sample_weight=(fold != f).astype(float))
                        probs[fold == f] = softmax(head.predict_logits(features[fold == f]))
                    told = f"{name}, {kind} {rate}, C {penalty}, draw {seed}"
                    yield told, labels, probs, truth


def _features(data: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    clip = np.load(data / "food101_clip_embeddings" / "food101_10class_clip_vitb32.npz")
    ham = np.load(data / "ham10000_features" / "convnext_atto_64px.npz")
    unseen = ham["split"] > 0  # rows of which the network saw no label
    digits = load_digits()
    for name, features, labels in (
        ("food", clip["train_features"], clip["train_labels"]),
        ("HAM10000", ham["features"][unseen], ham["labels"][unseen]),
        ("digits", digits.data, digits.target),
    ):
        rows = features.astype(np.float64)
        scale = np.maximum(rows.std(axis=0), 1e-9)
        yield name, ((rows - rows.mean(axis=0)) / scale).astype(np.float32), labels.astype(int)


def _qualities(labels: np.ndarray, probs: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    for score, quality in SCORES.items():
        yield score, quality(labels, probs)


def _first_tenth(wrong: np.ndarray, quality: np.ndarray) -> float:
    return float(wrong[np.argsort(quality, kind="stable")[: len(wrong) // 10]].mean())


if __name__ == "__main__":
    main()
