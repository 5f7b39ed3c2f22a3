"""A dump by OpenVINO is torch's within 5e-5, says so in the cache, and is never taken silently."""

import copy
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_extract import Heard, extract_one, tiny
from trustq.cli import app
from typer.testing import CliRunner

from trustq.data.manifest import Manifest, write_manifest
from trustq.errors import InputError, MissingExtra, TrustqError
from trustq.extraction import extract_with
from trustq.extraction.jobs import recipe_attribute
from trustq.recipes import ExtractRecipe, Recipe
from trustq.store import read_attributes, read_cache, verify_cache

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

FROZEN = ("mode=frozen", "extract.noise=none")
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed"
)
# Newer Pythons warn of the fork that torch's loading processes are made by.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")


def with_moved_norms(model: Any) -> None:
    """Another network: every norm and bias is moved."""
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "norm" in name or "bn" in name or name.endswith("bias"):
            parameter.data += 0.3 * torch.randn_like(parameter)


def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def found(name: str, package: str | None = None) -> Any:
        return None if name == "openvino" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", found)


@needs_openvino
@pytest.mark.parametrize("backbone", ["test_convnext", "test_efficientnet", "test_vit"])
def test_openvino_gives_torchs_features_within_its_tolerance_and_the_cache_says_so(
    manifest: Manifest, tmp_path: Path, backbone: str
) -> None:
    settings = (*FROZEN, f"backbone={backbone}", "extract.image_size=64")
    one = extract_one(manifest, tiny(*settings), tmp_path / "torch")
    two = extract_one(manifest, tiny(*settings, "engine=openvino"), tmp_path / "openvino")
    scale = np.abs(one.features).max()
    assert two.features.dtype == np.float32
    assert np.abs(two.features - one.features).max() <= 5e-5 * scale
    assert np.abs(one.features - one.features[:1]).max() > 1e-2 * scale  # rows do differ
    verify_cache(two.path)
    assert one.versions["engine"] == "torch" and "openvino" not in one.versions
    assert two.versions["engine"] == "openvino" and two.versions["openvino"][:2] == "20"
    assert two.recipe["extract"]["engine"] == "openvino"
    assert "engine" not in one.recipe["extract"]  # so that keys stay what they were


@needs_openvino
def test_a_trained_networks_logits_and_views_come_from_openvino_too(
    manifest: Manifest, tmp_path: Path
) -> None:
    views = ("views=tta,blur-2", "epochs=1", "warmup_epochs=0")
    one = extract_one(manifest, tiny(*views), tmp_path / "torch")
    two = extract_one(manifest, tiny(*views, "engine=openvino"), tmp_path / "openvino")
    assert one.extra.keys() == two.extra.keys()
    arrays = {"features": (one.features, two.features), "logits": (one.logits, two.logits)}
    for name in ("features", "logits"):
        for view in ("tta", "blur-2"):
            path = f"views/{view}/{name}"
            arrays[path] = (one.extra[path], two.extra[path])
    arrays["members"] = (one.extra["passes/tta/logits"], two.extra["passes/tta/logits"])
    for name, (expected, found) in arrays.items():
        assert np.abs(found - expected).max() <= 5e-5 * np.abs(expected).max(), name
    np.testing.assert_array_equal(one.extra["classifier/weight"], two.extra["classifier/weight"])


@needs_openvino
def test_a_row_has_the_same_bits_whatever_is_beside_it_and_whatever_the_threads(
    manifest: Manifest, tmp_path: Path
) -> None:
    recipe = tiny(*FROZEN, "engine=openvino")
    whole = extract_one(manifest, recipe, tmp_path / "whole")
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2 if n_threads == 1 else 1)
    try:
        rows = np.arange(5, 43)
        part = extract_one(manifest.subset(rows), recipe, tmp_path / "part")
    finally:
        torch.set_num_threads(n_threads)
    np.testing.assert_array_equal(part.features, whole.features[rows])


@needs_openvino
def test_a_network_that_openvino_computes_otherwise_is_refused(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trustq.extraction.dump import engines

    convert = engines._converted

    def other(network: Any, *args: Any, **options: Any) -> Any:
        moved = copy.deepcopy(network)
        with_moved_norms(moved.model)
        return convert(moved, *args, **options)

    monkeypatch.setattr(engines, "_converted", other)
    message = r"OpenVINO 20.* computes other features than torch .* for the first 16 images: they "
    message += r"differ by .* of the largest, more than 5e-05\. Nothing was written\. Use "
    message += r"`engine=torch`\."
    with pytest.raises(TrustqError, match=f"^{message}$"):
        extract_one(manifest, tiny(*FROZEN, "engine=openvino"), tmp_path)
    assert not list(tmp_path.rglob("*.h5"))


@needs_openvino
def test_an_image_that_is_not_finite_is_named_by_openvino_too(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trustq.extraction import run

    start = run.start_network

    def broken(*args: Any, **options: Any) -> Any:
        network, left_out = start(*args, **options)
        next(network.model.parameters()).data[:] = np.nan
        return network, left_out

    monkeypatch.setattr(run, "start_network", broken)
    with pytest.raises(TrustqError, match=r"00\.jpg is not finite, so nothing was written"):
        extract_one(manifest, tiny(*FROZEN, "engine=openvino"), tmp_path)


def test_a_cache_of_the_other_engine_is_not_taken_for_this_one(
    manifest: Manifest, tmp_path: Path
) -> None:
    extract_one(manifest, tiny(*FROZEN), tmp_path)
    asked = tiny(*FROZEN, "engine=auto")
    with pytest.raises(InputError, match=r"it has engine 'torch', not 'auto'"):
        extract_one(manifest, asked, tmp_path)
    heard = Heard()
    extract_one(manifest, asked, tmp_path / "auto", progress=heard)
    assert any(line.startswith("engine=auto: ") for line in heard.lines)
    with pytest.raises(InputError, match=r"it has engine 'auto', not 'torch'"):
        extract_one(manifest, tiny(*FROZEN), tmp_path / "auto")


def test_auto_is_torch_where_openvino_is_missing_or_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    from trustq.extraction.dump.engines import chosen_engine

    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    auto = ExtractRecipe(engine="auto")
    assert chosen_engine(auto, gpu) == ("torch", "on cuda, and OpenVINO computes on a CPU")
    mapped = ExtractRecipe(engine="auto", maps=True)
    assert chosen_engine(mapped, cpu) == ("torch", "maps asked for, which torch alone computes")
    without_openvino(monkeypatch)
    assert chosen_engine(auto, cpu) == ("torch", "OpenVINO is not installed")


def test_openvino_that_is_missing_or_cannot_is_told_before_any_training(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = r"engine=openvino: maps asked for, which torch alone computes\. Use `engine=torch`, "
    with pytest.raises(InputError, match=f"^{message}or auto\\.$"):
        extract_one(manifest, tiny("maps=true", "engine=openvino"), tmp_path)
    without_openvino(monkeypatch)
    message = r"engine=openvino needs OpenVINO:\n  pip install 'trustq\[openvino\]'\n"
    with pytest.raises(MissingExtra, match=f"^{message}Or use `engine=torch`\\.$"):
        extract_one(manifest, tiny("engine=openvino"), tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_torch_recipe_is_stated_as_before_there_were_engines() -> None:
    assert "engine" not in recipe_attribute(Recipe())["extract"]


@needs_openvino
def test_networks_of_caches_are_dumped_again_by_the_engine_that_is_asked_for(
    manifest: Manifest, tmp_path: Path
) -> None:
    one = extract_one(manifest, tiny("epochs=1", "warmup_epochs=0"), tmp_path)
    made = extract_with(
        manifest,
        [one.path],
        out=tmp_path,
        name="again",
        settings={"engine": "openvino", "workers": 0},
        progress=Heard(),
    )
    two = read_cache(made[0].path)
    assert two.versions["engine"] == "openvino"
    assert np.abs(two.logits - one.logits).max() <= 5e-5 * np.abs(one.logits).max()
    shutil.copy(one.path.with_suffix(".safetensors"), two.path.with_suffix(".safetensors"))
    made = extract_with(
        manifest, [two.path], out=tmp_path, name="back", settings={"workers": 0}, progress=Heard()
    )
    back = read_attributes(made[0].path)
    assert back["versions"]["engine"] == "torch" and "engine" not in back["recipe"]["extract"]


def test_the_command_takes_the_engine(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_manifest(manifest, path)
    settings = [f"--set={text}" for text in (*FROZEN, "backbone=test_convnext", "workers=0")]
    command = ["extract", str(path), "--no-pretrained", "--image-size=32", *settings]
    command += ["--engine=auto", f"--out={tmp_path}", "--name=auto"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    found = read_attributes(tmp_path / "shapes" / "auto" / "seed0.h5")
    is_there = importlib.util.find_spec("openvino") is not None
    assert found["versions"]["engine"] == ("openvino" if is_there else "torch")
    result = CliRunner().invoke(app, [*command[:-3], "--engine=onnx"])
    assert result.exit_code == 1
    assert "engine" in result.output and "openvino" in result.output
