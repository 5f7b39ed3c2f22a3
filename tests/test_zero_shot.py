"""A zero-shot head is the cosine with its texts, in the classes' order, and reads no label."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import make_cache
from support_cli import invoke

from trustq.errors import InputError
from trustq.heads import ZeroShotHead, read_text_features
from trustq.store import read_cache, write_cache


def test_logits_are_scaled_cosines_whatever_the_lengths() -> None:
    rng = np.random.default_rng(0)
    images, texts = rng.standard_normal((9, 5)), rng.standard_normal((3, 5))
    head = ZeroShotHead(text_features=texts, logit_scale=20.0, logit_bias=-3.0).fit()
    expected = [[20 * np.dot(i, t) / np.sqrt((i @ i) * (t @ t)) - 3 for t in texts] for i in images]
    assert np.allclose(head.predict_logits(images), expected)
    longer = ZeroShotHead(text_features=texts * 7, logit_scale=20.0, logit_bias=-3.0).fit()
    assert np.allclose(longer.predict_logits(images * 100), expected)
    assert np.allclose(head.fit(images, np.zeros(9)).predict_logits(images), expected)
    with pytest.raises(InputError, match="both must be of one backbone"):
        head.predict_logits(images[:, :4])
    with pytest.raises(InputError, match="not its logarithm"):
        ZeroShotHead(text_features=texts, logit_scale=-1.0).fit()


def test_a_cache_gets_the_logits_of_its_classes_in_their_order(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "c.h5", make_cache())
    rng = np.random.default_rng(1)
    texts = rng.standard_normal((3, cache.features.shape[1]))
    names = np.array(cache.classes)[::-1]
    np.savez(tmp_path / "t.npz", text_features=texts, classes=names, logit_scale=50.0)
    out = tmp_path / "z.h5"
    arguments = ["zero-shot", cache.path, "--texts", tmp_path / "t.npz", "--out", out]
    done: Any = invoke("cache", arguments)
    assert "zero-shot logits of 3 classes" in done.output
    found = read_cache(out)
    head = ZeroShotHead(text_features=texts[::-1], logit_scale=50.0).fit()
    assert found.logits is not None
    assert np.allclose(found.logits, head.predict_logits(cache.features), atol=1e-4)
    assert found.content_digest != cache.content_digest and found.exposure == cache.exposure
    np.savez(tmp_path / "few.npz", text_features=texts[:2], classes=names[:2], logit_scale=1.0)
    with pytest.raises(InputError, match="expected one row for each of"):
        read_text_features(tmp_path / "few.npz", classes=cache.classes)
    np.savez(tmp_path / "bare.npz", text_features=texts, classes=names)
    with pytest.raises(InputError, match="does not state its logit_scale"):
        read_text_features(tmp_path / "bare.npz", classes=cache.classes)
