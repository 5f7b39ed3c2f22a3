"""The demo: the whole flow on real handwritten digits, on a CPU, with nothing to download."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np

from trustq.data.manifest import Manifest
from trustq.datasets import prepare
from trustq.errors import MissingExtra
from trustq.experiments import repair
from trustq.recipes import Recipe, load_recipe
from trustq.report import (
    RepairTable,
    repair_curve_figure,
    repair_table,
    risk_coverage_figure,
)
from trustq.results import Result, run_query
from trustq.store import read_cache

SEEDS = (0, 1)
ARMS = ("none", "random", "self_confidence")

# Plain SQL over the same results: what `trustq sql` answers.
TABLE_SQL = """\
SELECT arm_title, n, round(mean, 4) AS accuracy, round(sd, 4) AS sd
FROM seeds
WHERE exposure = 'frozen' AND metric = 'accuracy' AND split = 'test' AND is_final
  AND stage = 'calibrated'
ORDER BY mean"""

Progress = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]


@dataclass(frozen=True)
class Demo:
    """What the demo made."""

    frozen: RepairTable
    trained: RepairTable
    sql: Result
    model: Path | None  # None where the extras that package a network are not installed
    pictures: tuple[Path, ...]
    results: Path


def run_demo(out: Path, *, say: Callable[[str], None], progress: Progress) -> Demo:
    """Prepare digits, extract frozen and noise-trained caches, repair both, draw and query.

    Everything is written under `out`; a second run goes on from what is there. `say` is told each
    step; `progress(what, unit)` opens a progress line.
    """
    from trustq.extraction import extract  # torch, when it is needed and not before

    say("1. The 1,797 handwritten digits that come with scikit-learn, as images with splits.")
    manifest = prepare("digits", root=out / "images", out=out / "digits.parquet")
    caches = out / "cache"

    say("2. Frozen: features of a small network with random weights, which saw no label.")
    base = load_recipe("digits")
    frozen = replace(
        base, name="frozen", extract=replace(base.extract, mode="frozen", noise="none")
    )
    extract(manifest, recipe=frozen, seeds=SEEDS, out=caches)

    say("3. Fine-tuned: the same network trained on labels of which 20 % are wrong.")
    extract(manifest, recipe=base, seeds=SEEDS, out=caches)

    results = out / "results"
    say("4. Repair on the frozen features: 20 draws of 20 % noise, 15 % of labels bought.")
    frozen_keys = _repair(frozen, caches, results, progress, draws=20, noise="symmetric:0.2")
    say("5. Repair on the fine-tuned features, of the very labels that they were trained on.")
    trained_keys = _repair(base, caches, results, progress, draws=5, noise="stored")

    say(
        "6. An audit of the labels that the first network was trained on, and the network packaged."
    )
    _audit(caches / "digits" / base.name / f"seed{SEEDS[0]}.h5", manifest, out)
    _tilted(manifest, out)
    study = resources.files("trustq.api").joinpath("demo_study.toml")
    (out / "study.toml").write_text(study.read_text("utf-8"), "utf-8")
    model = _package(caches / "digits" / base.name / f"seed{SEEDS[0]}.h5", manifest, out, say)

    say("7. Pictures and SQL.")
    pictures = (out / "repair_curve.png", out / "risk_coverage.png")
    repair_curve_figure(results, frozen_keys, pictures[0])
    risk_coverage_figure(results, frozen_keys, pictures[1])
    return Demo(
        frozen=repair_table(results, frozen_keys),
        trained=repair_table(results, trained_keys),
        sql=run_query(results, TABLE_SQL),
        model=model,
        pictures=pictures,
        results=results,
    )


def _audit(cache: Path, manifest: Manifest, out: Path) -> None:
    """Write the lists of `trustq audit labels`, and what further examples of the help start from.

    `answers.csv` answers for the listed labels as an expert would who lets every tenth pass,
    `raters.csv` as two people of unequal skill (the two networks' guesses); `class_means.npz`
    stands for the text features of a vision-language network.
    """
    from trustq.audit import audit_labels, open_source
    from trustq.audit.folder import read_audit_folder
    from trustq.report.audit import write_audit

    folder = out / "audit"
    if not (folder / "audit.json").is_file():  # answers of an earlier look at the demo stay
        found = audit_labels([open_source(cache.resolve())], review=50)
        write_audit(found, folder, images={"manifest": str((out / "digits.parquet").resolve())})
    audit = read_audit_folder(folder)
    listed = audit.sample_ids[audit.order].tolist()
    networks = [read_cache(cache.with_name(f"seed{seed}.h5")) for seed in SEEDS]
    first = networks[0]
    place = {sample_id: row for row, sample_id in enumerate(first.sample_id.tolist())}
    rows = [place[sample_id] for sample_id in listed]
    labels = np.where(np.arange(len(rows)) % 10 == 9, first.observed[rows], first.label[rows])
    answers = [f"{one},{first.classes[k]}\n" for one, k in zip(listed, labels, strict=True)]
    (out / "answers.csv").write_text("sample_id,label\n" + "".join(answers), "utf-8")
    guesses = [
        f"{sample_id},network {seed},{network.classes[network.logits[row].argmax()]}\n"
        for seed, network in zip(SEEDS, networks, strict=True)
        if network.logits is not None
        for sample_id, row in zip(listed, rows, strict=True)
    ]
    (out / "raters.csv").write_text("sample_id,rater,label\n" + "".join(guesses), "utf-8")
    train = first.split == "train"
    every = range(len(first.classes))
    means = np.stack([first.features[train & (first.label == k)].mean(axis=0) for k in every])
    np.savez(out / "class_means.npz", text_features=means, classes=first.classes, logit_scale=20.0)


def _tilted(manifest: Manifest, out: Path) -> None:
    """Every twentieth digit turned by 20 degrees, with a table: a data set of a person's own."""
    from PIL import Image

    folder = out / "tilted"
    folder.mkdir(exist_ok=True)
    lines = ["sample_id,path,label\n"]
    columns = manifest.columns
    for path, label in list(zip(columns["path"], columns["label"], strict=True))[::20]:
        with Image.open(out / "images" / path) as image:
            image.rotate(20, resample=Image.Resampling.BILINEAR).save(folder / f"tilted_{path}")
        lines.append(f"tilted_{Path(path).stem},tilted_{path},{label}\n")
    (out / "tilted.csv").write_text("".join(lines), "utf-8")


def _package(cache: Path, manifest: Manifest, out: Path, say: Callable[[str], None]) -> Path | None:
    """The folder of the packaged network, made once."""
    from trustq.deploy.packaging import PackageSettings, package_model

    folder = out / "model"
    if not (folder / "model.json").is_file():
        try:
            package_model(
                cache, manifest, out=folder, settings=PackageSettings(positive=("3", "8"))
            )
        except MissingExtra as error:
            say(f"The network is not packaged. {error}")
            return None
    return folder


def _repair(
    recipe: Recipe, caches: Path, results: Path, progress: Progress, *, draws: int, noise: str
) -> list[str]:
    sweep = replace(recipe.sweep, noise=noise, arms=ARMS, budgets=("15%",), rounds=3, draws=draws)
    opened = [read_cache(caches / "digits" / recipe.name / f"seed{seed}.h5") for seed in SEEDS]
    with progress("repair", "runs") as report:
        run = repair(opened, recipe=replace(recipe, sweep=sweep), results=results, progress=report)
    return run.keys
