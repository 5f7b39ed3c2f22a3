"""A linear head on HAM10000 features, judged on HAM10000's test split and on external caches.

Run: python experiments/external-skin/report.py INTERNAL.h5 EXTERNAL.h5... --out FOLDER
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from trustq.external import external_report
from trustq.heads.linear import LinearHead
from trustq.results import Result, format_result
from trustq.store import open_cache


def main(
    internal: Path, externals: list[Path], out: Annotated[Path, typer.Option()] = Path(".")
) -> None:
    cache = open_cache(internal)
    train, val, test = (cache.split == name for name in ("train", "val", "test"))
    mean = cache.features[train].mean(axis=0)
    spread = np.maximum(cache.features[train].std(axis=0), 1e-6)

    def scaled(features: np.ndarray) -> np.ndarray:
        return ((features - mean) / spread).astype(np.float32)

    k = len(cache.classes)
    # Strong penalty: the network has seen the training rows, so that their features are too good.
    head = LinearHead(n_classes=k, C=0.01).fit(scaled(cache.features[train]), cache.label[train])
    common = {
        "validation_labels": cache.label[val],
        "validation_logits": head.predict_logits(scaled(cache.features[val])),
        "frequencies": np.bincount(cache.label[train], minlength=k) / train.sum(),
        "classes": cache.classes,
    }
    sets = {f"{cache.dataset} test": (cache.label[test], cache.features[test])}
    for path in externals:
        other = open_cache(path)
        assert other.classes == cache.classes, other.name
        sets[other.dataset] = (other.label, other.features)
    reports, rows, recalls = {}, [], []
    for name, (labels, features) in sets.items():
        found = external_report(labels, head.predict_logits(scaled(features)), **common)
        reports[name] = found._asdict()
        for stage, figures in found.stages.items():
            rows.append((name, found.n, stage, *(figures.get(f) for f in FIGURES)))
        recalls.append((name, *(found.recall[c] for c in cache.classes)))
    table = format_result(Result(["data", "n", "stage", *FIGURES], rows), "markdown")
    recall = format_result(Result(["recall of", *cache.classes], recalls), "markdown")
    (out / "table.md").write_text(f"{table}\n\n{recall}\n")
    (out / "report.json").write_text(json.dumps(reports, indent=1) + "\n")
    print(f"{table}\n\n{recall}")


FIGURES = ("accuracy", "macro_f1", "ece", "nll", "aurc", "augrc", "coverage_at_0_5", "risk_at_0_5")

if __name__ == "__main__":
    typer.run(main)
