"""Plug-ins: a package of ten lines is a name on the command line, in a sweep and in a key."""

import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support import make_cache, refused
from trustq.cli import app
from typer.testing import CliRunner, Result

import trustq as tq
from trustq.core import plugins
from trustq.store import write_cache

# What the page shows, and what is installed here.
MODULE = '''\
import numpy as np
from sklearn.naive_bayes import GaussianNB


def rival(labels, probs):
    """How far the given label is above the best other class."""
    given = probs[np.arange(len(labels)), labels]
    others = probs.copy()
    others[np.arange(len(labels)), labels] = 0
    return given / (given + others.max(axis=1))


def naive_bayes(seed):
    return GaussianNB()


class Flat:
    def fit(self, logits, labels):
        self.share = np.bincount(labels, minlength=logits.shape[1]) / len(labels)
        return self

    def predict_proba(self, logits):
        return np.tile(self.share, (len(logits), 1))


def next_class(labels, *, argument, classes, rng, **_):
    flipped = rng.random(len(labels)) < float(argument)
    return np.where(flipped, (labels + 1) % len(classes), labels)


def bad(labels, probs):
    return 7 + probs[:, 0]
'''
ADAPTER = '''\
"""Two images, for a test"""

import numpy as np
from PIL import Image

from trustq.datasets.rows import Rows

NEEDS_ROOT = True


def read_rows(root):
    columns = {
        "sample_id": np.array(["a", "b", "c"], dtype=object),
        "path": np.array(["a.png", "b.png", "c.png"], dtype=object),
        "label": np.array(["x", "y", "x"], dtype=object),
        "group_id": np.array(["1", "2", "3"], dtype=object),
        "dataset": np.array(["two"] * 3, dtype=object),
        "domain": np.array(["here"] * 3, dtype=object),
    }
    for name in columns["path"]:
        Image.new("L", (4, 4)).save(root / name)
    return Rows(columns, ("x", "y"), root, "two")
'''
ENTRY_POINTS = """\
[trustq.scores]
rival = rival_score:rival
bad = rival_score:bad
gone = rival_score:gone

[trustq.heads]
naive_bayes = rival_score:naive_bayes

[trustq.calibrators]
flat = rival_score:Flat

[trustq.noise]
next_class = rival_score:next_class

[trustq.datasets]
two-images = rival_data
"""


def install(folder: Path, *, version: str = "1.0", entry_points: str = ENTRY_POINTS) -> None:
    """Put a package and what an installer writes beside it into a folder of `sys.path`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rival_score.py").write_text(MODULE)
    (folder / "rival_data.py").write_text(ADAPTER)
    info = folder / "rival_score-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: rival-score\nVersion: {version}\n"
    )
    (info / "entry_points.txt").write_text(entry_points)
    importlib.invalidate_caches()
    plugins._plugins.cache_clear()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "site"
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))  # processes of a sweep
    install(folder)
    yield folder
    for name in ("rival_score", "rival_data"):
        sys.modules.pop(name, None)
    plugins._plugins.cache_clear()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "gauss" / "seed0.h5"
    path.parent.mkdir()
    write_cache(path, make_cache())
    return path


OPTIONS = ("--noise", "symmetric:0.2", "--budget", "10%", "--set", "regularisation=0.1")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def keys_of(results: Path, where: str = "true") -> set[str]:
    return set(tq.Results(results).sql(f"SELECT key FROM runs WHERE {where}")["key"].tolist())


def test_a_score_of_a_package_is_an_arm_on_the_command_line(
    site: Path, cache: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    done = invoke("repair", str(cache), "--arms", "rival,none", *OPTIONS, "--results", str(results))
    assert done.exit_code == 0, done.output
    found = tq.Results(results).sql(
        "SELECT arm_title, versions, errors_found FROM runs JOIN rounds ON run = key "
        "WHERE arm = 'rival' AND round = 1"
    )
    assert found["arm_title"].tolist() == ["rival"]
    assert '"rival-score": "1.0"' in found["versions"][0]
    assert found["errors_found"][0] > 5


def test_another_version_of_the_package_is_another_key_and_built_in_keys_stay(
    site: Path, cache: Path, tmp_path: Path
) -> None:
    arms = ("--arms", "none,random,self_confidence,rival,rival:drop", *OPTIONS)
    for version in ("1.0", "1.1"):
        install(site, version=version)
        results = tmp_path / version
        done = invoke("repair", str(cache), *arms, "--results", str(results))
        assert done.exit_code == 0, done.output
    own, other = "arm LIKE '%rival%'", "arm NOT LIKE '%rival%'"
    assert not keys_of(tmp_path / "1.0", own) & keys_of(tmp_path / "1.1", own)
    assert len(keys_of(tmp_path / "1.0", own)) == 3  # and the random arm that matches the dropped
    assert keys_of(tmp_path / "1.0", other) == keys_of(tmp_path / "1.1", other)


def test_a_sweep_over_scores_heads_calibrators_and_noises_of_a_package(
    site: Path, cache: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "plugged.toml"
    recipe.write_text(
        '[sweep]\narms = ["none", "rival"]\nnoise = ["next_class:0.2", "symmetric:0.2"]\n'
        'head = ["naive_bayes", "lda"]\ncalibrator = ["temperature", "flat"]\n'
        f'caches = ["{cache}"]\nbudgets = ["10%"]\n'
    )
    results = tmp_path / "results"
    done = invoke("sweep", str(recipe), "--jobs", "2", "--results", str(results))
    assert done.exit_code == 0, done.output
    assert len(keys_of(results)) == 2**3 * 4
    again = invoke("sweep", str(recipe), "--jobs", "1", "--results", str(results))
    assert "0 runs to do, 32 are there already" in again.output
    before = keys_of(results)
    install(site, version="2.0")
    invoke("sweep", str(recipe), "--jobs", "1", "--results", str(results))
    new = keys_of(results) - before
    built_in = "head = 'lda' AND noise = 'symmetric:0.2' AND calibrator = 'temperature'"
    assert len(new) == 2**3 * 4 - 3  # all but none, random and oracle of what is built in
    assert len(keys_of(results, built_in)) == 4 + 1


def test_a_data_set_of_a_package_is_listed_and_prepared(site: Path, tmp_path: Path) -> None:
    assert "Two images, for a test (rival-score 1.0)" in invoke("data", "prepare", "--list").output
    root = tmp_path / "images"
    root.mkdir()
    out = tmp_path / "two.parquet"
    done = invoke(
        "data", "prepare", "two-images", "--root", str(root), "--out", str(out),
        "--split", "external",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert out.is_file()


def test_a_score_of_a_package_without_a_cache(site: Path) -> None:
    probs = np.array([[0.9, 0.1], [0.25, 0.75]])
    np.testing.assert_allclose(tq.label_quality([0, 0], probs, score="rival"), [0.9, 0.25])


def test_what_a_plug_in_gets_wrong_is_said(site: Path, cache: Path, tmp_path: Path) -> None:
    probs = np.array([[0.9, 0.1], [0.25, 0.75]])
    with refused(
        "The plug-in 'bad' of rival-score 1.0 returned no quality of each label, (2,) in [0, 1] "
        "with NaN for none."
    ):
        tq.label_quality([0, 0], probs, score="bad")
    with refused(
        "The plug-in 'gone' of rival-score 1.0 could not be loaded from rival_score:gone: module "
        "'rival_score' has no attribute 'gone'."
    ):
        tq.label_quality([0, 0], probs, score="gone")
    done = invoke("repair", str(cache), "--arms", "rivall", "--results", str(tmp_path / "r"))
    assert done.exit_code == 1 and "did you mean 'rival'?" in done.output


def test_two_packages_cannot_add_one_name_nor_take_a_built_in_one(site: Path) -> None:
    install(site, entry_points="[trustq.scores]\nentropy = rival_score:rival\n")
    with refused(
        "rival-score 1.0 adds 'entropy' to trustq.scores, which trustq has itself: the package "
        "must use another name."
    ):
        tq.label_quality([0, 0], [[0.5, 0.5]] * 2, score="guess")
    install(site, entry_points="[trustq.scores]\nrival = rival_score:rival\n")
    info = site / "other-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("[trustq.scores]\nrival = rival_score:rival\n")
    plugins._plugins.cache_clear()
    with pytest.raises(tq.TrustqError, match="both add 'rival' to trustq.scores: uninstall one"):
        tq.label_quality([0, 0], [[0.5, 0.5]] * 2, score="rival")
