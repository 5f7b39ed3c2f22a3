"""Ways to run the GPU stage: cross-fitting, training on some groups or given labels, many seeds."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from support_extract import CLASSES, TINY, Heard, draw_images, extract_one, make_rows, tiny
from trustq.cli import app

from trustq.data.manifest import Manifest, write_manifest
from trustq.data.splits import group_folds
from trustq.errors import TrustqError
from trustq.extraction import Execution, extract, extract_with
from trustq.extraction.inputs.staging import stage
from trustq.extraction.launch import own_share
from trustq.store import open_cache, read_cache, verify_cache
from trustq.store.format import SEEN_OBSERVED, SEEN_REFERENCE, SEEN_SELECTION

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

CROSSFIT = ("mode=crossfit", "crossfit_folds=3", "epochs=1")


@pytest.fixture(scope="module")
def crossfitted(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("crossfit")
    return extract_one(make_rows(images), tiny(*CROSSFIT), out)


def test_no_row_is_scored_by_a_network_that_saw_its_group(crossfitted: Any) -> None:
    cache = crossfitted
    fold, trained = cache.extra["fold"], cache.observed >= 0
    assert cache.exposure == "crossfit"
    assert (fold[trained] >= 0).all() and (fold[~trained] == -1).all()
    for group in set(cache.group_id[trained].tolist()):
        assert len(set(fold[cache.group_id == group].tolist())) == 1
    groups = cache.group_id[trained]
    expected = group_folds(cache.observed[trained], groups, n_folds=3, seed=5)
    np.testing.assert_array_equal(fold[trained], expected)
    logits = cache.extra["crossfit_logits"]
    assert np.isfinite(logits[trained]).all() and np.isnan(logits[~trained]).all()
    assert not np.allclose(logits[trained], cache.logits[trained], atol=1e-3)


def test_a_fold_is_what_a_training_without_its_rows_gives(
    manifest: Manifest, crossfitted: Any, tmp_path: Path
) -> None:
    from trustq.data.preprocessing import Preprocessing
    from trustq.extraction.exposure import rows_of_training
    from trustq.extraction.inputs.images import Feed
    from trustq.extraction.jobs import Job
    from trustq.extraction.train.crossfit import crossfit
    from trustq.extraction.train.weights import start_network

    recipe = tiny(*CROSSFIT).extract
    rows = rows_of_training(manifest, recipe=recipe, seed=5)
    spoilt = rows.observed.copy()
    spoilt[rows.fold == 1] = (spoilt[rows.fold == 1] + 1) % 3  # labels that fold 1 must not know

    def make(seed: int) -> Any:
        return start_network(recipe, n_classes=3, seed=seed)[0]

    rows_told = replace(rows, observed=spoilt)
    job = Job(5, tmp_path / "seed5.h5", rows_told, {}, is_there=False, settings=recipe)
    preprocessing = Preprocessing.of_config(make(0).config, 32)
    feed = Feed(preprocessing, torch.device("cpu"), recipe.workers, Heard())
    found, _ = crossfit(job, manifest, make=make, feed=feed, identity="other labels")
    stored = crossfitted.extra["crossfit_logits"]
    in_fold = rows.fold == 1
    np.testing.assert_array_equal(found["crossfit_logits"][in_fold], stored[in_fold])
    others = (rows.fold >= 0) & ~in_fold
    assert not np.allclose(found["crossfit_logits"][others], stored[others], atol=1e-4)


class Killed(BaseException):
    """A stop that nothing may catch."""


@pytest.mark.parametrize("where", ["epoch 1/1", "held-out rows of fold 2", "features of seed 5"])
def test_crossfit_goes_on_within_the_fold_it_was_stopped_in(
    manifest: Manifest, crossfitted: Any, tmp_path: Path, where: str
) -> None:
    calls: list[str] = []

    def stop(what: str, done: int) -> None:
        if what != (calls or [""])[-1]:
            calls.append(what)
        if what.startswith(where) and len(calls) > 2:
            raise Killed

    with pytest.raises(Killed):
        extract_one(manifest, tiny(*CROSSFIT), tmp_path, progress=Heard(at=stop))
    heard = Heard()
    again = extract_one(manifest, tiny(*CROSSFIT), tmp_path, progress=heard)
    assert again.content_digest == crossfitted.content_digest
    assert not [line for line in heard.lines if "fold 1 of 3" in line]  # it was finished before
    left = [path.name for path in again.path.parent.iterdir()]
    assert sorted(left) == ["seed5.h5", "seed5.safetensors"]


def test_a_kill_between_the_cache_and_the_clearing_up_leaves_nothing_in_the_end(
    manifest: Manifest, crossfitted: Any, tmp_path: Path
) -> None:
    made = extract_one(manifest, tiny(*CROSSFIT), tmp_path)
    folder = made.path.parent
    for name in (".seed5.resume.pt", ".seed5.fold0.npz", ".seed5.fold2.resume.pt"):
        (folder / name).write_bytes(b"left")
    (folder / ".seed55.resume.pt").write_bytes(b"of another seed")
    assert extract_one(manifest, tiny(*CROSSFIT), tmp_path).digest == made.digest
    left = sorted(path.name for path in folder.iterdir())
    assert left == [".seed55.resume.pt", "seed5.h5", "seed5.safetensors"]


def test_a_damaged_fold_is_told_and_trained_anew(
    manifest: Manifest, crossfitted: Any, tmp_path: Path
) -> None:
    def stop(what: str, done: int) -> None:
        if what == "features of seed 5":
            raise Killed

    with pytest.raises(Killed):
        extract_one(manifest, tiny(*CROSSFIT), tmp_path, progress=Heard(at=stop))
    kept = tmp_path / "shapes" / "tiny" / ".seed5.fold1.npz"
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 0x10
    kept.write_bytes(content)
    heard = Heard()
    again = extract_one(manifest, tiny(*CROSSFIT), tmp_path, progress=heard)
    assert again.content_digest == crossfitted.content_digest
    assert [line for line in heard.lines if line.startswith(f"{kept} cannot be read (")]


def test_crossfit_scores_are_honest_in_repair_and_history_is_kept(crossfitted: Any) -> None:
    from trustq.heads.out_of_fold import TrainingRows, read_crossfit

    rows = np.flatnonzero(crossfitted.observed >= 0)
    groups = np.unique(crossfitted.group_id[rows], return_inverse=True)[1]
    training = TrainingRows(crossfitted, rows, groups, crossfitted.extra["fold"][rows])
    scored = read_crossfit(training, crossfitted.observed[rows].astype(np.int64))
    assert not scored.backbone_saw_rows and not scored.in_sample
    for fold in range(3):
        assert len(crossfitted.extra[f"history/fold{fold}/train_loss"]) == 1


def test_other_images_through_a_crossfitted_network_have_no_folds(
    crossfitted: Any, images: Path, tmp_path: Path
) -> None:
    other = make_rows(images, n=9, dataset="other", group_id=[f"o{i}" for i in range(9)])
    other.columns["sample_id"] = np.array([f"o{i}" for i in range(9)], dtype=object)
    made = extract_with(other, [crossfitted.path], out=tmp_path, progress=Heard())
    cache = read_cache(made[0].path)
    assert cache.exposure == "finetuned-observed"
    assert "fold" not in cache.extra and "crossfit_logits" not in cache.extra
    assert (cache.seen == 0).all()


def test_too_few_groups_for_the_folds_are_told_before_training(
    manifest: Manifest, tmp_path: Path
) -> None:
    with pytest.raises(TrustqError) as told:
        extract_one(manifest, tiny("mode=crossfit", "crossfit_folds=13"), tmp_path)
    assert str(told.value) == (
        "12 groups to train on cannot make crossfit_folds=13: folds are whole groups. Ask for "
        "fewer, e.g. `crossfit_folds=2`."
    )


def test_training_on_one_split_leaves_the_others_unseen(manifest: Manifest, tmp_path: Path) -> None:
    clean = ("extract.noise=none", "epochs=1")
    cache = extract_one(manifest, tiny("train_on=test", *clean), tmp_path / "a")
    assert set(cache.split[cache.observed >= 0].tolist()) == {"test"}
    assert (cache.seen[cache.split == "train"] == 0).all()
    assert (cache.seen[cache.split == "val"] == SEEN_SELECTION).all()
    np.testing.assert_array_equal(cache.honest_for_any_noise, cache.split != "test")


def test_a_share_of_a_split_is_whole_groups_and_the_same_for_every_seed(
    manifest: Manifest, tmp_path: Path
) -> None:
    recipe = tiny("train_on=train:0.5", "epochs=1")
    made = extract(manifest, recipe=recipe, seeds=[1, 2], out=tmp_path, progress=Heard())
    one, two = (read_cache(cache.path) for cache in made)
    np.testing.assert_array_equal(one.observed >= 0, two.observed >= 0)
    trained = one.observed >= 0
    assert trained.sum() == 18 and set(one.split[trained].tolist()) == {"train"}
    assert not set(one.group_id[trained].tolist()) & set(one.group_id[~trained].tolist())


def test_training_on_validation_rows_cannot_choose_the_epoch_by_them(
    manifest: Manifest, tmp_path: Path
) -> None:
    with pytest.raises(TrustqError) as told:
        extract_one(manifest, tiny("train_on=val"), tmp_path)
    assert str(told.value) == (
        "There are no validation rows beside those that are trained on (found 36 train, 12 val, 12 "
        "test), which checkpoint=best needs. Make the splits again, or keep the last epoch: "
        "`checkpoint=last` `patience=0`."
    )


@pytest.mark.parametrize("text", ["trian", "train:0", "train:1.5", "train:half"])
def test_an_unknown_part_to_train_on_is_told(manifest: Manifest, tmp_path: Path, text: str) -> None:
    with pytest.raises(TrustqError) as told:
        extract_one(manifest, tiny(f"train_on={text}"), tmp_path)
    assert str(told.value) == (
        f"train_on={text}: expected a split (train, val, test, external), or a share of the groups "
        "of one, e.g. train:0.5."
    )


def write_labels(path: Path, lines: list[str], header: str = "sample_id,label") -> Path:
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_observed_labels_are_trained_on_and_dropped_rows_are_not(
    manifest: Manifest, tmp_path: Path
) -> None:
    # s00 bars -> discs; s01 dropped; s02 checked and right; s03 checked to be what the manifest
    # does not say; the others keep the manifest's label
    labels = write_labels(
        tmp_path / "labels.csv",
        ["s00,discs,false", "s01.jpg,,false", " s02.PNG ,Noise,true", "s03,discs,1.0"],
        "sample_id,label,trusted",
    )
    heard = Heard()
    recipe = tiny("extract.noise=none", f"observed={labels}", "epochs=1")
    cache = extract_one(manifest, recipe, tmp_path, progress=heard)
    train = cache.split == "train"
    expected = np.where(train, cache.label, -1)
    expected[[0, 1, 3]] = [1, -1, 1]
    np.testing.assert_array_equal(cache.observed, expected)
    np.testing.assert_array_equal(np.flatnonzero(cache.trusted), [2, 3])
    both = SEEN_OBSERVED | SEEN_REFERENCE
    assert cache.seen[:4].tolist() == [SEEN_OBSERVED, 0, both, SEEN_OBSERVED]
    assert (cache.seen[4:][train[4:]] == both).all()
    assert cache.exposure == "finetuned-observed"
    assert cache.noise["spec"] == "file:labels.csv"
    assert cache.noise["rate"] == pytest.approx(2 / 35)
    assert (
        f"{labels}: labels of 4 rows, 1 of them dropped; 32 training rows not in it keep "
        "the manifest's label."
    ) in heard.lines


def test_the_table_of_an_audit_trains_again(manifest: Manifest, tmp_path: Path) -> None:
    lines = ["s00,bars,discs,relabel,x", "s01,discs,bars,drop,x", "s02,noise,bars,keep,x"]
    header = "sample_id,given,suggested,action,reason"
    labels = write_labels(tmp_path / "cleaned.csv", lines, header)
    recipe = tiny("extract.noise=none", f"observed={labels}", "epochs=1")
    cache = extract_one(manifest, recipe, tmp_path)
    assert cache.observed[:3].tolist() == [1, -1, 2]


@pytest.mark.parametrize(
    ("lines", "header", "message"),
    [
        (["s00,discs"], "id,label", "it has no column sample_id, only id, label."),
        (["s00,discs", "s00,bars"], "", "1 id is in it twice: s00."),
        (["x1,discs", "x2,bars"], "", "2 ids are not in the manifest: x1, x2."),
        (["s09,bars"], "", "1 id is outside the rows to train on: s09."),
        (["s00,cat"], "", "1 id has a label outside bars, discs, noise: s00 (cat)."),
        (
            ["s00,discs"],
            "sample_id,given",
            "it has no column label, nor suggested, action to take one from. Expected "
            "sample_id,label or the table of `trustq audit apply`.",
        ),
        (
            [f"s{i:02d}," for i in range(60) if i // 3 % 5 < 3],
            "",
            "it drops every row, so nothing is left to train on.",
        ),
    ],
)
def test_a_labels_file_that_does_not_fit_is_told_by_id(
    manifest: Manifest, tmp_path: Path, lines: list[str], header: str, message: str
) -> None:
    labels = write_labels(tmp_path / "labels.csv", lines, header or "sample_id,label")
    with pytest.raises(TrustqError) as told:
        extract_one(manifest, tiny("extract.noise=none", f"observed={labels}"), tmp_path)
    assert str(told.value) == f"{labels}: {message}"


@pytest.mark.parametrize(
    ("header", "line", "message"),
    [
        (
            "given,suggested,action",
            "bars,discs,burn",
            "action 'burn', expected keep, relabel or drop.",
        ),
        (
            "given,suggested,action",
            "bars,,relabel",
            "action 'relabel' without a label to train on. Name one, or say drop.",
        ),
        ("label,trusted", "bars,perhaps", "trusted is 'perhaps', expected 1 or 0."),
    ],
)
def test_a_line_that_says_nothing_is_told_by_row(
    manifest: Manifest, tmp_path: Path, header: str, line: str, message: str
) -> None:
    labels = write_labels(tmp_path / "labels.csv", [f"s00,{line}"], f"sample_id,{header}")
    with pytest.raises(TrustqError) as told:
        extract_one(manifest, tiny("extract.noise=none", f"observed={labels}"), tmp_path)
    assert str(told.value) == f"{labels}, row 1: {message}"


def test_observed_labels_and_noise_together_are_refused(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(TrustqError) as told:
        extract_one(manifest, tiny("observed=labels.csv"), tmp_path)
    assert str(told.value) == (
        "observed=labels.csv gives the labels to train on, so noise=symmetric:0.2 and trusted=0 "
        "have nothing to draw. Leave one of them out."
    )


def test_unreadable_images_are_left_out_and_recorded(manifest: Manifest, tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    draw_images(root)
    (root / "04.jpg").write_bytes((root / "04.jpg").read_bytes()[:500])  # its header is whole
    (root / "07.png").unlink()
    rows = make_rows(root)
    heard = Heard()
    recipe = tiny("mode=frozen", "extract.noise=none")
    leaving_out = Execution(skip_unreadable=True)
    made = extract(
        rows, recipe=recipe, seeds=[5], out=tmp_path, execution=leaving_out, progress=heard
    )
    cache = read_cache(made[0].path)
    assert len(cache) == 58 and not {"s04", "s07"} & set(cache.sample_id.tolist())
    assert cache.extra["skipped/sample_id"].tolist() == ["s04", "s07"]
    assert cache.extra["skipped/reason"].tolist()[1] == "no such file"
    assert f"left out: {root / '07.png'}: no such file" in heard.lines
    verify_cache(cache.path)
    # The others are as if nothing had been wrong, and a second run finds the cache there.
    whole = extract_one(manifest, recipe, tmp_path / "whole")
    kept = [row for row in range(60) if row not in (4, 7)]
    np.testing.assert_allclose(cache.features, whole.features[kept], atol=1e-5)
    again = extract(rows, recipe=recipe, seeds=[5], out=tmp_path, execution=leaving_out)
    assert not again[0].is_new


def test_labels_of_images_that_were_left_out_are_passed_over_and_others_compared(
    tmp_path: Path,
) -> None:
    draw_images(tmp_path)
    (tmp_path / "04.jpg").unlink()
    rows, lines = make_rows(tmp_path), ["s04,discs", "s00,discs"]
    labels = write_labels(tmp_path / "labels.csv", lines, "sample_id,label")
    recipe = tiny("extract.noise=none", f"observed={labels}", "epochs=1", *CROSSFIT[:2])

    def run(skip_unreadable: bool = True) -> list[str]:
        heard = Heard()
        extract(
            rows,
            recipe=recipe,
            seeds=[5],
            out=tmp_path / "cache",
            execution=Execution(skip_unreadable=skip_unreadable),
            progress=heard,
        )
        return heard.lines

    run()
    target = tmp_path / "cache" / "shapes" / "tiny" / "seed5.h5"
    cache = read_cache(target)
    assert len(cache) == 59 and cache.observed[0] == 1 and cache.extra["fold"][0] >= 0
    assert run(skip_unreadable=False) == [
        f"{target} is without 1 row, whose images could not be decoded when it was made. Delete "
        "it to try them again.",
        f"{target} is there already, from the same recipe and manifest.",
    ]
    write_labels(labels, ["s04,discs", "s00,noise"], "sample_id,label")
    with pytest.raises(TrustqError, match="was written from another noise"):
        run()


def test_staged_images_give_the_same_cache_and_are_copied_once(
    manifest: Manifest, tmp_path: Path
) -> None:
    recipe = tiny("mode=frozen", "extract.noise=none")
    plain = extract_one(manifest, recipe, tmp_path / "plain")
    heard = Heard()
    staged = extract_one(
        manifest, recipe, tmp_path / "staged", stage_to=tmp_path / "disk", progress=heard
    )
    assert staged.content_digest == plain.content_digest
    assert heard.lines[0].endswith(": 60 images copied, 0 were there.")
    copied = sorted((tmp_path / "disk").rglob("*.png"))
    assert len(copied) == 30 and not list((tmp_path / "disk").rglob("*.part"))
    copied[0].write_bytes(b"cut")  # a copy that was stopped by a crash of the machine
    heard = Heard()
    extract_one(manifest, recipe, tmp_path / "third", stage_to=tmp_path / "disk", progress=heard)
    assert heard.lines[0].endswith(": 1 image copied, 59 were there.")
    with Image.open(copied[0]) as image:
        image.load()


def test_a_missing_image_is_named_where_it_should_be_before_any_is_copied(tmp_path: Path) -> None:
    root, disk = tmp_path / "images", tmp_path / "disk"
    root.mkdir()
    draw_images(root)
    (root / "04.jpg").unlink()
    recipe = tiny("mode=frozen", "extract.noise=none")
    with pytest.raises(TrustqError) as told:
        extract_one(make_rows(root), recipe, tmp_path, stage_to=disk)
    assert str(told.value) == (
        f"1 of 60 images cannot be read:\n  {root}/04.jpg: no such file\n"
        "Put them back, or leave their rows out of the manifest; nothing was extracted."
    )
    assert not disk.exists()


def test_an_image_made_anew_is_staged_again_whatever_its_size(tmp_path: Path) -> None:
    root, disk = tmp_path / "images", tmp_path / "disk"
    (root / "a" / "b").mkdir(parents=True)
    image = root / "a" / "b" / "0.png"
    rows = make_rows(root, n=2, path=["a/b/0.png"] * 2)
    image.write_bytes(b"old")
    os.utime(image, (1e9, 1e9))
    staged = stage(rows, disk, progress=Heard())
    assert staged.image_path(1).read_bytes() == b"old"
    image.write_bytes(b"new")
    os.utime(image, (9e8, 9e8))  # put back from an archive
    heard = Heard()
    assert stage(rows, disk, progress=heard).image_path(1).read_bytes() == b"new"
    stage(rows, disk, progress=heard)
    assert [line.partition(": ")[2] for line in heard.lines] == [
        "1 image copied, 0 were there.",
        "0 images copied, 1 were there.",
    ]


def test_processes_of_a_launcher_share_out_the_seeds() -> None:
    seeds = [42, 52, 62, 72, 82]
    taken = []
    for rank in range(3):
        local = {"RANK": str(rank), "WORLD_SIZE": "3", "LOCAL_RANK": str(rank % 2)}
        own, gpu = own_share(seeds, local)
        assert gpu == rank % 2
        taken += own
    assert sorted(taken) == seeds
    assert own_share([1], {"RANK": "1", "WORLD_SIZE": "2"}) == ([], 1)


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device whose memory holds six images of a training step; simulated in the network."""
    from trustq.extraction import run

    def start(*arguments: Any, **options: Any) -> Any:
        network, left_out = start_network(*arguments, **options)

        def refuse(model: Any, inputs: tuple[Any, ...]) -> None:
            if model.training and len(inputs[0]) > 6:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        network.model.register_forward_pre_hook(refuse)
        return network, left_out

    from trustq.extraction.train.weights import start_network

    monkeypatch.setattr(run, "start_network", start)


def test_out_of_memory_tells_the_batch_that_fits(
    manifest: Manifest, tmp_path: Path, small_memory: None
) -> None:
    with pytest.raises(TrustqError) as told:
        extract_one(manifest, tiny(), tmp_path)
    assert str(told.value) == (
        "cpu ran out of memory with batches of 16 images of 32 pixels. 4 fit; with "
        "`batch_size=4` and `accumulate=4` a step is as large as before, and `auto_batch` finds "
        "that out by itself. A training with other batches starts anew."
    )


def test_a_batch_of_two_is_the_least_that_is_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    from trustq.extraction.train import memory
    from trustq.extraction.train.weights import start_network

    monkeypatch.setattr(memory, "fits", lambda *_, **__: True)
    recipe = tiny("batch_size=3").extract
    network = start_network(recipe, n_classes=3, seed=0)[0]
    with (
        pytest.raises(TrustqError, match=r" 2 fit; with `batch_size=2` and `accumulate=2` "),
        memory.explained(recipe, network, torch.device("cpu")),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_auto_batch_trains_with_what_fits_and_the_cache_says_so(
    manifest: Manifest, tmp_path: Path, small_memory: None
) -> None:
    heard = Heard()
    fitted = extract_one(manifest, tiny(), tmp_path / "a", auto_batch=True, progress=heard)
    assert "Batches of 16 do not fit: 4, 4 of them a step." in heard.lines
    assert fitted.recipe["fitted"] == {"batch_size": 4, "accumulate": 4}
    # The probe left no trace: the network trains as if it had been asked for such batches.
    asked = extract_one(manifest, tiny("batch_size=4", "accumulate=4"), tmp_path / "b")
    np.testing.assert_array_equal(fitted.features, asked.features)
    again = extract(manifest, recipe=tiny(), seeds=[5], out=tmp_path / "a", progress=Heard())
    assert not again[0].is_new


def test_out_of_memory_while_features_are_taken_is_told(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trustq.extraction.dump import cache_dump as dump

    def refuse(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(dump, "forward_head", refuse)
    with pytest.raises(TrustqError) as told:
        extract_one(manifest, tiny("mode=frozen", "extract.noise=none"), tmp_path)
    assert str(told.value) == (
        "cpu ran out of memory taking features of images of 32 pixels with test_convnext. Take "
        "smaller images (`image_size`) or a smaller backbone, or give the same command with "
        "`device=cpu`. What was trained is kept."
    )
    assert not list(tmp_path.rglob("*.h5"))


def test_with_and_a_setting_of_training_is_bad_usage() -> None:
    ran = CliRunner().invoke(app, ["extract", "m.parquet", "--with", "c.h5", "--auto-batch"])
    assert ran.exit_code == 2 and "--with takes everything else from the caches" in ran.output


def test_a_network_that_never_fits_is_told(
    manifest: Manifest, tmp_path: Path, small_memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trustq.extraction.train import memory

    monkeypatch.setattr(memory, "fits", lambda *_, **__: False)
    with pytest.raises(TrustqError) as told:
        extract_one(manifest, tiny(), tmp_path, auto_batch=True)
    assert str(told.value) == (
        "Not even 2 images of 32 pixels fit through test_convnext in the memory of cpu. Take "
        "smaller images (`image_size`), a smaller backbone, or train fewer layers "
        "(`trained_stages=1`)."
    )


def test_the_standard_launcher_makes_every_seed_once(manifest: Manifest, tmp_path: Path) -> None:
    write_manifest(manifest, tmp_path / "m.parquet")
    trustq = "import sys; from trustq.cli import app; sys.argv = ['trustq', *sys.argv[1:]]; app()"
    script = tmp_path / "launch.py"
    script.write_text(trustq)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words += [str(script), "extract", str(tmp_path / "m.parquet"), f"--out={tmp_path}"]
    words += ["--seeds=1,2,3", "--device=cpu", "--mode=frozen", "--set=extract.noise=none"]
    words += [f"--set={setting}" for setting in TINY if "noise" not in setting]
    done = subprocess.run(words, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    made = sorted(path.name for path in (tmp_path / "shapes" / "default").glob("*.h5"))
    assert made == ["seed1.h5", "seed2.h5", "seed3.h5"]
    for seed in (1, 2, 3):
        assert done.stdout.count(f"seed{seed}.h5") == 1


def test_command_takes_the_modes(manifest: Manifest, tmp_path: Path) -> None:
    write_manifest(manifest, tmp_path / "m.parquet")
    words = ["extract", str(tmp_path / "m.parquet"), "--out", str(tmp_path), "--mode", "crossfit"]
    words += [f"--set={setting}" for setting in (*TINY, "crossfit_folds=2", "epochs=1")]
    words += ["--train-on", "train:0.6", "--stage", str(tmp_path / "disk"), "--skip-unreadable"]
    result = CliRunner().invoke(app, [*words, "--name", "mine"])
    assert result.exit_code == 0, result.output
    assert "exposure crossfit" in result.stdout
    cache = open_cache(tmp_path / "shapes" / "mine" / "seed0.h5")
    assert sorted(np.unique(cache.extra["fold"]).tolist()) == [-1, 0, 1]
    assert len(cache.classes) == len(CLASSES)
