"""Maps that the GPU stage stores, and Grad-CAM from them on a CPU: equal to the network's own."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from trustq.data.manifest import Manifest, make_manifest
from trustq.errors import TrustqError
from trustq.explain.activation_maps import (
    LinearHead,
    cache_maps,
    cache_maps_of_every_class,
    class_activation_maps,
    every_class,
    scaled,
)
from trustq.extraction import extract, extract_with
from trustq.extraction.dump.reuse_networks import some_rows
from trustq.recipes import load_recipe
from trustq.store import Cache, read_cache, verify_cache

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
from trustq.extraction.dump import cache_dump  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

N = 12
SIZE = 64
TINY = (
    "pretrained=false",
    f"image_size={SIZE}",
    "batch_size=6",
    "epochs=1",
    "warmup_epochs=0",
    "learning_rate=1e-2",
    "checkpoint=last",
    "workers=0",
)


class Quiet:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: dict[str, list[int]] = {}

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def images(self, what: str, total: int) -> Iterator[Callable[[int, str], None]]:
        steps = self.steps.setdefault(what, [])
        yield lambda done, figure="": steps.append(done)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(N):
        pixels = rng.integers(60, 200, (SIZE, SIZE, 3)).astype(np.uint8)
        pixels[10 : 20 + 8 * (i % 3), 30:50] //= 3
        Image.fromarray(pixels).save(root / f"{i:02d}.png")
    values = {
        "sample_id": [f"s{i:02d}" for i in range(N)],
        "path": [f"{i:02d}.png" for i in range(N)],
        "label": ["abc"[i % 3] for i in range(N)],
        "group_id": [f"g{i:02d}" for i in range(N)],
        "split": [("train", "val", "test")[i // 3 % 3] for i in range(N)],
        "dataset": ["boxes"] * N,
        "domain": ["drawn"] * N,
    }
    columns = {name: np.array(column, dtype=object) for name, column in values.items()}
    return make_manifest(columns, classes="abc", root=root, source="test")


def trained(manifest: Manifest, out: Path, *settings: str) -> Cache:
    recipe = replace(load_recipe(settings=[*TINY, *settings], part="extract"), name="tiny")
    made = extract(manifest, recipe=recipe, seeds=[1], out=out, progress=Quiet())
    return read_cache(made[0].path, manifest=manifest)


@pytest.fixture(scope="module")
def full(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """ConvNeXt, a norm after its pooling, with all that can be stored."""
    return trained(
        manifest,
        tmp_path_factory.mktemp("full"),
        "backbone=test_convnext",
        "maps=true",
        "explain=gradcam,scorecam",
        "views=flips,noise-3,tta",
        "passes=3",
        "pass_drop=spatial:0.3",
        "explain_checks=5",
    )


def network_of(cache: Cache) -> Any:
    from safetensors.torch import load_file

    options = {"img_size": SIZE} if "vit" in cache.backbone else {}
    model = timm.create_model(cache.backbone, num_classes=len(cache.classes), **options)
    model.load_state_dict(load_file(cache.path.with_suffix(".safetensors")))
    return model.eval()


def inputs_of(cache: Cache, manifest: Manifest) -> Any:
    mean, std = cache.preprocessing["mean"], cache.preprocessing["std"]
    images = []
    for row in range(len(manifest)):
        image = Image.open(manifest.image_path(row)).convert("RGB")
        images.append((np.asarray(image, np.float32) / 255 - mean) / std)
    return torch.from_numpy(np.stack(images).astype(np.float32).transpose(0, 3, 1, 2))


def autograd_maps(
    model: Any, images: Any, classes: np.ndarray, *, rounded: bool = False
) -> np.ndarray:
    """Grad-CAM as the paper has it, by torch alone; `rounded`: of the map in float16."""
    with torch.no_grad():
        last = model.forward_features(images)
        last = last.half().float() if rounded else last
    last = last.requires_grad_(True)
    score = model.forward_head(last)[torch.arange(len(images)), torch.from_numpy(classes)].sum()
    (gradient,) = torch.autograd.grad(score, last)
    last = last.detach()
    if getattr(model, "output_fmt", "") == "NHWC":
        raw = (last * gradient.mean(dim=(1, 2), keepdim=True)).sum(dim=3)
    else:
        raw = (last * gradient.mean(dim=(2, 3), keepdim=True)).sum(dim=1)
    return np.asarray(raw.clamp_min(0).numpy())


# --- exact maps on a CPU -------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["test_convnext", "test_resnet", "test_efficientnet"])
def test_maps_from_stored_features_are_those_of_autograd(
    backbone: str, manifest: Manifest, full: Cache, tmp_path: Path
) -> None:
    cache = full
    if backbone != "test_convnext":
        cache = trained(manifest, tmp_path, f"backbone={backbone}", "maps=true")
    head = LinearHead.of_cache(cache)
    assert (head.norm is not None) == (backbone == "test_convnext")
    model, images = network_of(cache), inputs_of(cache, manifest)
    for classes in (cache.logits.argmax(axis=1), np.full(N, 2)):
        ours = cache_maps(cache, head, classes)
        same = autograd_maps(model, images, classes, rounded=True)
        np.testing.assert_allclose(scaled(ours), scaled(same), atol=1e-4)
        # Maps are stored in float16; few channels and a norm, whose parts cancel, are the worst.
        theirs = autograd_maps(model, images, classes)
        np.testing.assert_allclose(scaled(ours), scaled(theirs), atol=3e-3)


@pytest.mark.parametrize("backbone", ["test_convnext", "test_resnet", "test_efficientnet"])
def test_maps_stored_in_float32_are_those_of_autograd_within_1e_4(
    backbone: str, manifest: Manifest, tmp_path: Path
) -> None:
    settings = f"backbone={backbone}", "maps=true", "map_precision=float32"
    cache = trained(manifest, tmp_path, *settings, "passes=2", "pass_drop=spatial:0.3")
    assert cache.extra["maps"].dtype == cache.extra["passes/spatial/maps"].dtype == np.float32
    head = LinearHead.of_cache(cache)
    model, images = network_of(cache), inputs_of(cache, manifest)
    for classes in (cache.logits.argmax(axis=1), np.full(N, 2)):
        ours, theirs = cache_maps(cache, head, classes), autograd_maps(model, images, classes)
        np.testing.assert_allclose(scaled(ours), scaled(theirs), atol=1e-4)


@pytest.mark.parametrize("has_norm", [False, True])
def test_maps_of_unrounded_features_are_those_of_autograd_within_1e_5(has_norm: bool) -> None:
    torch.manual_seed(0)
    maps = torch.randn(6, 5, 4, 32, dtype=torch.float64).abs()
    norm, linear = torch.nn.LayerNorm(32).double(), torch.nn.Linear(32, 3).double()
    torch.nn.init.normal_(norm.weight)
    maps.requires_grad_(True)
    pooled = maps.mean(dim=(1, 2))
    logits = linear(norm(pooled) if has_norm else pooled)
    classes = np.array([0, 1, 2, 2, 1, 0])
    (gradient,) = torch.autograd.grad(
        logits[torch.arange(6), torch.from_numpy(classes)].sum(), maps
    )
    expected = torch.einsum("bhwc,bc->bhw", maps, gradient.mean(dim=(1, 2))).detach().numpy()
    from trustq.explain.activation_maps import LayerNorm

    ours = LayerNorm(norm.weight.detach().numpy(), norm.bias.detach().numpy(), norm.eps)
    head = LinearHead(
        linear.weight.detach().numpy(), linear.bias.detach().numpy(), ours if has_norm else None
    )
    array = maps.detach().numpy()
    found = class_activation_maps(array, head, classes, positive=False)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    every = every_class(array, head, positive=False)
    np.testing.assert_allclose(every[np.arange(6), classes], expected, atol=1e-5)


def test_maps_of_every_class_are_those_of_each(full: Cache) -> None:
    head = LinearHead.of_cache(full)
    blocks = list(cache_maps_of_every_class(full, head))
    every = np.concatenate([block for _, block in blocks])
    for k in range(3):
        one = cache_maps(full, head, np.full(N, k))
        np.testing.assert_allclose(every[:, k], one, rtol=1e-4, atol=1e-6)


def test_the_mean_of_a_map_is_the_logit_less_its_bias_without_a_norm() -> None:
    rng = np.random.default_rng(0)
    head = LinearHead(rng.normal(size=(4, 8)), rng.normal(size=4))
    maps = rng.normal(size=(5, 3, 3, 8))
    found = every_class(maps, head, positive=False).sum(axis=(2, 3))
    np.testing.assert_allclose(found, maps.mean(axis=(1, 2)) @ head.weight.T, rtol=1e-4, atol=1e-6)


# --- what the GPU stage stores -------------------------------------------------------------------


def test_stored_grad_cam_is_that_of_the_maps_in_every_view_and_pass(full: Cache) -> None:
    head = LinearHead.of_cache(full)
    classes = full.extra["explanations/class"].astype(int)
    np.testing.assert_array_equal(classes, full.logits.argmax(axis=1))
    for prefix in ("", "views/flip-left-right/", "views/transpose/", "views/noise-3/"):
        found = full.extra[f"{prefix}explanations/gradcam/maps"].astype(np.float32)
        raw = found * full.extra[f"{prefix}explanations/gradcam/scale"][:, None, None]
        ours = cache_maps(full, head, classes, path=f"{prefix}maps")
        np.testing.assert_allclose(raw, ours, rtol=5e-3, atol=5e-3 * max(ours.max(), 1e-6))
    for i in range(3):
        ours = cache_maps(full, head, classes, path="passes/spatial/maps", index=i)
        stored = full.extra["passes/spatial/explanations/gradcam/maps"][i].astype(np.float32)
        np.testing.assert_allclose(scaled(ours), stored, atol=5e-3)
    assert "views/tta/maps" not in full.extra  # a mean over symmetries has no map
    assert verify_cache(full.path).datasets


def test_passes_move_maps_and_the_same_recipe_gives_the_same_ones(
    full: Cache, manifest: Manifest, tmp_path: Path
) -> None:
    moved = full.extra["passes/spatial/maps"]
    assert moved.shape[:2] == (3, N) and moved.dtype == np.float16
    assert np.abs(moved[0].astype(float) - full.extra["maps"].astype(float)).max() > 0.01
    asked = {"pass_drop": "spatial:0.3", "passes": 3, "maps": True}
    said = Quiet()
    made = extract_with(
        some_rows(manifest, "train,val,test"),
        [full.path],
        out=tmp_path,
        name="again",
        settings=asked,
        progress=said,
    )
    again = read_cache(made[0].path)
    np.testing.assert_array_equal(again.extra["passes/spatial/maps"], moved)
    np.testing.assert_array_equal(again.passes("spatial"), full.extra["passes/spatial/logits"])
    assert any("2 x 2 x 64, float16; 2,048 bytes an image" in text for text in said.said)
    assert json.loads(str(again.extra["passes/spatial/parameters"][0])) == {
        "dropped": "channels of the last map",
        "rate": 0.3,
    }


def test_residual_branches_are_dropped_and_put_back(full: Cache, manifest: Manifest) -> None:
    from trustq.extraction.dump.views import MovingPasses

    model, images = network_of(full), inputs_of(full, manifest)
    for block in model.modules():  # layer scale begins so small that no branch is felt
        if isinstance(getattr(block, "gamma", None), torch.nn.Parameter):
            torch.nn.init.ones_(block.gamma)
    with torch.inference_mode():
        clean = model.forward_features(images)
        passes = MovingPasses(model, 4, kind="path", rate=0.5)
        found = [(moved, again()) for moved, again in passes.last_maps(images, clean, 0)]
        np.testing.assert_array_equal(model.forward_features(images), clean)
    assert all(torch.equal(moved, again) for moved, again in found)
    assert len({float(moved.sum()) for moved, _ in found}) == 4


def score_cam(model: Any, image: Any, of_class: int, n_channels: int | None = None) -> np.ndarray:
    """Score-CAM of one image, by channels of the largest spread, written apart from ours."""
    with torch.no_grad():
        channels = model.forward_features(image)[0]
        taken = np.argsort(-channels.flatten(1).var(dim=1).numpy())[:n_channels]
        channels = channels[taken.tolist()]
        scores = []
        for channel in channels:
            large = torch.nn.functional.interpolate(
                channel[None, None], size=(SIZE, SIZE), mode="bilinear"
            )[0, 0]
            mask = (large - large.min()) / (large.max() - large.min()).clamp_min(1e-8)
            scores.append(model(image * mask)[0, of_class])
        weights = torch.stack(scores).softmax(dim=0)
        return scaled((channels * weights[:, None, None]).sum(dim=0).clamp_min(0).numpy())


def test_score_cam_is_the_channels_weighed_by_what_is_seen_through_them(
    full: Cache, manifest: Manifest
) -> None:
    images, row = inputs_of(full, manifest), 4
    of_class = int(full.extra["explanations/class"][row])
    expected = score_cam(network_of(full), images[row : row + 1], of_class)
    stored = full.extra["explanations/scorecam/maps"][row].astype(float)
    np.testing.assert_allclose(stored, expected, atol=2e-3)


def test_score_cam_of_some_channels_takes_those_of_the_largest_spread(
    full: Cache, manifest: Manifest, tmp_path: Path
) -> None:
    heard = Quiet()
    made = extract_with(
        manifest,
        [full.path],
        out=tmp_path,
        name="some",
        settings={"explain": ("scorecam:5",), "explain_checks": 2},
        progress=heard,
    )
    some = read_cache(made[0].path, manifest=manifest)
    images, row = inputs_of(full, manifest), 4
    of_class = int(some.extra["explanations/class"][row])
    expected = score_cam(network_of(full), images[row : row + 1], of_class, 5)
    stored = some.extra["explanations/scorecam/maps"][row].astype(float)
    np.testing.assert_allclose(stored, expected, atol=2e-3)
    assert json.loads(str(some.extra["explanations/scorecam/parameters"][0]))["channels"] == 5
    # What it takes is told before, in forward passes and time, and how far it is while it lasts.
    (told,) = [line for line in heard.said if "forward passes" in line]
    assert told.startswith(f"scorecam takes 5 forward passes an image, {5 * N + 5 * 20:,} in all: ")
    assert heard.steps["features of seed 1 and scorecam, masked"] == [
        *range(5, 5 * N + 1, 5),
        5 * N,
    ]
    assert heard.steps["testing scorecam, masked"][-1] <= 5 * 20


def test_a_long_score_cam_says_how_it_would_be_shorter(
    full: Cache, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_dump, "LONG", 0.0)
    monkeypatch.setattr(cache_dump, "FEW_CHANNELS", 3)
    heard = Quiet()
    extract_with(
        manifest,
        [full.path],
        out=tmp_path,
        name="all",
        settings={"explain": ("scorecam",)},
        progress=heard,
    )
    assert any("`explain=scorecam:3` takes the 3 channels" in line for line in heard.said)


def test_checks_of_explanations_begin_and_end_where_they_must(full: Cache) -> None:
    rows = full.extra["explanations/checked_rows"]
    assert len(rows) == 5 and len(set(rows.tolist())) == 5
    probs = np.exp(full.logits - full.logits.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    own = probs[rows, full.extra["explanations/class"][rows]]
    for kind in ("deletion", "flipping"):
        for control in ("", "_random"):
            curve = full.extra[f"explanations/gradcam/checks/{kind}{control}"]
            np.testing.assert_allclose(curve[:, 0], own, atol=1e-4)
            assert np.ptp(curve[:, -1]) > -1  # the mean colour's own answer
    insertion = full.extra["explanations/gradcam/checks/insertion"]
    np.testing.assert_allclose(insertion[:, -1], own, atol=1e-4)
    stages = [str(text) for text in full.extra["explanations/gradcam/checks/stages"]]
    maps = full.extra["explanations/gradcam/checks/randomised"]
    assert stages[0] == "as trained" and stages[1].startswith("down to head")
    assert maps.shape == (len(stages), 5, 2, 2)
    np.testing.assert_allclose(maps[0], full.extra["explanations/gradcam/maps"][rows], atol=2e-3)
    assert np.abs(maps[-1].astype(float) - maps[0]).max() > 0.1


# --- second opinions -----------------------------------------------------------------------------


def test_grad_cam_is_that_of_captum(full: Cache, manifest: Manifest) -> None:
    attr = pytest.importorskip("captum.attr")
    model, images = network_of(full), inputs_of(full, manifest)
    classes = full.logits.argmax(axis=1)
    layer = attr.LayerGradCam(model, model.norm_pre)
    theirs = layer.attribute(images, target=torch.from_numpy(classes), relu_attributions=True)[:, 0]
    ours = cache_maps(full, LinearHead.of_cache(full), classes)
    np.testing.assert_allclose(scaled(ours), scaled(theirs.detach().numpy()), atol=3e-3)


@pytest.mark.parametrize("method", ["gradcam", "scorecam"])
def test_maps_are_those_of_pytorch_grad_cam_after_its_scaling(
    method: str, full: Cache, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = pytest.importorskip("pytorch_grad_cam")
    # It enlarges masks corner to corner, unlike the paper's code and ours.
    monkeypatch.setattr(
        torch.nn, "UpsamplingBilinear2d", lambda size: torch.nn.Upsample(size, mode="bilinear")
    )
    from pytorch_grad_cam.utils.image import scale_cam_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, images = network_of(full), inputs_of(full, manifest)[:4]
    classes = full.extra["explanations/class"][:4].astype(int)
    kind = {"gradcam": library.GradCAM, "scorecam": library.ScoreCAM}[method]
    with kind(model=model, target_layers=[model.norm_pre]) as cam:
        theirs = cam(input_tensor=images, targets=[ClassifierOutputTarget(c) for c in classes])
    stored = full.extra[f"explanations/{method}/maps"][:4].astype(np.float32)
    # It scales from the least value, enlarges, and scales once more.
    ours = scale_cam_image(scale_cam_image(stored, (SIZE, SIZE)))
    np.testing.assert_allclose(ours, theirs, atol=1e-2)


def test_a_class_token_is_explained_where_gradients_reach(
    manifest: Manifest, tmp_path: Path
) -> None:
    cache = trained(manifest, tmp_path, "backbone=test_vit", "explain=gradcam", "maps=true")
    said = json.loads(str(cache.extra["explanations/gradcam/parameters"][0]))
    assert said["layer"] == "blocks[-1].norm1"
    maps = cache.extra["explanations/gradcam/maps"].astype(float)
    assert maps.shape == (N, 4, 4) and (maps.max(axis=(1, 2)) > 0.99).any()
    with pytest.raises(TrustqError) as error:
        LinearHead.of_cache(cache)
    assert str(error.value) == (
        f"The head of test_vit in {cache.path} is not linear on its pooled map (its features are "
        "not the means of its last map), so its maps cannot be weighed here. Let the network "
        "explain itself: `trustq extract`, `with=CACHE`, `explain=gradcam` and `name=NAME`."
    )


# --- what cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            ["explain=lime"],
            "There is no explanation 'lime'; there are gradcam, scorecam.",
        ),
        (
            ["explain=scorecam:0"],
            "explain has 'scorecam:0', expected gradcam, scorecam, or scorecam:N for the N "
            "channels of the largest spread, e.g. scorecam:64.",
        ),
        (
            ["explain=gradcam:64"],
            "explain has 'gradcam:64', expected gradcam, scorecam, or scorecam:N for the N "
            "channels of the largest spread, e.g. scorecam:64.",
        ),
        (
            ["explain=scorecam,scorecam:4"],
            "explain=scorecam,scorecam:4 names an explanation twice: store the second one under "
            "another `name`.",
        ),
        (
            ["explain=gradcam", "mode=frozen"],
            "explain=gradcam explains a class, and a frozen backbone has no classifier. Train one, "
            "or store its maps (`maps=true`) and explain a head's classes.",
        ),
        (
            ["explain_checks=5"],
            "explain_checks=5 needs an explanation to test and a number of rows, e.g. "
            "`explain=gradcam` and `explain_checks=64`.",
        ),
        (
            ["pass_drop=path:0.1"],
            "pass_drop=path:0.1 says what passes drop, but passes is 0. Ask for some, e.g. "
            "`passes=20`, or leave pass_drop out.",
        ),
        (
            ["passes=4", "pass_drop=path:2"],
            "pass_drop is 'path:2', expected dropout, path:RATE or spatial:RATE with a rate "
            "between 0 and 1, e.g. `pass_drop=path:0.1`.",
        ),
        (
            ["explain=gradcam", "explain_class=d"],
            "explain_class: unknown class 'd'; expected one of a, b, c",
        ),
    ],
)
def test_what_cannot_be_explained_is_told(
    settings: list[str], message: str, manifest: Manifest, tmp_path: Path
) -> None:
    with pytest.raises(TrustqError) as error:
        trained(manifest, tmp_path, "backbone=test_convnext", *settings)
    assert str(error.value) == message


def test_maps_missing_is_told_with_the_way_to_have_them(full: Cache) -> None:
    without = replace(full, extra={k: full.extra[k] for k in full.extra if k != "maps"})
    with pytest.raises(TrustqError) as error:
        LinearHead.of_cache(without)
    assert str(error.value) == (
        f"{full.path} has no maps. Store them through the same network with `trustq extract`, "
        "`with=CACHE`, `maps` and `name=NAME`."
    )


def test_some_rows_of_a_split_are_a_fixed_sample(manifest: Manifest) -> None:
    assert some_rows(manifest, "test").columns["split"].tolist() == ["test"] * 3
    one = some_rows(manifest, "train,test:4").columns["sample_id"].tolist()
    assert one == some_rows(manifest, "train,test:4").columns["sample_id"].tolist()
    assert len(one) == 4 and one == sorted(one)
    with pytest.raises(TrustqError, match="No row is in the split tset; the manifest has test, "):
        some_rows(manifest, "tset")
    with pytest.raises(TrustqError, match="only=test:9: expected a number of rows from 1 to 3."):
        some_rows(manifest, "test:9")
