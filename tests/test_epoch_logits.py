"""Logits of each epoch: what steps gave for the rows trained on, also after a stop."""

import os
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from support_extract import Heard, extract_one, tiny

from trustq.data.manifest import Manifest
from trustq.errors import TrustqError
from trustq.store import read_cache, verify_cache

pytest.importorskip("torch")
pytest.importorskip("timm")
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")

# Images as they are, and steps that move nothing: each epoch gives what the dump gives.
STILL = (
    *("rotation=0.0", "colour_jitter=0.0", "horizontal_flip=false", "vertical_flip=false"),
    *("learning_rate=1e-12", "weight_decay=0.0", "checkpoint=last"),
)


def test_each_epoch_has_the_logits_of_its_training_rows_and_no_others(
    manifest: Manifest, tmp_path: Path
) -> None:
    cache = extract_one(manifest, tiny(*STILL), tmp_path)
    epochs = cache.epoch_logits
    trained = cache.observed >= 0
    assert epochs.shape == (2, len(cache), 3) and epochs.dtype == np.float32
    assert np.isnan(epochs[:, ~trained]).all() and trained.sum() < len(cache)
    for logits in epochs:
        np.testing.assert_allclose(logits[trained], cache.logits[trained], rtol=1e-4, atol=1e-4)
    verify_cache(cache.path)


def test_logits_change_from_epoch_to_epoch_as_the_network_learns(
    manifest: Manifest, tmp_path: Path
) -> None:
    cache = extract_one(manifest, tiny("epochs=3", "extract.noise=none"), tmp_path)
    one, two, three = cache.epoch_logits[:, cache.observed >= 0]
    assert not np.allclose(one, two) and not np.allclose(two, three)


def test_a_weighted_sampler_leaves_rows_that_were_not_drawn_blank(
    manifest: Manifest, tmp_path: Path
) -> None:
    cache = extract_one(manifest, tiny("sampling=class_balanced"), tmp_path)
    blank = np.isnan(cache.epoch_logits[:, cache.observed >= 0]).all(axis=2)
    assert blank.any() and not blank.all()


def test_mixed_images_and_a_cache_without_say_so(manifest: Manifest, tmp_path: Path) -> None:
    heard = Heard()
    cache = extract_one(manifest, tiny("mixup=0.2", "epochs=1"), tmp_path, progress=heard)
    assert "epochs/logits" not in cache.extra
    assert any(
        line.startswith("The logits of epochs are not stored: steps") for line in heard.lines
    )
    with pytest.raises(TrustqError, match="holds no logits of its epochs"):
        cache.epoch_logits  # noqa: B018


def test_a_cache_of_a_trustq_without_the_setting_is_still_that_recipes_cache(
    manifest: Manifest, tmp_path: Path
) -> None:
    cache = extract_one(manifest, tiny("epochs=1"), tmp_path)
    import h5py

    from trustq.core.digest import canonical_json
    from trustq.store import write_cache

    recipe = dict(cache.recipe)
    recipe["extract"] = {k: v for k, v in recipe["extract"].items() if k != "epoch_logits"}
    extra = {name: cache.extra[name] for name in cache.extra if not name.startswith("epochs/")}
    path = cache.path
    cache.recipe, cache.extra = recipe, extra
    write_cache(path, cache)
    with h5py.File(path) as file:
        assert "epoch_logits" not in canonical_json(file.attrs["recipe"])
    heard = Heard()
    extract_one(manifest, tiny("epochs=1"), tmp_path, progress=heard)
    assert any("is there already" in line for line in heard.lines)


def test_lost_logits_of_earlier_epochs_start_the_training_anew(
    manifest: Manifest, tmp_path: Path
) -> None:
    whole = extract_one(manifest, tiny(), tmp_path / "whole")

    def stop(what: str, done: int) -> None:
        if what == "epoch 2/2" and done >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_one(manifest, tiny(), tmp_path, progress=Heard(at=stop))
    (tmp_path / "shapes" / "tiny" / ".seed5.epochs.npy").unlink()
    heard = Heard()
    again = extract_one(manifest, tiny(), tmp_path, progress=heard)
    assert any("is not there as" in line and "starts anew" in line for line in heard.lines)
    assert again.content_digest == whole.content_digest
    assert read_cache(again.path).digest == again.digest
