"""The GPU stage: the same seed gives the same cache, stopped or not; bad input is told at once."""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

# As `trustq extract` sets it, but here torch is imported before: waiting threads must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from support_extract import CLASSES, TINY, Heard, extract_one, make_rows, tiny
from trustq.cli import app

from trustq.data.manifest import Manifest, write_manifest
from trustq.data.noise import draw_start, parse_noise
from trustq.errors import TrustqError
from trustq.extraction import extract, extract_with
from trustq.extraction.train.weights import start_network
from trustq.store import read_attributes, read_cache, relabel_cache, verify_cache
from trustq.store.format import MANIFEST_COLUMNS, SEEN_OBSERVED, SEEN_REFERENCE, SEEN_SELECTION
from trustq.store.manifest_columns import manifest_columns

torch = pytest.importorskip("torch")
load_file = pytest.importorskip("safetensors.torch").load_file
timm = pytest.importorskip("timm")

# Newer Pythons warn of the fork that torch's loading processes are made by.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")

AS_TRAINED = ("extract.trusted=0.1", "rotation=10.0")  # the settings of the fixture `trained`
FROZEN = ("mode=frozen", "extract.noise=none")


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A fine-tuned cache that was made without a stop."""
    out = tmp_path_factory.mktemp("trained")
    return extract_one(make_rows(images), tiny(*AS_TRAINED), out)


def test_features_and_logits_are_a_plain_forward_pass_in_manifest_order(
    trained: Any, manifest: Manifest
) -> None:
    from safetensors.torch import load_file

    model = timm.create_model("test_convnext", num_classes=3)
    model.load_state_dict(load_file(trained.path.with_suffix(".safetensors")))
    model.eval()
    mean, std = trained.preprocessing["mean"], trained.preprocessing["std"]
    features, logits = [], []
    for row in range(len(manifest)):
        image = Image.open(manifest.image_path(row)).convert("RGB").resize((32, 32), Image.BICUBIC)
        pixels = (np.asarray(image, np.float32) / 255 - mean) / std
        batch = torch.from_numpy(pixels.astype(np.float32).transpose(2, 0, 1)[None])
        with torch.inference_mode():
            maps = model.forward_features(batch)
            features.append(model.forward_head(maps, pre_logits=True)[0].numpy())
            logits.append(model(batch)[0].numpy())
    np.testing.assert_allclose(trained.features, features, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(trained.logits, logits, rtol=1e-4, atol=1e-4)
    weight, bias = trained.extra["classifier/weight"], trained.extra["classifier/bias"]
    np.testing.assert_allclose(
        trained.features @ weight.T + bias, trained.logits, rtol=1e-4, atol=1e-4
    )


def test_a_cache_carries_every_column_of_its_manifest(trained: Any, manifest: Manifest) -> None:
    carried = manifest_columns(trained)
    stored = {"sample_id", "label", "group_id", "split", "dataset"}
    assert set(carried) == set(manifest.columns) - stored
    assert all(carried[name] == manifest.columns[name].tolist() for name in carried)


def test_noise_and_trusted_rows_are_those_of_draw_start(trained: Any) -> None:
    train = trained.split == "train"
    noise = parse_noise("symmetric:0.2", classes=CLASSES)
    start = draw_start(trained.label[train], noise=noise, trusted=0.1, seed=5)
    np.testing.assert_array_equal(trained.observed[train], start.observed)
    np.testing.assert_array_equal(trained.trusted[train], start.trusted)
    assert (trained.observed[~train] == -1).all() and not trained.trusted[~train].any()
    assert (start.observed != trained.label[train]).any() and start.trusted.sum() == 4
    assert trained.noise == {
        "spec": "symmetric:0.2",
        "trusted": 0.1,
        "draw_seed": 5,
        "rate": start.rate,
        "digest": start.digest,
    }
    assert trained.exposure == "finetuned-observed"
    np.testing.assert_array_equal(
        trained.seen,
        SEEN_OBSERVED * train
        + SEEN_REFERENCE * trained.trusted
        + SEEN_SELECTION * (trained.split == "val"),
    )


def test_clean_training_has_seen_reference_labels_and_last_epoch_chooses_by_nothing(
    manifest: Manifest, tmp_path: Path
) -> None:
    recipe = tiny("extract.noise=none", "checkpoint=last", "epochs=1")
    cache = extract_one(manifest, recipe, tmp_path)
    train = cache.split == "train"
    assert cache.exposure == "finetuned-clean" and cache.noise["spec"] == "none"
    np.testing.assert_array_equal(cache.observed[train], cache.label[train])
    np.testing.assert_array_equal(cache.seen, (SEEN_OBSERVED | SEEN_REFERENCE) * train)


def test_kept_epoch_has_the_lowest_validation_loss_and_it_is_that_of_the_cached_logits(
    trained: Any,
) -> None:
    val = trained.split == "val"
    logits = trained.logits[val].astype(float)
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = -log_probs[np.arange(val.sum()), trained.label[val]].mean()
    assert trained.extra["history/val_loss"].min() == pytest.approx(loss, rel=1e-5)
    assert trained.extra["history/epoch"].tolist() == [1, 2]
    assert (trained.extra["history/learning_rate"] > 0).all()


def test_frozen_has_no_logits_and_has_seen_nothing(manifest: Manifest, tmp_path: Path) -> None:
    cache = extract_one(manifest, tiny(*FROZEN), tmp_path)
    assert cache.exposure == "frozen" and cache.logits is None and cache.noise == {}
    assert not cache.seen.any() and not cache.trusted.any() and (cache.observed == -1).all()
    assert list(cache.extra) == [MANIFEST_COLUMNS] and cache.features.shape == (60, 64)
    assert cache.path.with_suffix(".safetensors").is_file()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # of one core
def test_same_seed_same_bytes_whatever_the_loading_processes(
    trained: Any, manifest: Manifest, tmp_path: Path
) -> None:
    again = extract_one(manifest, tiny(*AS_TRAINED, "workers=2"), tmp_path)
    assert again.content_digest == trained.content_digest
    verify_cache(again.path)


def test_augmentation_depends_on_seed_epoch_and_row_only(images: Path) -> None:
    from trustq.extraction.inputs.images import Augmentation

    image = Image.open(images / "01.png").convert("RGB")
    augment = Augmentation(5, True, True, True, 15.0, 0.1)

    def seen_as(augmentation: Augmentation, epoch: int, row: int) -> bytes:
        return augmentation(image, epoch, row).tobytes()

    assert seen_as(augment, 1, 2) == seen_as(augment, 1, 2)
    different = {seen_as(augment, 1, 2), seen_as(augment, 2, 2), seen_as(augment, 1, 3)}
    assert len({*different, seen_as(replace(augment, seed=6), 1, 2)}) == 4
    off = Augmentation(5, False, False, False, 0.0, 0.0)
    assert seen_as(off, 1, 2) == image.tobytes()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("where", ["epoch 2/2", "features of seed 5"])
def test_extract_goes_on_after_a_stop_as_if_there_had_been_none(
    trained: Any, manifest: Manifest, tmp_path: Path, where: str
) -> None:
    def stop(what: str, done: int) -> None:
        if what == where and done >= 16:
            raise Killed

    recipe = tiny(*AS_TRAINED)
    with pytest.raises(Killed):
        extract_one(manifest, recipe, tmp_path, progress=Heard(at=stop))
    resume = tmp_path / "shapes" / "tiny" / ".seed5.resume.pt"
    assert resume.is_file() and not resume.with_name("seed5.h5").exists()
    heard = Heard()
    cache = extract_one(manifest, recipe, tmp_path, progress=heard)
    done = 1 if where.startswith("epoch") else 2
    assert f"Going on after epoch {done} of 2, from {resume}." in heard.lines
    assert cache.content_digest == trained.content_digest
    assert sorted(p.name for p in resume.parent.iterdir()) == ["seed5.h5", "seed5.safetensors"]


@pytest.mark.parametrize("moment", ["between epochs", "within an epoch"])
def test_extract_resumes_after_a_kill(
    trained: Any, manifest: Manifest, tmp_path: Path, moment: str
) -> None:
    write_manifest(manifest, tmp_path / "m.parquet")
    code = (
        "import contextlib, os, signal, sys\n"
        "from trustq.extraction.train.progress import StderrProgress\n"
        f"moment = {moment!r}\n"
        "def kill(when):\n"
        "    if when:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "@contextlib.contextmanager\n"
        "def images(self, what, total):\n"
        "    yield lambda done, figure='': kill(what == 'epoch 2/2' and done > 20)\n"
        "def say(self, text):\n"
        "    kill(moment == 'between epochs' and text.startswith('epoch 1/2: train loss'))\n"
        "StderrProgress.say, StderrProgress.images = say, images\n"
        "from trustq.cli import app\n"
        "app()\n"
    )
    settings = [f"--set={setting}" for setting in (*TINY, *AS_TRAINED)]
    arguments = ["extract", str(tmp_path / "m.parquet"), "--seeds=5", "--name=tiny", *settings]
    arguments += [f"--out={tmp_path}"]
    killed = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    target = tmp_path / "shapes" / "tiny" / "seed5.h5"
    assert not target.exists()
    heard = Heard()
    cache = extract_one(manifest, tiny(*AS_TRAINED), tmp_path, progress=heard)
    assert any(line.startswith("Going on after epoch 1 of 2") for line in heard.lines)
    assert cache.content_digest == trained.content_digest


def test_a_resume_file_of_another_recipe_is_told_and_replaced(
    manifest: Manifest, tmp_path: Path
) -> None:
    def stop(what: str, done: int) -> None:
        if what == "epoch 2/2":
            raise Killed

    with pytest.raises(Killed):
        extract_one(manifest, tiny(), tmp_path, progress=Heard(at=stop))
    resume = tmp_path / "shapes" / "tiny" / ".seed5.resume.pt"
    heard = Heard()
    extract_one(manifest, tiny("epochs=1"), tmp_path, progress=heard)
    assert (
        f"{resume} is of another recipe or manifest; training starts anew and replaces it."
        in heard.lines
    )


def test_training_stops_when_no_epoch_was_better_for_long(
    manifest: Manifest, tmp_path: Path
) -> None:
    heard = Heard()
    recipe = tiny("epochs=6", "learning_rate=0.0", "patience=2")
    cache = extract_one(manifest, recipe, tmp_path, progress=heard)
    assert cache.extra["history/epoch"].tolist() == [1, 2, 3]
    assert heard.lines[-2:] == [
        "Stopped early: 2 epochs without a lower validation loss.",
        "Kept epoch 1, which has the lowest validation loss.",
    ]


def test_a_cache_that_is_there_is_left_and_one_of_another_recipe_refused(
    trained: Any, manifest: Manifest
) -> None:
    out, before = trained.path.parents[2], trained.path.stat().st_mtime_ns
    recipe = tiny(*AS_TRAINED)
    heard = Heard()
    made = extract(manifest, recipe=recipe, seeds=[5], out=out, progress=heard)
    assert not made[0].is_new and trained.path.stat().st_mtime_ns == before
    assert heard.lines == [f"{trained.path} is there already, from the same recipe and manifest."]
    with pytest.raises(TrustqError) as told:
        extract(manifest, recipe=tiny("extract.trusted=0.1", "epochs=3"), seeds=[5], out=out)
    first, way_out = str(told.value).split("\n")
    assert first.startswith(f"{trained.path} was written from another recipe (recipe digest ")
    assert first.endswith("; it has epochs 2, not 3, rotation 10.0, not 15.0).")
    assert way_out == ("Give this run a name of its own with `name` or `out`, or delete that file.")


def test_a_cache_of_another_recipe_is_replaced_where_that_is_asked_for(
    manifest: Manifest, tmp_path: Path
) -> None:
    extract_one(manifest, tiny("epochs=1"), tmp_path, replace=True)
    heard = Heard()
    cache = extract_one(manifest, tiny("epochs=2"), tmp_path, replace=True, progress=heard)
    assert cache.recipe["extract"]["epochs"] == 2
    told = [line for line in heard.lines if "replaced" in line]
    assert len(told) == 1 and told[0].endswith("; it has epochs 1, not 2); it is replaced.")
    before = cache.path.stat().st_mtime_ns
    extract_one(manifest, tiny("epochs=2"), tmp_path, replace=True)
    assert cache.path.stat().st_mtime_ns == before


def test_same_images_with_the_same_network_give_the_same_features(
    trained: Any, manifest: Manifest, tmp_path: Path
) -> None:
    made = extract_with(manifest, [trained.path], out=tmp_path, progress=Heard())
    other = read_cache(made[0].path, manifest=manifest)
    np.testing.assert_array_equal(other.features, trained.features)
    np.testing.assert_array_equal(other.logits, trained.logits)
    np.testing.assert_array_equal(other.seen, trained.seen)
    np.testing.assert_array_equal(other.observed, trained.observed)
    assert other.weights_digest == trained.weights_digest
    assert other.recipe == trained.recipe | {"with": trained.content_digest}
    assert "history/epoch" not in other.extra and "classifier/weight" in other.extra


def test_other_images_are_unseen_unless_they_share_an_id_or_a_group(
    trained: Any, images: Path, tmp_path: Path
) -> None:
    ids = [f"new{i}" for i in range(57)] + ["s00", "new58", "new59"]
    groups = [f"other{i}" for i in range(57)] + ["other57", "g00", "g04"]
    other = make_rows(
        images, dataset="elsewhere", sample_id=ids, group_id=groups, split=["external"] * 60
    )
    other = replace(other, classes=("noise", "bars", "discs"))
    heard = Heard()
    made = extract_with(other, [trained.path], out=tmp_path, progress=heard)
    cache = read_cache(made[0].path, manifest=other)
    assert made[0].path == tmp_path / "elsewhere" / "tiny" / "seed5.h5"
    assert not cache.seen[:57].any() and (cache.observed[:57] == -1).all()
    assert cache.seen[57] == trained.seen[0] and cache.observed[57] == trained.observed[0]
    assert cache.seen[58] & SEEN_OBSERVED and cache.observed[58] == -1
    assert cache.classes == CLASSES
    np.testing.assert_array_equal(cache.label, np.arange(60) % 3)
    told = f"the network of {trained.path} has seen; they stay marked as seen."
    assert heard.lines[0] == f"2 of 60 rows share an id or a group with rows that {told}"


def test_a_label_corrected_since_is_no_reference_that_the_network_was_trained_on(
    trained: Any, manifest: Manifest, tmp_path: Path
) -> None:
    row = int(np.flatnonzero(trained.trusted)[0])
    labels = manifest.columns["label"].copy()
    labels[row] = CLASSES[(trained.label[row] + 1) % 3]
    corrected = replace(manifest, columns=manifest.columns | {"label": labels})
    made = extract_with(corrected, [trained.path], out=tmp_path, progress=Heard())
    cache = read_cache(made[0].path, manifest=corrected)
    table = tmp_path / "labels.csv"
    table.write_text(f"sample_id,label\n{manifest.columns['sample_id'][row]},{labels[row]}\n")
    expected = relabel_cache(trained, table).cache
    for name in ("label", "observed", "trusted", "seen", "noise", "exposure", "manifest"):
        np.testing.assert_array_equal(getattr(cache, name), getattr(expected, name))
    assert cache.seen[row] == SEEN_OBSERVED and cache.observed[row] == trained.label[row]


def test_with_needs_the_checkpoint_of_the_cache_and_its_classes(
    trained: Any, manifest: Manifest, tmp_path: Path
) -> None:
    lone = tmp_path / "seed5.h5"
    lone.write_bytes(trained.path.read_bytes())
    with pytest.raises(TrustqError) as told:
        extract_with(manifest, [lone], out=tmp_path)
    assert str(told.value) == (
        f"{tmp_path}/seed5.safetensors: no such file. It is the network of {lone}, which other "
        "images must go through; copy it there, or extract again."
    )
    from trustq.extraction.train.weights import make_network, save_checkpoint

    network = make_network("test_convnext", n_classes=3, image_size=32)
    save_checkpoint(tmp_path / "seed5.safetensors", network.model, {})
    with pytest.raises(TrustqError) as told:
        extract_with(manifest, [lone], out=tmp_path / "out", progress=Heard())
    assert str(told.value).startswith(f"{tmp_path}/seed5.safetensors has digest ")
    assert str(told.value).endswith(
        f"but the cache beside it was made by {trained.weights_digest[:8]}.... Copy the right "
        "checkpoint there, or extract again."
    )
    strange = replace(manifest, classes=("bars", "discs", "noise", "rings"))
    strange.columns["label"][7] = "rings"
    with pytest.raises(TrustqError) as told:
        extract_with(strange, [trained.path], out=tmp_path)
    assert str(told.value) == (
        f"{trained.path} has the classes bars, discs, noise, but these images are also of rings. "
        "Map or leave out those rows."
    )


def test_images_that_are_missing_or_unreadable_are_all_listed_before_training(
    manifest: Manifest, tmp_path: Path
) -> None:
    for row in range(60):
        link = tmp_path / str(manifest.columns["path"][row])
        if row not in (3, 8):
            link.symlink_to(manifest.image_path(row))
    (tmp_path / "08.jpg").write_text("no image")
    moved = replace(manifest, root=tmp_path)
    with pytest.raises(TrustqError) as told:
        extract_one(moved, tiny(), tmp_path / "out")
    assert str(told.value) == (
        f"2 of 60 images cannot be read:\n  {tmp_path}/03.png: no such file\n"
        f"  {tmp_path}/08.jpg: it is not an image, or of a kind that Pillow does not know\n"
        "Put them back, or leave their rows out of the manifest; nothing was extracted."
    )
    with pytest.raises(TrustqError) as told:
        extract_one(replace(manifest, root=tmp_path / "gone"), tiny(), tmp_path / "out")
    assert str(told.value) == (
        f"None of the 60 images is under {tmp_path}/gone (the first is 00.jpg). Say where they are "
        "with `root=FOLDER`."
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_truncated_is_named(
    manifest: Manifest, tmp_path: Path, workers: int
) -> None:
    for row in range(60):
        path = tmp_path / str(manifest.columns["path"][row])
        content = manifest.image_path(row).read_bytes()
        path.write_bytes(content if row != 4 else content[: len(content) // 2])
    recipe = tiny(*FROZEN, f"workers={workers}")
    with pytest.raises(TrustqError) as told:
        extract_one(replace(manifest, root=tmp_path), recipe, tmp_path / "out")
    first, way_out = str(told.value).split("\n")
    assert first.startswith(f"{tmp_path}/04.jpg cannot be decoded: image file is truncated")
    assert way_out == "Put the image back, or leave its row out of the manifest."
    assert not list((tmp_path / "out").rglob("*.h5"))


def with_split(manifest: Manifest, old: str, new: str) -> Manifest:
    split = manifest.columns["split"].copy()
    split[split == old] = new
    return replace(manifest, columns=manifest.columns | {"split": split})


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        (
            ["backbone=test_convnxt"],
            None,
            "timm has no model 'test_convnxt'; the nearest are test_convnext, test_convnext3, "
            "test_convnext2.",
        ),
        (
            ["learning_rate=1e30", "warmup_epochs=0"],
            None,
            "The training loss is not finite in epoch 1/2, step 2 of 6: the training has "
            "diverged.\nTry a lower rate, e.g. `learning_rate=1e+29`, a longer warm-up, or "
            "`amp=off`.",
        ),
        (
            [],
            ("val", "test"),
            "There are no validation rows beside those that are trained on (found 36 train, 24 "
            "test), which checkpoint=best needs. Make the splits again, or keep the last epoch: "
            "`checkpoint=last` `patience=0`.",
        ),
        (
            [],
            ("train", "test"),
            "There are no training rows in train (found 12 val, 48 test). Make the splits again, "
            "or extract without training: `mode=frozen`.",
        ),
        (
            [*FROZEN, "observed=labels.csv"],
            None,
            "observed=labels.csv changes nothing in a frozen backbone, which is trained on no row. "
            "Leave it out, or train one: `mode=finetune`.",
        ),
        (
            ["mode=frozen"],
            None,
            "noise=symmetric:0.2 and trusted=0 change nothing in a frozen backbone, which sees no "
            "label. Draw them where they are used, in `trustq repair`.",
        ),
        (["epochs=0"], None, "epochs is 0, expected at least 1."),
        (["weights=nowhere.pth"], None, "`weights=nowhere.pth`: no such file."),
    ],
)
def test_what_cannot_be_trained_is_told(
    manifest: Manifest,
    tmp_path: Path,
    settings: list[str],
    change: tuple[str, str] | None,
    message: str,
) -> None:
    if change:
        manifest = with_split(manifest, *change)
    with pytest.raises(TrustqError) as told:
        extract_one(manifest, tiny(*settings), tmp_path)
    assert str(told.value) == message
    assert not list(tmp_path.rglob("seed*"))


def test_a_class_without_training_rows_is_named(manifest: Manifest, tmp_path: Path) -> None:
    label = manifest.columns["label"].copy()
    label[(manifest.columns["split"] == "train") & (label == "discs")] = "bars"
    manifest = replace(manifest, columns=manifest.columns | {"label": label})
    with pytest.raises(TrustqError) as told:
        extract_one(manifest, tiny(), tmp_path)
    assert str(told.value) == (
        "No training row has the class discs, though other splits have. Make the splits again "
        "with more of it in train, or leave the class out."
    )


def test_a_device_that_is_not_there_is_told(manifest: Manifest, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(TrustqError) as told:
        extract_one(manifest, tiny(), tmp_path, device="cuda")
    assert str(told.value) == (
        f"`device=cuda`: torch {torch.__version__} finds none here, only cpu.\n"
        "Leave `device` out to take the fastest there is, or install a torch build for it."
    )
    with pytest.raises(
        TrustqError, match=r"^`device=tpu`: expected one of auto, cpu, cuda, mps\.$"
    ):
        extract_one(manifest, tiny(), tmp_path, device="tpu")


def test_weights_files_are_loaded_and_misfits_named(
    trained: Any, manifest: Manifest, tmp_path: Path
) -> None:
    state = load_file(trained.path.with_suffix(".safetensors"))
    torch.save(state, tmp_path / "plain.pth")
    cache = extract_one(manifest, tiny(*FROZEN, f"weights={tmp_path}/plain.pth"), tmp_path / "same")
    np.testing.assert_array_equal(cache.features, trained.features)
    assert cache.weights == "file:plain.pth"

    state = timm.create_model("test_convnext", num_classes=9).state_dict()
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        tmp_path / "nine.pth",
    )
    heard = Heard()
    extract_one(
        manifest,
        tiny(f"weights={tmp_path}/nine.pth", "epochs=1"),
        tmp_path / "nine",
        progress=heard,
    )
    assert heard.lines[1] == (
        f"{tmp_path}/nine.pth: left out head.fc.weight, head.fc.bias (other classes)."
    )

    state["stem.0.weight"] = state["stem.0.weight"][:, :1]
    state["extra"] = state.pop("stem.0.bias")
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(TrustqError) as told:
        extract_one(manifest, tiny(f"weights={tmp_path}/odd.pth"), tmp_path / "odd")
    assert str(told.value) == (
        f"`weights={tmp_path}/odd.pth` does not fit the backbone; missing: stem.0.bias; unknown: "
        "extra; of another shape: stem.0.weight (24x1x4x4 instead of 24x3x4x4).\n"
        "Name the backbone that the file was made with, or use another file."
    )


def test_a_classifier_that_starts_at_zero_favours_no_class_and_leaves_the_network_as_it_was() -> (
    None
):
    images = torch.randn(2, 3, 32, 32)
    networks: list[Any] = [
        start_network(tiny(f"classifier_start={start}").extract, n_classes=3, seed=0)[0].model
        for start in ("zero", "random")
    ]
    with torch.inference_mode():
        assert not networks[0].eval()(images).any() and networks[1].eval()(images).any()
        features = [network.forward_features(images) for network in networks]
    torch.testing.assert_close(*features, rtol=0, atol=0)


def test_a_network_is_no_start_for_the_rows_it_has_seen(
    trained: Any, manifest: Manifest, tmp_path: Path
) -> None:
    checkpoint = trained.path.with_suffix(".safetensors")
    for settings in (FROZEN, ("epochs=1",)):
        with pytest.raises(TrustqError) as told:
            extract_one(manifest, tiny(*settings, f"weights={checkpoint}"), tmp_path)
        assert str(told.value) == (
            f"`weights={checkpoint}`: the network of {trained.path} has seen 48 of these 60 rows, "
            "or others of their groups, which a cache that starts from it could not tell. Use that "
            f"network as it is with `with={trained.path}`, or start from other weights."
        )
    alone = tmp_path / "alone.safetensors"
    shutil.copyfile(checkpoint, alone)
    with pytest.raises(TrustqError) as told:
        extract_one(manifest, tiny(*FROZEN, f"weights={alone}"), tmp_path)
    assert str(told.value) == (
        f"`weights={alone}` is the network of a cache, and {tmp_path}/alone.h5 is not there to "
        "tell which rows it has seen. Copy the cache there."
    )
    n = len(manifest)
    others = make_rows(
        manifest.root,
        sample_id=[f"new{i}" for i in range(n)],
        group_id=[f"new{i // 3}" for i in range(n)],
    )
    cache = extract_one(others, tiny(*FROZEN, f"weights={checkpoint}"), tmp_path)
    assert not cache.seen.any() and cache.exposure == "frozen"


class Runs:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def test_a_weights_file_runs_no_code(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Runs()}, "evil.pth")
    with pytest.raises(TrustqError, match=r"^evil\.pth could not be read as tensors: "):
        extract_one(manifest, tiny("weights=evil.pth"), tmp_path)
    assert not Path("ran").exists()


def test_offline_without_weights_is_told_before_torch_is_imported(
    manifest: Manifest, tmp_path: Path
) -> None:
    write_manifest(manifest, tmp_path / "m.parquet")
    with socket.socket() as free:  # a port where nobody answers
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    plain = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    environment = plain | {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path)}
    code = (
        "import sys\nfrom trustq.cli import app\n"
        "try:\n    app()\nfinally:\n    assert 'torch' not in sys.modules\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, "extract", str(tmp_path / "m.parquet")],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert told.returncode == 1
    assert told.stderr == (
        f"Error: The pretrained weights of convnext_tiny are not in {tmp_path}/hub, and the hub "
        "that has them cannot be reached from here.\n"
        "Give a file with --weights FILE, train from scratch with --set pretrained=false, "
        "or run where there is a network.\n"
    )


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="not glibc")
def test_on_a_cpu_freed_tensors_stay_with_the_process() -> None:
    code = (
        "import resource, sys, torch\n"
        "from trustq.extraction.train.device import choose_device\n"
        "sys.argv[1] == 'asked' and choose_device('cpu')\n"
        "pages = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        # What is freed first may lose its edge to a small block, so that the next does not fit in.
        "for _ in range(3): torch.ones(12_000_000)\n"
        "before = pages()\n"
        "for _ in range(5): torch.ones(12_000_000)\n"
        "print(pages() - before)\n"
    )

    def new_pages(how: str, **more: str) -> int:
        own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        command = [sys.executable, "-c", code, how]
        told = subprocess.run(command, env=own | more, capture_output=True, check=True)
        return int(told.stdout)

    # 48 MB are 11,719 pages of 4 KiB, or 24 of 2 MiB where the kernel takes those.
    without = new_pages("not asked")
    # A busy kernel takes pages away at times, so that a try in some shows new ones all the same.
    assert any(new_pages("asked") < without / 20 for _ in range(8))
    assert new_pages("asked", MALLOC_ARENA_MAX="2") > without / 2, "set by the person who starts it"


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="not glibc")
def test_freed_memory_is_kept_up_to_what_is_asked() -> None:
    code = (
        "import resource, sys\n"
        "import numpy as np\n"
        "from trustq.core.freed_memory import keep_freed_memory\n"
        "sys.argv[1] == 'asked' and keep_freed_memory(most_bytes=1 << 26)\n"
        "resident = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "pages = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "first = resident()\n"
        "np.ones(20_000_000, np.uint8)\n"
        "before = pages()\n"
        "for _ in range(5): np.ones(20_000_000, np.uint8)\n"
        "print(pages() - before)\n"
        "np.ones(200_000_000, np.uint8)\n"
        "print(resident() - first)\n"
    )

    def seen(how: str) -> tuple[int, int]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        told = subprocess.run([sys.executable, "-c", code, how], env=own, capture_output=True)
        pages, kept = told.stdout.split()
        return int(pages), int(kept)

    without = seen("not asked")[0]
    found = [seen("asked") for _ in range(8)]
    assert any(pages < without / 3 for pages, _ in found)
    assert all(kept < 70_000_000 for _, kept in found), "a large block is given back"


def test_command_prints_a_line_a_cache_and_json(manifest: Manifest, tmp_path: Path) -> None:
    write_manifest(manifest, tmp_path / "m.parquet")
    settings = [f"--set={setting}" for setting in TINY]
    words = ["extract", str(tmp_path / "m.parquet"), "--out", str(tmp_path), *settings]
    words += ["--mode", "frozen", "--seeds", "0,1", "--name", "frozen", "--set=extract.noise=none"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    paths = [tmp_path / "shapes" / "frozen" / f"seed{seed}.h5" for seed in (0, 1)]
    assert result.stdout == "".join(
        f"{path}: 60 rows, 64 features, exposure frozen\n" for path in paths
    )
    result = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(result.stdout)[1] == {
        "path": str(paths[1]),
        "n_rows": 60,
        "n_features": 64,
        "exposure": "frozen",
        "val_accuracy": None,
        "is_new": False,
    }
    assert read_attributes(paths[0])["backbone_seed"] == 0


def test_ctrl_c_exits_130_and_says_how_to_go_on(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trustq.extraction.train.loop as training

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    write_manifest(manifest, tmp_path / "m.parquet")
    monkeypatch.setattr(training, "train", interrupted)
    settings = [f"--set={setting}" for setting in TINY]
    words = ["extract", str(tmp_path / "m.parquet"), "--out", str(tmp_path), *settings]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 130
    assert result.stderr.endswith(
        "\nStopped. The same command goes on after the last finished epoch; finished caches are "
        "kept.\n"
    )
