"""How well a review knows the number wrong after its first answers, on sets of known truth.

    python tests/benchmarks/estimate_study.py FILE.npz... --noise symmetric:0.2,pair:0.2

Files hold `probs` or `features`, and `labels` that are taken for the truth, on which noise is put
(three draws a kind); or `observed` beside `labels`, taken as they are. Each is audited as `trustq
audit labels` does by default, and answered by the truth in the order of the review's queue, twenty
queues a draw. Prints a Markdown table: the estimate over the truth (mean and sd), how often the
95 % interval covers, how often the estimate lies within a quarter, the interval's mean width over
the truth, and the share wrong of what was answered.
"""

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from trustq.audit import audit_labels, open_source
from trustq.data.noise import observe_labels
from trustq.review.estimate import outlook
from trustq.review.queue import Plan

COLUMNS = (
    "set",
    "labels",
    "wrong",
    "listed",
    "estimate / truth (sd)",
    "covers",
    "within a quarter",
    "width / truth",
    "wrong of answered",
)


def audited(path: Path) -> tuple[Any, np.ndarray]:
    """The default audit of a file that has the truth beside, as a review reads it."""
    source = open_source(path)
    found = audit_labels([source])
    stored = SimpleNamespace(
        listed=found.listed,
        rank=found.rank,
        order=found.order,
        trusted=found.trusted,
        asked=found.asked,
        p_wrong=found.p_wrong,
        sample_ids=found.sample_ids,
    )
    return stored, source.reference != source.observed


def draws(path: Path, kinds: list[str], n_draws: int) -> list[tuple[str, list[Path]]]:
    """Files with wrong labels beside the truth: the file itself, or with noise of each kind."""
    with np.load(path) as arrays:
        fields = dict(arrays)
    if "observed" in fields:
        return [(path.stem, [path])]
    truth = fields["labels"].astype(np.int64)
    classes = tuple(str(c) for c in range(int(truth.max()) + 1))
    features = fields.get("features", np.empty((len(truth), 0)))
    ids = np.arange(len(truth)).astype(str)
    made = []
    for kind in kinds:
        files = []
        for seed in range(n_draws):
            observed = observe_labels(
                kind, truth, classes=classes, seed=seed, features=features, sample_ids=ids
            ).labels
            files.append(path.with_name(f"{path.stem}.{kind.replace(':', '-')}.{seed}.npz"))
            np.savez(files[-1], **(fields | {"observed": observed}))
        made.append((f"{path.stem}, {kind}", files))
    return made


def row(title: str, files: list[Path], *, queues: int, answers: int) -> tuple[float, str]:
    """One row of the table, and its share of intervals that cover."""
    ratios, covers, near, widths, hits, sizes = [], [], [], [], [], []
    for number, file in enumerate(files):
        audit, wrong = audited(file)
        truth = int(wrong.sum())
        sizes.append((len(wrong), truth / len(wrong), len(audit.order)))
        for seed in range(queues):
            queue = Plan(0.1, 100 * number + seed, "", 0).queue(audit)
            said = {one: bool(wrong[one]) for one in queue.rows[:answers].tolist()}
            found = outlook(audit, queue, said, []).count
            value = float("nan") if found.value is None else found.value
            ratios.append(value / truth)
            covers.append(found.low <= truth <= found.high)
            near.append(abs(value / truth - 1) <= 0.25)
            widths.append((found.high - found.low) / truth)
            hits.append(np.mean(list(said.values())))
    n, rate, listed = np.mean(sizes, axis=0)
    total = len(covers)
    text = (
        f"| {title} | {n:,.0f} | {rate:.3f} | {listed:,.0f} | {np.nanmean(ratios):.2f} "
        f"({np.nanstd(ratios):.2f}) | {sum(covers)} of {total} | {sum(near)} of {total} | "
        f"{np.mean(widths):.2f} | {np.mean(hits):.2f} |"
    )
    return float(np.mean(covers)), text


def main() -> None:
    """Run the study and print its table, the worst coverage first."""
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--noise", default="symmetric:0.2,pair:0.2,symmetric:0.05")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--queues", type=int, default=20)
    parser.add_argument("--answers", type=int, default=100)
    asked = parser.parse_args()
    rows = []
    for path in asked.files:
        for title, files in draws(path, asked.noise.split(","), asked.draws):
            rows.append(row(title, files, queues=asked.queues, answers=asked.answers))
    print("|".join(["", *(f" {name} " for name in COLUMNS), ""]))
    print("|" + "---|" * len(COLUMNS))
    print("\n".join(text for _, text in sorted(rows)))


if __name__ == "__main__":
    main()
