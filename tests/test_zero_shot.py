"""A zero-shot head is the cosine with its texts, in the classes' order, and reads no label."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import make_cache
from support_cli import invoke

from trustq.audit.folder import read_audit_folder
from trustq.audit.labels import audit_labels
from trustq.audit.reopen import reopen
from trustq.audit.source import open_source
from trustq.errors import InputError, NotFound
from trustq.experiments import repair
from trustq.heads import ZeroShotHead, make_head, read_text_features
from trustq.recipes import Recipe, load_recipe
from trustq.report.audit import write_audit
from trustq.results import run_query
from trustq.store import Cache, read_cache, write_cache


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


def test_a_head_without_a_file_says_where_texts_come_from() -> None:
    with pytest.raises(InputError) as refused:
        make_head("zero_shot", n_classes=3)
    assert "an npz file of text_features, classes and logit_scale" in str(refused.value)
    assert "text tower, whose weights a model hub has, does not run here" in str(refused.value)


def texts_of(cache: Cache, path: Path, *, scale: float = 9.0, seed: int = 1) -> np.ndarray:
    """Write a file of text features near the classes of a cache; its probabilities, by numpy."""
    rng = np.random.default_rng(seed)
    means = [cache.features[cache.label == c].mean(axis=0) for c in range(len(cache.classes))]
    texts = np.array(means) + 0.2 * rng.standard_normal((len(means), cache.features.shape[1]))
    np.savez(path, text_features=texts, classes=np.array(cache.classes), logit_scale=scale)
    images = cache.features.astype(np.float64)
    images /= np.sqrt((images**2).sum(axis=1, keepdims=True))
    texts /= np.sqrt((texts**2).sum(axis=1, keepdims=True))
    weights = np.exp(scale * images @ texts.T)
    return weights / weights.sum(axis=1, keepdims=True)


def recipe(path: object, *further: str) -> Recipe:
    settings = [f"head=zero_shot:{path}", "sweep.noise=symmetric:0.3", "budgets=20"]
    settings += ["references=false", "arms=none,self_confidence,random"]
    return load_recipe(settings=[*settings, *further])


def test_a_repair_scores_by_the_texts_and_its_figures_stay_what_they_were(tmp_path: Path) -> None:
    cache, path = make_cache(n=400), tmp_path / "t.npz"
    probs = texts_of(cache, path)
    repair([cache], recipe=recipe(path), results=tmp_path / "r")

    def asked(sql: str) -> list[Any]:
        return list(run_query(tmp_path / "r", sql).rows)

    stored = asked(
        """SELECT sample_id, probabilities FROM predictions
           WHERE stage = 'uncalibrated' AND split = 'test'"""
    )
    place = {str(name): i for i, name in enumerate(cache.sample_id.tolist())}
    expected = np.array([probs[place[name]] for name, _ in stored])
    assert np.abs(np.array([own for _, own in stored]) - expected).max() < 1e-6
    # Nothing that was bought reached the head, and most of what its scores bought was wrong.
    right = float((probs.argmax(axis=1) == cache.label)[cache.split == "test"].mean())
    figures = "SELECT DISTINCT round(value, 9) FROM metrics WHERE metric = 'accuracy'"
    assert asked(f"{figures} AND split = 'test'") == [(pytest.approx(right),)]
    assert asked("SELECT DISTINCT refit, head FROM runs") == [("none", f"zero_shot:{path}")]
    bought = "SELECT arm, errors_found_total FROM rounds JOIN runs ON key = run WHERE round = 1"
    found = dict(asked(bought))
    assert found["self_confidence"] > 2 * found["random"]
    # The same name with another content is another head.
    again = repair([cache], recipe=recipe(path), results=tmp_path / "r")
    texts_of(cache, path, seed=2)
    anew = repair([cache], recipe=recipe(path), results=tmp_path / "r")
    assert (again.n_new, anew.n_new) == (0, 3)


def test_an_audit_lists_the_labels_that_the_texts_doubt(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "c.h5", make_cache(n=300))
    probs = texts_of(cache, tmp_path / "t.npz")
    head = f"zero_shot:{tmp_path / 't.npz'}"
    assert cache.path is not None
    audit = audit_labels([open_source(cache.path, head=head)], score="self_confidence")
    place = {str(name): i for i, name in enumerate(cache.sample_id.tolist())}
    rows = [place[str(name)] for name in audit.sample_ids.tolist()]
    assert np.abs(audit.quality - probs[rows, cache.label[rows]]).max() < 1e-6
    with pytest.raises(InputError, match=r"`repeats=2` is how often heads are fitted, and here no"):
        open_source(cache.path, head=head, repeats=2)
    write_audit(audit, tmp_path / "audit")
    stored = read_audit_folder(tmp_path / "audit")
    again = reopen(stored).out_of_fold.probs
    np.testing.assert_array_equal(again, audit.sources[0].out_of_fold.probs)
    texts_of(cache, tmp_path / "t.npz", seed=3)
    with pytest.raises(InputError, match="The texts of `head=zero_shot:.*t.npz` have changed"):
        reopen(stored)


def test_a_zero_shot_head_is_refused_without_texts_that_fit(tmp_path: Path) -> None:
    cache, path = make_cache(), tmp_path / "t.npz"
    texts_of(cache, path)

    def refused(kind: type[Exception], message: str, *settings: str) -> None:
        with pytest.raises(kind, match=message):
            repair([cache], recipe=recipe(path, *settings), results=tmp_path / "r")

    refused(InputError, "head is 'zero_shot', expected one of .*zero_shot:FILE", "head=zero_shot")
    refused(NotFound, "none.npz: no such file", "head=zero_shot:none.npz")
    refused(InputError, "the zero_shot:.* head takes no weights", "arms=self_confidence:reweight")
    refused(NotFound, "none.npz: no such file", "ensemble=lda,zero_shot:none.npz")
    np.savez(path, text_features=np.ones((3, 2)), classes=np.array(cache.classes), logit_scale=1.0)
    refused(InputError, "of 2 columns, and the images' features have .*one backbone")
    assert not list((tmp_path / "r").glob("runs/*"))
    with pytest.raises(InputError, match="needs the text features of the classes"):
        make_head("zero_shot", n_classes=3)


def test_zero_shot_is_one_of_the_heads_of_an_ensemble(tmp_path: Path) -> None:
    cache, path = make_cache(n=300), tmp_path / "t.npz"
    texts_of(cache, path)
    settings = ("head=lda", f"ensemble=lda,zero_shot:{path}", "arms=self_confidence@heads,random")
    repair([cache], recipe=recipe(path, *settings), results=tmp_path / "r")
    sql = "SELECT arm, errors_found_total FROM rounds JOIN runs ON key = run WHERE round = 1"
    found = dict(run_query(tmp_path / "r", sql).rows)
    assert found["self_confidence@heads"] > 2 * found["random"]
