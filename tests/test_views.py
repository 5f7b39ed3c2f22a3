"""Views, dropout passes and maps: stored as they were asked for, and never without effect."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from support import make_cache
from typer.testing import CliRunner

# Set before torch starts its threads: waiting ones must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from trustq.cli import app

from trustq.data.manifest import Manifest, make_manifest, write_manifest
from trustq.errors import TrustqError
from trustq.extraction import extract, extract_with
from trustq.extraction.inputs import corruptions
from trustq.recipes import Recipe, load_recipe
from trustq.store import Cache, read_cache, verify_cache, write_cache, writing_cache
from trustq.store.format import MANIFEST_COLUMNS

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

# Newer Pythons warn of the fork that torch's loading processes are made by.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")

N = 70  # images: two blocks of 64
TINY = (
    "backbone=test_convnext",
    "pretrained=false",
    "image_size=32",
    "batch_size=35",
    "epochs=1",
    "warmup_epochs=0",
    "learning_rate=1e-3",
    "checkpoint=last",
    "workers=0",
)
FURTHER = ("views=tta,tta-flips,noise-3,jpeg-3", "passes=4", "drop_rate=0.3", "maps=true")


def tiny(*settings: str) -> Recipe:
    return replace(load_recipe(settings=[*TINY, *settings], part="extract"), name="tiny")


class Quiet:
    def say(self, text: str) -> None:
        pass

    @contextmanager
    def images(self, what: str, total: int) -> Iterator[Callable[[int, str], None]]:
        yield lambda done, figure="": None


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(N):
        pixels = rng.integers(60, 200, (90, 120, 3)).astype(np.uint8)
        pixels[20:60, 30 : 50 + 10 * (i % 3)] //= 3
        Image.fromarray(pixels).save(root / f"{i:02d}.{'png' if i % 2 else 'jpg'}")
    return rows(root)


def rows(root: Path) -> Manifest:
    values = {
        "sample_id": [f"s{i:02d}" for i in range(N)],
        "path": [f"{i:02d}.{'png' if i % 2 else 'jpg'}" for i in range(N)],
        "label": ["abc"[i % 3] for i in range(N)],
        "group_id": [f"g{i:02d}" for i in range(N)],
        "split": [("train", "val")[i % 2] for i in range(N)],
        "dataset": ["boxes"] * N,
        "domain": ["drawn"] * N,
    }
    columns = {name: np.array(column, dtype=object) for name, column in values.items()}
    return make_manifest(columns, classes="abc", root=root, source="test")


def extract_one(manifest: Manifest, recipe: Recipe, out: Path) -> Cache:
    made = extract(manifest, recipe=recipe, seeds=[1], out=out, progress=Quiet())
    return read_cache(made[0].path, manifest=manifest)


@pytest.fixture(scope="module")
def cache(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A trained cache with everything that can be stored besides."""
    return extract_one(manifest, tiny(*FURTHER), tmp_path_factory.mktemp("full"))


def model_of(cache: Cache, **options: Any) -> Any:
    from safetensors.torch import load_file

    model = timm.create_model(cache.backbone, num_classes=3, **options)
    model.load_state_dict(load_file(cache.path.with_suffix(".safetensors")))
    return model.eval()


def inputs_of(cache: Cache, manifest: Manifest, change: Any = None) -> Any:
    mean, std = cache.preprocessing["mean"], cache.preprocessing["std"]
    pixels = []
    for row in range(N):
        image = Image.open(manifest.image_path(row)).convert("RGB")
        image = change(image, f"s{row:02d}") if change else image
        pixels.append(
            (np.asarray(image.resize((32, 32), Image.BICUBIC), np.float32) / 255 - mean) / std
        )
    return torch.from_numpy(np.stack(pixels).astype(np.float32).transpose(0, 3, 1, 2))


def softmax(logits: np.ndarray) -> np.ndarray:
    values = np.exp(logits.astype(float) - logits.max(axis=-1, keepdims=True))
    return values / values.sum(axis=-1, keepdims=True)


# --- what is stored ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["noise-3", "jpeg-3"])
def test_a_corruption_view_is_a_forward_pass_of_images_corrupted_at_full_size(
    cache: Cache, manifest: Manifest, name: str
) -> None:
    model = model_of(cache)
    with torch.inference_mode():
        images = inputs_of(cache, manifest, corruptions.Corruption(name))
        features = model.forward_head(model.forward_features(images), pre_logits=True).numpy()
        logits = model(images).numpy()
    view = cache.view(name)
    np.testing.assert_allclose(view.features, features, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(view.logits, logits, rtol=1e-4, atol=1e-4)
    assert np.abs(view.features - cache.features).max() > 0.01
    assert view.preprocessing["view"] == {
        "name": name,
        "seed": 0,
        "at": "full size",
        **corruptions.CORRUPTIONS[name],
    }
    assert view.preprocessing["size"] == 32
    weight, bias = view.extra["classifier/weight"], view.extra["classifier/bias"]
    np.testing.assert_allclose(view.features @ weight.T + bias, view.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name, n", [("tta", 8), ("tta-flips", 4)])
def test_test_time_augmentation_averages_probabilities_over_symmetries(
    cache: Cache, manifest: Manifest, name: str, n: int
) -> None:
    model, images = model_of(cache), inputs_of(cache, manifest)
    turned = [images, images.flip(2), images.flip(3), images.flip(2, 3)]
    if n == 8:
        turned += [image.transpose(2, 3) for image in turned]
    with torch.inference_mode():
        probs = np.mean([model(image).softmax(dim=1).numpy() for image in turned], axis=0)
        heads = [model.forward_head(model.forward_features(i), pre_logits=True) for i in turned]
    view = cache.view(name)
    np.testing.assert_allclose(softmax(view.logits), probs, atol=1e-5)
    np.testing.assert_allclose(np.exp(view.logits).sum(axis=1), 1, atol=1e-5)
    mean = np.mean([head.numpy() for head in heads], axis=0)
    np.testing.assert_allclose(view.features, mean, rtol=1e-3, atol=1e-4)
    assert view.preprocessing["view"]["symmetries"] == n and list(view.extra) == [MANIFEST_COLUMNS]


def test_a_view_is_a_cache_of_its_own_name_and_digest(cache: Cache) -> None:
    assert cache.views == ("jpeg-3", "noise-3", "tta", "tta-flips")
    view = cache.view("jpeg-3")
    assert view.dataset == "boxes@jpeg-3" and len(view) == N
    digests = {cache.content_digest, *(cache.view(name).content_digest for name in cache.views)}
    assert len(digests) == 5
    np.testing.assert_array_equal(view.sample_id, cache.sample_id)


def test_views_that_are_not_there_are_told(cache: Cache) -> None:
    with pytest.raises(TrustqError) as error:
        cache.view("blur-1")
    assert str(error.value) == (
        f"{cache.path} has no view 'blur-1', only jpeg-3, noise-3, tta, tta-flips.\n"
        "Make one through the same network with `trustq extract`, `with=CACHE`, "
        "`views=blur-1` and `name=NAME`."
    )
    with pytest.raises(TrustqError, match="no view 'tta', only the clean one"):
        make_cache().view("tta")
    with pytest.raises(
        TrustqError, match="has no dropout passes. Use `trustq extract` with `passes=20`"
    ):
        make_cache().passes()


def test_dropout_passes_drop_features_at_their_rate_and_nothing_else(cache: Cache) -> None:
    passes = cache.passes()
    assert passes.shape == (4, N, 3) and len(np.unique(passes[:, 0, 0])) == 4
    # The head is linear: its variance over passes is p / (1 - p) times that of its summands.
    weight = cache.extra["classifier/weight"]
    expected = np.sqrt(0.3 / 0.7 * (cache.features.astype(float) ** 2 @ weight.T**2).mean())
    difference = passes - cache.logits
    assert np.sqrt((difference**2).mean()) == pytest.approx(expected, rel=0.15)
    assert abs(difference.mean()) < 4 * expected / np.sqrt(4 * N)


def test_dropout_leaves_batch_norm_and_the_clean_pass_alone(
    manifest: Manifest, tmp_path: Path
) -> None:
    # test_resnet calls dropout as a function and has batch norm.
    settings = ("backbone=test_resnet", "drop_rate=0.3")
    plain = extract_one(manifest, tiny(*settings), tmp_path / "plain")
    dropped = extract_one(manifest, tiny(*settings, "passes=3"), tmp_path / "dropped")
    np.testing.assert_array_equal(plain.features, dropped.features)
    np.testing.assert_array_equal(plain.logits, dropped.logits)
    assert plain.weights_digest == dropped.weights_digest
    passes = dropped.passes()
    assert not np.array_equal(passes[0], passes[1])
    # With batch norm in training, a pass would not scatter about the clean logits.
    assert np.corrcoef(passes.mean(axis=0).ravel(), dropped.logits.ravel())[0, 1] > 0.9


def test_drop_rate_changes_the_training(manifest: Manifest, tmp_path: Path) -> None:
    losses = [
        extract_one(manifest, tiny(f"drop_rate={rate}"), tmp_path / str(rate)).extra[
            "history/train_loss"
        ][0]
        for rate in (0.0, 0.5)
    ]
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    "backbone, grid",
    [("test_convnext", (1, 1, 64)), ("test_vit", (2, 2, 64)), ("test_mambaout", (1, 1, 64))],
)
def test_maps_are_places_by_channels_whatever_the_backbone(
    backbone: str, grid: tuple[int, ...], manifest: Manifest, tmp_path: Path
) -> None:
    recipe = tiny(f"backbone={backbone}", "maps=true", "mode=frozen")
    cache = extract_one(manifest, recipe, tmp_path)
    maps = cache.extra["maps"]
    assert maps.shape == (N, *grid) and maps.dtype == np.float16
    model = timm.create_model(
        backbone, num_classes=0, **({"img_size": 32} if "vit" in backbone else {})
    )
    from safetensors.torch import load_file

    model.load_state_dict(load_file(cache.path.with_suffix(".safetensors")))
    with torch.inference_mode():
        raw = model.eval().forward_features(inputs_of(cache, manifest)[:5]).numpy()
    if backbone == "test_convnext":
        raw = raw.transpose(0, 2, 3, 1)
    elif backbone == "test_vit":
        raw = raw[:, model.num_prefix_tokens :].reshape(5, *grid)
    np.testing.assert_allclose(maps[:5], raw, rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(cache.extra.rows("maps", 3, 5), maps[3:5])  # type: ignore


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # of one core
def test_the_same_recipe_gives_the_same_views_whatever_the_loading_processes(
    cache: Cache, manifest: Manifest, tmp_path: Path
) -> None:
    again = extract_one(manifest, tiny(*FURTHER, "workers=2"), tmp_path)
    assert again.content_digest == cache.content_digest
    assert verify_cache(again.path).datasets


def test_views_change_no_other_number(cache: Cache, manifest: Manifest, tmp_path: Path) -> None:
    plain = extract_one(manifest, tiny("drop_rate=0.3"), tmp_path)
    np.testing.assert_array_equal(plain.features, cache.features)
    np.testing.assert_array_equal(plain.logits, cache.logits)
    assert plain.weights_digest == cache.weights_digest and plain.views == ()


# --- views later, through the same network -------------------------------------------------------


def test_later_views_go_through_the_same_network_without_training(
    cache: Cache, manifest: Manifest, tmp_path: Path
) -> None:
    made = extract_with(
        manifest,
        [cache.path],
        out=tmp_path,
        name="later",
        settings={"views": ["jpeg", "tta"], "passes": 4},
        progress=Quiet(),
    )
    later = read_cache(made[0].path, manifest=manifest)
    assert later.path == tmp_path / "boxes" / "later" / "seed1.h5"
    assert later.views == ("jpeg-1", "jpeg-2", "jpeg-3", "tta")
    for name in ("jpeg-3", "tta"):
        np.testing.assert_array_equal(later.view(name).logits, cache.view(name).logits)
    np.testing.assert_array_equal(later.passes(), cache.passes())
    np.testing.assert_array_equal(later.logits, cache.logits)
    np.testing.assert_array_equal(later.seen, cache.seen)
    assert later.recipe["extract"]["views"] == ["jpeg", "tta"] and "maps" not in later.extra
    again = extract_with(
        manifest,
        [cache.path],
        out=tmp_path,
        name="later",
        settings={"views": ["jpeg", "tta"], "passes": 4},
        progress=Quiet(),
    )
    assert not again[0].is_new


def test_later_views_do_not_replace_the_cache_they_come_from(
    cache: Cache, manifest: Manifest
) -> None:
    with pytest.raises(TrustqError) as error:
        extract_with(manifest, [cache.path], out=cache.path.parents[2], settings={"views": ["tta"]})
    assert str(error.value) == (
        f"The new cache would replace {cache.path} itself. Give it a name of its own with `name` "
        "or `out`."
    )


def test_extract_takes_views_and_passes_with_and_without_training(
    cache: Cache, manifest: Manifest, tmp_path: Path
) -> None:
    write_manifest(manifest, tmp_path / "m.parquet")
    arguments = ["extract", str(tmp_path / "m.parquet"), "--with", str(cache.path), "--name=cli"]
    arguments += ["--views=blur-2, tta-flips", "--passes=2", f"--out={tmp_path}", "--json"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    made = read_cache(Path(json.loads(result.stdout)[0]["path"]))
    assert made.views == ("blur-2", "tta-flips") and made.passes().shape == (2, N, 3)
    refused = CliRunner().invoke(app, [*arguments, "--epochs=3"])
    assert refused.exit_code == 2


# --- what changes nothing ------------------------------------------------------------------------


def test_a_view_that_changes_no_pixel_is_an_error(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(corruptions.CORRUPTIONS, "darker", {"brightness": 1.0})
    with pytest.raises(TrustqError) as error:
        extract_one(manifest, tiny("views=blur-1,darker", "mode=frozen"), tmp_path)
    assert str(error.value) == (
        "The view darker changes nothing: it changed no pixel of any image. Figures from it would "
        "be clean figures under another name, so nothing was written. Leave it out, or look at the "
        "images."
    )
    assert not list(tmp_path.rglob("*.h5"))


def test_a_view_that_changes_no_feature_is_an_error(tmp_path: Path) -> None:
    root = tmp_path / "grey"
    root.mkdir()
    for i in range(N):  # the same from every side
        grey = Image.new("RGB", (40, 40), (i, i, i))
        grey.save(root / f"{i:02d}.{'png' if i % 2 else 'jpg'}")
    recipe = tiny("views=tta-flips", "mode=frozen", "backbone=test_convnext")
    with pytest.raises(TrustqError) as error:
        extract_one(rows(root), recipe, tmp_path)
    assert str(error.value).startswith(
        "The view tta-flips changes nothing: the network's features are those of the clean images."
    )


def test_passes_of_a_network_without_dropout_are_an_error(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trustq.extraction.dump.views import DropoutPasses

    class Plain(torch.nn.Module):
        def forward_features(self, images: Any) -> Any:
            return images

        def forward_head(self, maps: Any) -> Any:
            return maps.mean(dim=(2, 3))

    with pytest.raises(TrustqError) as error:
        DropoutPasses(Plain(), 5, drop_rate=0.3)
    assert str(error.value) == (
        "passes=5: this Plain has no active dropout (drop_rate=0.3), so its passes would say "
        "nothing. Use another backbone, or leave passes out."
    )
    idle = Plain()
    idle.unused = torch.nn.Dropout(0.3)
    images = torch.zeros(2, 3, 4, 4)
    with pytest.raises(TrustqError, match="gives the same logits in every pass"):
        DropoutPasses(idle, 5, drop_rate=0.3).logits(images, images, 0)
    assert not idle.unused.training


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            ["passes=20"],
            "passes=20 needs dropout in the network, but drop_rate is 0, so every pass would be "
            "the same. Train with dropout, e.g. `drop_rate=0.3`.",
        ),
        (
            ["passes=20", "drop_rate=0.3", "mode=frozen"],
            "passes=20 needs a classifier, which a frozen backbone has not. Train one, or leave "
            "passes out.",
        ),
        (["passes=1", "drop_rate=0.3"], "passes is 1, expected 0 (none) or at least 2."),
        (["drop_rate=1.0"], "drop_rate is 1, expected 0 to less than 1."),
        (
            ["views=jpg-1"],
            "There is no view 'jpg-1' (did you mean 'jpeg-1'?). There are tta, tta-flips, "
            "flip-left-right, flip-upside-down, transpose, the groups corruptions, audit, "
            "medmnist-c, flips, noise, blur, jpeg, light, rotation, cast, down-up, and "
            f"{', '.join(n for n in corruptions.CORRUPTIONS if not n.startswith('mc-'))}, "
            "mc-pixelate-1, ....",
        ),
    ],
)
def test_what_cannot_be_stored_is_told_before_anything_runs(
    settings: list[str], message: str, manifest: Manifest, tmp_path: Path
) -> None:
    with pytest.raises(TrustqError) as error:
        extract_one(manifest, tiny(*settings), tmp_path)
    assert str(error.value) == message


def test_a_map_that_is_no_grid_is_told_before_training(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trustq.extraction.train.weights import grid_of, make_network

    network = make_network("test_convnext", n_classes=3, image_size=32)
    with pytest.raises(TrustqError) as error:
        grid_of(network, torch.zeros(2, 64))
    assert str(error.value) == (
        "maps: the last feature map of this ConvNeXt has shape (64,), which is no grid of places. "
        "Leave maps out."
    )


# --- how images are fitted -----------------------------------------------------------------------


def test_aspect_squashes_crops_or_pads() -> None:
    from trustq.extraction.inputs.images import Preprocessing

    image = Image.new("RGB", (80, 40), (10, 10, 10))
    image.paste((250, 0, 0), (0, 0, 20, 40))  # the left quarter
    image.paste((0, 250, 0), (60, 0, 80, 40))  # the right one

    def seen(aspect: str) -> np.ndarray:
        fitted = Preprocessing(40, "nearest", (0.5, 0.4, 0.2), (1,) * 3, aspect).fitted(image)
        return np.asarray(fitted).astype(int)

    squashed, cropped, padded = (seen(aspect) for aspect in ("squash", "crop", "pad"))
    assert (squashed[:, :10, 0] == 250).all() and (squashed[:, 30:, 1] == 250).all()
    assert (cropped == 10).all()
    assert (padded[10:30, :10, 0] == 250).all() and (padded[10:30, 30:, 1] == 250).all()
    for band in (padded[:10], padded[30:]):
        assert (band == (128, 102, 51)).all()
    part = Preprocessing(40, "nearest", (0.5,) * 3, (1,) * 3, "squash").fitted(
        image, (0.0, 0.0, 0.25, 1.0)
    )
    assert (np.asarray(part)[..., 0] == 250).all()


@pytest.mark.parametrize(
    "setting, stored",
    [
        ("aspect=crop", {"resize": "crop", "interpolation": "bicubic"}),
        ("aspect=pad", {"resize": "pad", "interpolation": "bicubic"}),
        ("interpolation=nearest", {"resize": "squash", "interpolation": "nearest"}),
    ],
)
def test_aspect_and_interpolation_change_features_and_are_stored(
    setting: str, stored: dict[str, str], manifest: Manifest, tmp_path: Path
) -> None:
    plain = extract_one(manifest, tiny("mode=frozen"), tmp_path / "plain")
    other = extract_one(manifest, tiny("mode=frozen", setting), tmp_path / "other")
    assert stored.items() <= other.preprocessing.items()
    assert np.abs(other.features - plain.features).max() > 1e-3
    again = extract_with(manifest, [other.path], out=tmp_path / "again", progress=Quiet())
    np.testing.assert_array_equal(read_cache(again[0].path).features, other.features)


def test_random_crop_changes_what_is_trained_on_and_not_what_is_dumped(
    manifest: Manifest, tmp_path: Path
) -> None:
    from trustq.extraction.inputs.augment import Augmentation
    from trustq.extraction.inputs.images import EVALUATION, ImageLoader, Preprocessing

    def batch(epoch: int, *settings: str) -> np.ndarray:
        augmentation = Augmentation.of_recipe(tiny("rotation=0.0", *settings).extract, seed=0)
        loader = ImageLoader(
            manifest,
            [[(epoch, row) for row in range(6)]],
            preprocessing=Preprocessing(32, "bicubic", (0.5,) * 3, (0.5,) * 3),
            augmentation=augmentation,
            workers=0,
            device=torch.device("cpu"),
        )
        return next(iter(loader))[1].numpy()

    assert (batch(0) != batch(0, "random_crop=0.5")).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(batch(EVALUATION), batch(EVALUATION, "random_crop=0.5"))


# --- the file ------------------------------------------------------------------------------------


def test_large_datasets_stay_in_the_file_until_asked_for_and_are_verified_then(
    cache: Cache, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.h5"
    copy.write_bytes(cache.path.read_bytes())
    held = read_cache(copy)
    assert set(held.extra) == set(cache.extra) and len(held.extra) == len(cache.extra)
    assert repr(held.extra).startswith("Extra(classifier/bias, ")
    with h5py.File(copy) as file:
        offset = file["views/noise-3/features"].id.get_offset()
    raw = bytearray(copy.read_bytes())
    raw[offset + 5] ^= 1
    copy.write_bytes(raw)
    with pytest.raises(TrustqError) as error:
        held.view("noise-3")
    assert str(error.value) == (
        f"{copy} has changed since it was read: dataset views/noise-3/features does not match its "
        "digest. Read the cache again."
    )
    held.view("jpeg-3")
    with pytest.raises(TrustqError, match="is damaged: its bytes have digest"):
        read_cache(copy)
    copy.write_bytes(raw[: offset + 4])
    with pytest.raises(TrustqError, match="has become shorter since it was read"):
        held.view("noise-3")


def test_a_cache_with_views_is_written_again_as_it_was(cache: Cache, tmp_path: Path) -> None:
    again = read_cache(write_cache(tmp_path / "again.h5", cache).path)
    assert again.content_digest == cache.content_digest
    for name in cache.extra:
        np.testing.assert_array_equal(again.extra[name], cache.extra[name])


def test_passes_streamed_in_blocks_equal_passes_written_whole(tmp_path: Path) -> None:
    cache = make_cache(n=10)
    passes = np.random.default_rng(0).standard_normal((3, 10, 2)).astype(np.float32)
    whole = write_cache(tmp_path / "whole.h5", replace(cache, extra={"passes/x/logits": passes}))
    spec = {"passes/x/logits": ((3, None, 2), "float32")}
    from trustq.store.format import ATTRIBUTES, ROW_DATASETS

    with writing_cache(tmp_path / "blocks.h5", 10, spec) as writer:
        for name in (*ROW_DATASETS, "features"):
            writer.put(name, getattr(cache, name))
        for start in range(0, 10, 4):
            writer.append("passes/x/logits", passes[:, start : start + 4])
        writer.finish({name: getattr(cache, name) for name in ATTRIBUTES})
    found = read_cache(tmp_path / "blocks.h5")
    assert found.content_digest == whole.content_digest
    np.testing.assert_array_equal(found.passes("x"), passes)


def test_passes_of_other_rows_are_refused(tmp_path: Path) -> None:
    passes = np.zeros((3, 9, 2), np.float32)
    cache = replace(make_cache(n=10), extra={"passes/x/logits": passes})
    write_cache(tmp_path / "a.h5", cache)
    with pytest.raises(TrustqError, match="its datasets have different numbers of rows"):
        read_cache(tmp_path / "a.h5")


def test_a_cache_of_before_these_keys_is_still_the_recipe_s(
    manifest: Manifest, tmp_path: Path
) -> None:
    cache = extract_one(manifest, tiny("mode=frozen"), tmp_path)
    later = ("random_crop", "hue_jitter", "bridging", "aspect", "interpolation", "drop_rate")
    kept = {
        key: value
        for key, value in cache.recipe["extract"].items()
        if key not in (*later, "views", "passes", "maps")
    }
    write_cache(cache.path, replace(cache, recipe=cache.recipe | {"extract": kept}))
    made = extract(manifest, recipe=tiny("mode=frozen"), seeds=[1], out=tmp_path, progress=Quiet())
    assert not made[0].is_new
    with pytest.raises(TrustqError, match="it has aspect 'squash', not 'pad'"):
        extract_one(manifest, tiny("mode=frozen", "aspect=pad"), tmp_path)


def test_a_view_of_the_same_images_is_no_external_test(tmp_path: Path) -> None:
    from trustq.experiments import repair

    cache = make_cache(weights_digest="w")
    views = {
        "views/blur-1/features": cache.features + np.float32(0.1),
        "views/blur-1/parameters": np.array(["{}"]),
    }
    cache = replace(cache, extra=views)
    recipe = load_recipe(settings=["noise=symmetric:0.2"], part="sweep")
    with pytest.raises(TrustqError, match="holds rows of cache of gauss"):
        repair([cache], recipe=recipe, results=tmp_path, externals=[cache.view("blur-1")])


@pytest.mark.parametrize("shape", [(), (0,), (3,), (5, 0), (2, 3, 4)])
def test_optional_datasets_of_any_shape_are_read_back(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    values = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    write_cache(tmp_path / "a.h5", make_cache(n=4, extra={"history/x": values}))
    found = read_cache(tmp_path / "a.h5").extra["history/x"]
    assert found.shape == shape and found.dtype == np.float32
    np.testing.assert_array_equal(found, values)
