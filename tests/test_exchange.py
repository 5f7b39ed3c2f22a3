"""Caches from and to other formats: the same arrays, the same exposure, the same numbers."""

import dataclasses
import json
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from support import make_cache
from support_cli import invoke

from trustq.core.columns import read_metadata, write_parquet
from trustq.data.manifest import make_manifest, write_manifest
from trustq.errors import TrustqError
from trustq.evaluation.predictions import read_predictions
from trustq.experiments import repair
from trustq.recipes import load_recipe
from trustq.results import connect
from trustq.store import (
    Cache,
    export_cache,
    import_cache,
    read_cache,
    relabel_cache,
    verify_cache,
    write_cache,
)
from trustq.store.export import STATEMENT
from trustq.store.format import SEEN_OBSERVED, SEEN_REFERENCE, SEEN_SELECTION

FORMS = (".npz", ".parquet", ".safetensors")


def trained(n: int = 60, **fields: object) -> Cache:
    """A cache of a backbone that was trained on noisy labels, with folds and a history."""
    rng = np.random.default_rng(3)
    cache = make_cache(n=n)
    is_train = cache.split == "train"
    observed = np.where(rng.random(n) < 0.3, (cache.label + 1) % 3, cache.label).astype(np.int16)
    trusted = is_train & (rng.random(n) < 0.1)
    observed = np.where(trusted, cache.label, observed)
    label = cache.label.copy()
    label[~is_train & (rng.random(n) < 0.1)] = -1
    seen = np.where(is_train, SEEN_OBSERVED, np.where(cache.split == "val", SEEN_SELECTION, 0))
    values: dict[str, object] = {
        "exposure": "finetuned-observed",
        "label": label,
        "observed": np.where(is_train, observed, -1).astype(np.int16),
        "trusted": trusted,
        "seen": (seen | np.where(trusted, SEEN_REFERENCE, 0)).astype(np.uint8),
        "logits": rng.normal(size=(n, 3)).astype(np.float32),
        "noise": {"spec": "symmetric:0.3", "rate": 0.3, "trusted": 0.1, "digest": "x"},
        "backbone_seed": 7,
        "classes": ("nv", "mel", "b'cc"),
        "created": "2026",
        "versions": {"trustq": "0"},
        "extra": {
            "fold": np.arange(n) // 2 % 3,
            "crossfit_logits": rng.normal(size=(n, 3)).astype(np.float32),
            "history/train_loss": np.arange(4.0),
            "maps": rng.normal(size=(n, 2, 2, 3)).astype(np.float16),
        },
    }
    return dataclasses.replace(cache, **(values | fields))  # type: ignore[arg-type]


def assert_equal(a: Cache, b: Cache, *, leave_out: tuple[str, ...] = ("path",)) -> None:
    for field in dataclasses.fields(Cache):
        ours, theirs = getattr(a, field.name), getattr(b, field.name)
        if isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, field.name
            np.testing.assert_array_equal(ours, theirs, err_msg=field.name)
        elif field.name == "extra" and field.name not in leave_out:
            assert sorted(ours) == sorted(theirs)
            for name in ours:
                assert ours[name].dtype == theirs[name].dtype
                np.testing.assert_array_equal(ours[name], theirs[name])
        elif field.name not in leave_out:
            assert ours == theirs, field.name


@pytest.mark.parametrize("ending", FORMS)
def test_an_exported_cache_comes_back_as_it_was(tmp_path: Path, ending: str) -> None:
    cache = trained(features=np.random.default_rng(0).normal(size=(60, 5)).astype(np.float16))
    cache = write_cache(tmp_path / "a.h5", cache)
    file = tmp_path / f"a{ending}"
    left_out = export_cache(file, cache)
    back = import_cache(file)
    if ending == ".parquet":
        assert left_out == ("history/train_loss", "maps")
        assert_equal(cache, back, leave_out=("path", "extra", "digest", "content_digest"))
        np.testing.assert_array_equal(back.extra["crossfit_logits"], cache.extra["crossfit_logits"])
    else:
        assert left_out == ()
        assert_equal(cache, back)
        written = write_cache(tmp_path / "b.h5", back)
        assert written.digest == cache.digest
    assert back.exposure == "finetuned-observed" and back.digest
    again = tmp_path / f"again{ending}"
    export_cache(again, cache)
    assert ending == ".parquet" or again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("ending", FORMS)
def test_repair_gives_the_same_numbers_on_the_exported_cache(tmp_path: Path, ending: str) -> None:
    cache = write_cache(tmp_path / "a.h5", trained(240, label=make_cache().label, extra={}))
    export_cache(tmp_path / f"a{ending}", cache)
    found = {}
    for name, one in (("h5", cache), ("other", import_cache(tmp_path / f"a{ending}"))):
        settings = ["sweep.noise=stored", "arms=none,self_confidence", "draws=1", "folds=3"]
        repair([one], recipe=load_recipe(settings=settings), results=tmp_path / name)
        with connect(tmp_path / name) as connection:
            found[name] = connection.execute(
                "SELECT run, round, split, stage, metric, value FROM metrics ORDER BY ALL"
            ).fetchall()
    assert found["h5"] == found["other"] and len(found["h5"]) > 10


@pytest.mark.parametrize("ending", FORMS)
def test_evaluate_reads_what_was_exported(tmp_path: Path, ending: str) -> None:
    cache = write_cache(tmp_path / "a.h5", trained(label=make_cache(n=60).label))
    export_cache(tmp_path / f"a{ending}", cache)
    ours, theirs = (read_predictions(tmp_path / f"a{e}") for e in (".h5", ending))
    assert ours.classes == theirs.classes
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    np.testing.assert_array_equal(ours.logits, theirs.logits)
    assert ours.groups is not None and theirs.groups is not None
    assert ours.groups.tolist() == theirs.groups.tolist()
    assert ours.sample_ids.tolist() == theirs.sample_ids.tolist()


def test_an_export_opens_without_trustq(tmp_path: Path) -> None:
    from safetensors import safe_open

    cache = trained()
    for ending in FORMS:
        export_cache(tmp_path / f"a{ending}", cache)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert file["sample_ids"].tolist() == cache.sample_id.tolist()
        assert file["classes"].tolist() == list(cache.classes)
        assert json.loads(str(file[STATEMENT]))["attributes"]["exposure"] == "finetuned-observed"
    with safe_open(tmp_path / "a.safetensors", framework="numpy") as file:
        stated = json.loads(file.metadata()[STATEMENT])
        assert stated["attributes"]["classes"] == list(cache.classes)
        first = file.get_tensor("sample_ids")[0].tobytes().rstrip(b"\0").decode()
        assert first == cache.sample_id[0]
    stated = read_metadata(tmp_path / "a.parquet")[STATEMENT]
    assert stated["attributes"]["exposure"] == "finetuned-observed"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"features": np.zeros((60, 8), np.float32)}, "features does not match its digest"),
        ({"labels": np.zeros(60, np.int16)}, "labels does not match its digest"),
        ({"groups": None}, "it lacks groups"),
        ({STATEMENT: np.array("{")}, "its statement is no JSON (Expecting property name enclosed"),
        ({STATEMENT: np.array("{}")}, "its statement cannot be read (KeyError('attributes'))"),
        ("exposure", "its attributes do not match their digest"),
    ],
)
def test_an_altered_export_is_refused(tmp_path: Path, change: object, what: str) -> None:
    path = tmp_path / "a.npz"
    export_cache(path, trained())
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    if change == "exposure":
        text = str(arrays[STATEMENT]).replace("finetuned-observed", "frozen")
        change = {STATEMENT: np.array(text)}
    assert isinstance(change, dict)
    arrays = {name: array for name, array in (arrays | change).items() if array is not None}
    np.savez(path, **arrays)
    with pytest.raises(TrustqError) as caught:
        import_cache(path)
    assert str(caught.value).startswith(f"{path} is not what was exported: {what}")
    assert str(caught.value).endswith(
        "\nExport it again; or, if it was altered on purpose, leave out 'trustq_cache' and state "
        "the exposure yourself (`exposure`)."
    )
    # As it says: without the statement it is anybody's file.
    if "groups" in arrays:
        del arrays[STATEMENT]
        np.savez(path, **arrays)
        assert import_cache(path, exposure="frozen").exposure == "frozen"


def test_options_that_an_export_does_not_take_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    export_cache(path, trained())
    with pytest.raises(TrustqError) as caught:
        import_cache(path, exposure="frozen")
    assert str(caught.value) == (
        f"`exposure=frozen`: {path} was exported from a cache of exposure finetuned-observed, "
        "which is kept. Leave out `exposure`."
    )
    with pytest.raises(TrustqError) as caught:
        import_cache(path, names={"labels": "y"}, normalize="l1")
    assert str(caught.value) == (
        f"{path} was exported by trustq and comes back as it was: leave out `normalize`, `labels`."
    )
    renamed = import_cache(path, dataset="mine", exposure="finetuned-observed")
    assert renamed.dataset == "mine"
    assert renamed.content_digest != import_cache(path).content_digest


def test_a_table_cannot_hold_classes_that_differ_in_case_only(tmp_path: Path) -> None:
    with pytest.raises(TrustqError) as caught:
        export_cache(tmp_path / "a.parquet", trained(classes=("a", "A", "b")))
    assert str(caught.value) == (
        f"{tmp_path}/a.parquet: the columns logit_a, logit_A differ only in case, which tables "
        "cannot tell apart. Export to .npz or .safetensors."
    )
    with pytest.raises(TrustqError) as caught:
        export_cache(tmp_path / "a.mat", trained())
    assert str(caught.value) == (
        f"{tmp_path}/a.mat: expected a name that ends in .npz, .parquet, .safetensors."
    )
    assert os.listdir(tmp_path) == []


FEATURES = np.arange(8.0).reshape(4, 2)


def table(path: Path, **columns: object) -> Path:
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    if path.suffix == ".parquet":
        write_parquet(path, arrays)
    else:
        rows = zip(*(a.tolist() for a in arrays.values()), strict=True)
        lines = [",".join("" if v is None else str(v) for v in row) for row in rows]
        path.write_text("\n".join([",".join(arrays), *lines]) + "\n")
    return path


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_table_is_taken_by_the_names_of_its_columns(tmp_path: Path, ending: str) -> None:
    path = table(
        tmp_path / f"t{ending}",
        image_id=np.array(["a", "b", "c", "d"], object),
        lesion_id=np.array(["g", "g", "h", "i"], object),
        label=np.array(["mel", "nv", None, "nv"], object),
        feature_0=FEATURES[:, 0],
        feature_1=FEATURES[:, 1],
        prob_nv=np.array([0.25, 0.5, 1.0, 0.75]),
        prob_mel=np.array([0.75, 0.5, 0.0, 0.25]),
    )
    cache = import_cache(path, exposure="frozen")
    assert cache.classes == ("nv", "mel") and cache.label.tolist() == [1, 0, -1, 0]
    assert cache.sample_id.tolist() == ["a", "b", "c", "d"]
    assert cache.group_id.tolist() == ["g", "g", "h", "i"]
    assert cache.logits is not None
    np.testing.assert_array_equal(cache.features, FEATURES)
    np.testing.assert_allclose(np.exp(cache.logits[0]), [0.25, 0.75], rtol=1e-6)


def test_features_are_a_list_column_or_columns_of_a_prefix(tmp_path: Path) -> None:
    labels = np.array([0, 1, 1, 0])
    listed = table(tmp_path / "l.parquet", features=FEATURES, labels=labels)
    named = table(tmp_path / "n.csv", emb_a=FEATURES[:, 0], emb_b=FEATURES[:, 1], y=labels)
    for cache in (import_cache(listed), import_cache(named, names={"features": "emb_"} | Y)):
        np.testing.assert_array_equal(cache.features, FEATURES)
        assert cache.label.tolist() == labels.tolist() and cache.classes == ("0", "1")
    chosen = import_cache(named, names={"features": "emb_b, emb_a"} | Y)
    np.testing.assert_array_equal(chosen.features, FEATURES[:, ::-1])


Y = {"labels": "y"}


def test_arrays_that_only_share_a_name_are_left_alone(tmp_path: Path) -> None:
    images, folds = np.zeros((4, 2, 2)), np.array([0, 1, 0, 1])
    labels = np.array([0, 1, 1, 0])
    np.savez(tmp_path / "e.npz", features=FEATURES, labels=labels, image=images, folds=folds)
    cache = import_cache(tmp_path / "e.npz")
    assert cache.sample_id.tolist() == ["0", "1", "2", "3"] and cache.extra == {}


def test_an_npy_gets_ids_from_a_list_and_the_rest_from_a_manifest(tmp_path: Path) -> None:
    np.save(tmp_path / "clip.npy", FEATURES)
    (tmp_path / "ids.txt").write_text("d.jpg\nc.jpg\nb.jpg\na.jpg\n")
    ids = np.array(["a", "b", "c", "d"], object)
    columns = {
        "sample_id": ids,
        "path": ids,
        "label": np.array(["x", "y", "y", "x"], object),
        "group_id": np.array(["g", "g", "h", "i"], object),
        "split": np.array(["train", "train", "test", "val"], object),
        "dataset": np.array(["d"] * 4, object),
        "domain": np.array(["e"] * 4, object),
    }
    manifest = make_manifest(columns, classes=["y", "x"], root=tmp_path, source="m")
    write_manifest(manifest, tmp_path / "m.parquet")
    cache = import_cache(
        tmp_path / "clip.npy", ids=tmp_path / "ids.txt", meta=[tmp_path / "m.parquet"]
    )
    assert cache.sample_id.tolist() == ["d.jpg", "c.jpg", "b.jpg", "a.jpg"]
    assert cache.classes == ("y", "x") and cache.label.tolist() == [1, 0, 0, 1]
    assert cache.group_id.tolist() == ["i", "h", "g", "g"]
    assert cache.split.tolist() == ["val", "test", "train", "train"]
    assert cache.recipe["beside"] == "ids.txt, m.parquet"
    table(tmp_path / "rows.csv", id=np.array(["p", "q", "r", "s"]), labels=[5, 6, 6, 5])
    listed = import_cache(tmp_path / "clip.npy", ids=tmp_path / "rows.csv")
    assert listed.sample_id.tolist() == ["p", "q", "r", "s"] and listed.classes == ("5", "6")


def test_normalization_is_recorded(tmp_path: Path) -> None:
    scores = np.array([[1.0, 3.0], [2.0, 2.0]])
    np.savez(tmp_path / "e.npz", features=np.eye(2), labels=np.array([0, 1]), probs=scores)
    l1, softmax = (import_cache(tmp_path / "e.npz", normalize=how) for how in ("l1", "softmax"))
    assert l1.logits is not None and softmax.logits is not None
    np.testing.assert_allclose(np.exp(l1.logits), [[0.25, 0.75], [0.5, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(softmax.logits[:, 1] - softmax.logits[:, 0], [2, 0], atol=1e-6)
    assert (l1.recipe["normalize"], softmax.recipe["normalize"]) == ("l1", "softmax")
    assert l1.content_digest != softmax.content_digest


@pytest.mark.parametrize("has_observed", [True, False])
def test_a_crossfit_from_elsewhere_can_be_scored(tmp_path: Path, has_observed: bool) -> None:
    cache = make_cache()
    rng = np.random.default_rng(0)
    noisy = np.where(rng.random(240) < 0.2, (cache.label + 1) % 3, cache.label)
    arrays = {"observed": np.where(cache.split == "train", noisy, -1)} if has_observed else {}
    np.savez(
        tmp_path / "e.npz",
        features=cache.features,
        labels=cache.label,
        groups=cache.group_id,
        split=cache.split,
        folds=np.where(cache.split == "train", np.arange(240) // 2 % 3, -1),
        crossfit_logits=rng.normal(size=(240, 3)),
        **arrays,
    )
    back = import_cache(tmp_path / "e.npz", exposure="crossfit")
    train = cache.split == "train"
    assert set(back.seen[train].tolist()) == {1 if has_observed else 3}
    np.testing.assert_array_equal(
        back.observed[train], (noisy if has_observed else cache.label)[train]
    )
    if has_observed:
        written = write_cache(tmp_path / "e.h5", back)
        recipe = load_recipe(
            settings=["sweep.noise=stored", "arms=self_confidence@crossfit", "draws=1"]
        )
        repair([written], recipe=recipe, results=tmp_path / "r")


def base() -> dict[str, object]:
    return {"features": np.eye(3), "labels": np.array([0, 1, 1])}


@pytest.mark.parametrize(
    ("name", "arrays", "options", "message"),
    [
        (
            "e.npz",
            {"features": np.array([[1.0, np.nan], [1.0, 2.0]]), "labels": np.zeros(2, int)},
            {},
            "{path}: features holds NaN or infinite values in 1 row.",
        ),
        (
            "e.csv",
            {"feature_0": np.array([1, None], object), "labels": np.zeros(2, int)},
            {},
            "{path}: features holds NaN or infinite values in 1 row.",
        ),
        (
            "e.csv",
            {"feature_0": np.array(["1", "one"]), "labels": np.zeros(2, int)},
            {},
            "{path}: feature_0 holds something that is no number (could not convert string to "
            "float: 'one'): write numbers as 0.25, and nothing for a blank.",
        ),
        (
            "e.csv",
            {"feature_0": np.arange(2), "sample_id": np.array(["a", "a"]), "label": [0, 1]},
            {},
            "{path}: sample_id must be unique; 1 are repeated, e.g. 'a': name the column of ids "
            "(`sample_ids`), or leave it out, and rows are numbered.",
        ),
        (
            "e.parquet",
            {"x": np.arange(2), "label": [0, 1]},
            {},
            "{path} has no column 'features' for features; it holds x, label. "
            "Name it with `features=COLUMN`.",
        ),
        (
            "e.parquet",
            {"feature_0": np.arange(2), "label": [0, 1]},
            {"names": {"probs": "p_a,p_b"}},
            "{path} has no column 'p_a' for probs; it has feature_0, label.",
        ),
        (
            "e.csv",
            {"feature_0": np.arange(2), "label": ["a", "c"], "logit_a": [0, 1], "logit_b": [1, 0]},
            {},
            "{path}: labels: unknown class 'c'; expected one of a, b.",
        ),
        (
            "e.npz",
            base(),
            {"exposure": "guessed"},
            "`exposure=guessed`: expected one of frozen, finetuned-observed, finetuned-clean, "
            "crossfit, unknown.",
        ),
        (
            "e.npz",
            base(),
            {"exposure": "crossfit"},
            "{path}: `exposure=crossfit` needs the arrays folds and crossfit_logits: each row by a "
            "model that did not see its group.",
        ),
        (
            "e.npz",
            base() | {"crossfit_logits": np.eye(3, 2)},
            {},
            "{path} has crossfit_logits and no folds, which say what each row saw.",
        ),
        (
            "e.npz",
            base() | {"folds": np.arange(3) + 0.5, "crossfit_logits": np.eye(3, 2)},
            {},
            "{path}: folds have type float64; expected whole numbers.",
        ),
        (
            "e.npz",
            base() | {"folds": np.arange(3), "crossfit_logits": np.eye(3)},
            {},
            "{path}: 3 columns of crossfit_logits for 2 classes.",
        ),
        (
            "e.npz",
            base(),
            {"normalize": "l2"},
            "`normalize=l2`: expected l1 or softmax.",
        ),
        (
            "e.npz",
            base(),
            {"normalize": "l1"},
            "`normalize=l1`: {path} has no probs; only rows of probs are made to sum to 1.",
        ),
        (
            "e.npz",
            base(),
            {"meta": ["m.csv"]},
            "{path} has no ids to join {folder}/m.csv by: name them (`sample_ids`).",
        ),
        (
            "e.npz",
            base() | {"sample_ids": np.array(["a", "b", "z"])},
            {"meta": ["m.csv"]},
            "The ids of {path} and {folder}/m.csv do not match: 1 of 3 rows are not in the table, "
            "e.g. 'z'.",
        ),
        (
            "e.npz",
            base() | {"sample_ids": np.array(["a", "c", "b"])},
            {"ids": "m.csv"},
            "The ids of {path} and {folder}/m.csv do not match: row 2 is 'c' and 'b'. "
            "`ids` lists the ids of the rows in their order; to join a table by id: `meta`.",
        ),
        (
            "e.npz",
            base(),
            {"ids": "two.txt"},
            "{path}: sample_ids has 2 rows, the file 3.",
        ),
        (
            "e.npz",
            base(),
            {"ids": "none.csv"},
            "{folder}/none.csv has no column of ids; it has x: name it (`sample_ids`), or call it "
            "one of sample_ids, sample_id, image_id, image, isic_id, id.",
        ),
        (
            "e.npz",
            base(),
            {"ids": "nowhere.txt"},
            "{folder}/nowhere.txt: no such file.",
        ),
    ],
)
def test_import_says_what_is_wrong(
    tmp_path: Path, name: str, arrays: dict[str, object], options: dict[str, object], message: str
) -> None:
    path = tmp_path / name
    if path.suffix == ".npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]
    else:
        table(path, **arrays)
    table(tmp_path / "m.csv", sample_id=np.array(["a", "b", "c"]), x=[1, 2, 3])
    table(tmp_path / "none.csv", x=[1, 2, 3])
    (tmp_path / "two.txt").write_text("a\nb\n")
    if "meta" in options:
        options = options | {"meta": [tmp_path / file for file in options["meta"]]}  # type: ignore
    if "ids" in options:
        options = options | {"ids": tmp_path / str(options["ids"])}
    with pytest.raises(TrustqError) as caught:
        import_cache(path, **options)  # type: ignore[arg-type]
    assert str(caught.value) == message.format(path=path, folder=tmp_path)


def test_files_that_are_none_are_one_clear_error(tmp_path: Path) -> None:
    pickled, text = tmp_path / "p.npy", tmp_path / "t.safetensors"
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    text.write_text("hello")
    (tmp_path / "a.mat").touch()
    for path, message in (
        (
            pickled,
            f"{pickled} is no whole npy file of one plain array (pickled objects are not loaded).",
        ),
        (
            text,
            f"{text} could not be read as safetensors: Error while deserializing header: header "
            "too small.",
        ),
        (
            tmp_path / "a.mat",
            f"{tmp_path}/a.mat: expected a file that ends in .npz, .npy, .h5, .hdf5, .safetensors, "
            ".pt, .pth, .tar, .parquet, .csv, .csv.gz, .tsv, .tab, .xlsx: save it as one of these.",
        ),
        (tmp_path / "b.npy", f"{tmp_path}/b.npy: no such file."),
    ):
        with pytest.raises(TrustqError) as caught:
            import_cache(path)
        assert str(caught.value) == message


def labels_table(folder: Path, **columns: object) -> Path:
    return table(folder / "labels.csv", **{n: np.array(c, object) for n, c in columns.items()})


def test_relabel_keeps_on_record_what_was_trained_on(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "a.h5", trained(label=make_cache(n=60).label))
    bought = int(np.flatnonzero(cache.trusted)[0])
    noisy = int(np.flatnonzero((cache.observed >= 0) & (cache.observed != cache.label))[0])
    test = int(np.flatnonzero(cache.split == "test")[0])
    rows = [bought, noisy, test]
    new = [(int(cache.label[bought]) + 1) % 3, int(cache.observed[noisy]), 2 - cache.label[test]]
    file = labels_table(
        tmp_path, sample_id=cache.sample_id[rows], label=[cache.classes[i] for i in new]
    )
    found = relabel_cache(cache, file)
    n_changed = int((np.array(new) != cache.label[rows]).sum())
    assert (found.n_changed, found.n_trained, found.n_trusted) == (n_changed, 2, 1)
    fresh = found.cache
    assert fresh.label[rows].tolist() == new
    assert np.flatnonzero(fresh.label != cache.label).tolist() == sorted(
        row for row, label in zip(rows, new, strict=True) if label != cache.label[row]
    )
    # The bought label was wrong, and the backbone was trained on it: now it is label noise.
    assert fresh.seen[bought] == SEEN_OBSERVED and not fresh.trusted[bought]
    assert fresh.observed[bought] == cache.label[bought] != fresh.label[bought]
    np.testing.assert_array_equal(fresh.observed, cache.observed)
    np.testing.assert_array_equal(np.delete(fresh.seen, bought), np.delete(cache.seen, bought))
    np.testing.assert_array_equal(fresh.features, cache.features)
    assert fresh.noise == {"spec": "symmetric:0.3, relabelled", "trusted": 0.1}
    assert fresh.recipe["relabelled"]["of"] == cache.content_digest
    written = write_cache(tmp_path / "b.h5", fresh)
    assert written.content_digest != cache.content_digest
    verify_cache(tmp_path / "b.h5")


def test_a_clean_cache_whose_trained_labels_change_is_clean_no_more(tmp_path: Path) -> None:
    label = make_cache(n=60).label
    train = make_cache(n=60).split == "train"
    clean = trained(
        exposure="finetuned-clean",
        label=label,
        observed=np.full(60, -1, np.int16),
        trusted=np.zeros(60, bool),
        seen=np.where(train, SEEN_REFERENCE, 0).astype(np.uint8),
        noise={},
    )
    row = int(np.flatnonzero(train)[0])
    other = clean.classes[(int(label[row]) + 1) % 3]
    fresh = relabel_cache(
        clean, labels_table(tmp_path, sample_id=[clean.sample_id[row]], label=[other])
    ).cache
    assert fresh.exposure == "finetuned-observed" and fresh.noise == {}
    np.testing.assert_array_equal(fresh.observed, np.where(train, label, -1))
    both = SEEN_OBSERVED | SEEN_REFERENCE
    expected = np.where(train, both, 0)
    expected[row] = SEEN_OBSERVED
    np.testing.assert_array_equal(fresh.seen, expected)
    # Rows that it never saw may be corrected without a trace on what it was trained on.
    unseen = int(np.flatnonzero(~train)[0])
    other = clean.classes[(int(label[unseen]) + 1) % 3]
    same = relabel_cache(
        clean, labels_table(tmp_path, sample_id=[clean.sample_id[unseen]], label=[other])
    ).cache
    assert same.exposure == "finetuned-clean"
    np.testing.assert_array_equal(same.seen, clean.seen)
    np.testing.assert_array_equal(same.observed, clean.observed)


def test_a_relabelled_cache_fits_the_relabelled_manifest(tmp_path: Path) -> None:
    from trustq.store import require_same_manifest

    cache = make_cache(n=10)
    ids = cache.sample_id.astype(object)
    columns = {"path": ids, "dataset": ids, "domain": ids, "sample_id": ids}
    columns |= {"group_id": cache.group_id.astype(object), "split": cache.split.astype(object)}
    columns["label"] = np.array(cache.classes, object)[cache.label]
    old = make_manifest(columns, classes=cache.classes, root=tmp_path, source="m")
    names = columns["label"].tolist()
    columns["label"] = np.array(["b" if names[0] == "a" else "a", *names[1:]], object)
    new = make_manifest(columns, classes=cache.classes, root=tmp_path, source="m")
    write_manifest(new, tmp_path / "new.parquet")
    cache = dataclasses.replace(cache, manifest=old.digests)
    relabelled = relabel_cache(cache, tmp_path / "new.parquet").cache
    assert relabelled.manifest["labels"] == new.digests["labels"] != old.digests["labels"]
    require_same_manifest(relabelled, new)
    with pytest.raises(TrustqError, match="was written from another manifest: its labels"):
        require_same_manifest(relabelled, old)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"sample_id": ["s0000"], "dx": ["nv"]},
            "{file} needs the columns sample_id and label; it has sample_id, dx.",
        ),
        (
            {"sample_id": ["s0000", "s0000"], "label": ["nv", "nv"]},
            "{file}: sample_id must be unique; 1 are repeated.",
        ),
        (
            {"sample_id": ["s0000", "x1", "x2"], "label": ["nv", "nv", "nv"]},
            "{file}: 2 of 3 ids are not in cache of gauss, e.g. 'x1'.",
        ),
        (
            {"sample_id": ["s0000", "s0001"], "label": ["nv", None]},
            "{file}: label is blank in 1 row, e.g. 's0001'. Leave such rows out: they keep their "
            "label.",
        ),
        (
            {"sample_id": ["s0000"], "label": ["nevus"]},
            "{file}: nevus among the labels; the classes of cache of gauss are nv, mel, b'cc.",
        ),
        (
            {"sample_id": ["s0000"], "label": ["same"]},
            "{file} changes no label of cache of gauss.",
        ),
        (
            {"sample_id": ["s0000"], "label": ["torn"]},
            "cache of gauss: the backbone was trained on the reference label of row 's0000', whose "
            "observed label is another. A cache holds one label that a row was trained on, so 1 "
            "row cannot be relabelled.",
        ),
    ],
)
def test_relabel_says_what_is_wrong(
    tmp_path: Path, columns: dict[str, list[str]], message: str
) -> None:
    cache = trained(label=make_cache(n=60).label)
    first = int(cache.label[0])
    if columns.get("label") == ["torn"]:
        cache.seen[0] = SEEN_REFERENCE
        cache.observed[0] = (first + 1) % 3
        columns = columns | {"label": [cache.classes[(first + 2) % 3]]}
    if columns.get("label") == ["same"]:
        columns = columns | {"label": [cache.classes[first]]}
    file = labels_table(tmp_path, **columns)
    with pytest.raises(TrustqError) as caught:
        relabel_cache(cache, file)
    assert str(caught.value) == message.format(file=file)


def test_the_commands_say_what_they_did(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "a.h5", trained(label=make_cache(n=60).label))
    line = "60 rows in 30 groups, 8 features, 3 classes, exposure finetuned-observed\n"
    table_file = tmp_path / "a.parquet"
    answer = invoke("cache", ["export", tmp_path / "a.h5", "--out", table_file])
    assert answer.exit_code == 0, answer.output
    assert answer.stdout == f"{table_file}: {line}"
    assert answer.stderr == (
        "Left out, for they have not one row a sample: history/train_loss, maps.\n"
    )
    answer = invoke("cache", ["export", tmp_path / "a.h5", "--out", table_file])
    assert answer.stderr.removeprefix("Error: ").rstrip() == (
        f"{table_file} is there already; delete it or choose another name."
    )
    answer = invoke("cache", ["import", table_file, "--out", tmp_path / "b.h5"])
    assert answer.stdout == f"{tmp_path / 'b.h5'}: {line}", answer.output
    other = cache.classes[(int(cache.label[0]) + 1) % 3]
    file = labels_table(tmp_path, sample_id=[cache.sample_id[0]], label=[other])
    answer = invoke(
        "cache", ["relabel", tmp_path / "a.h5", "--labels", file, "--out", tmp_path / "c.h5"]
    )
    assert answer.exit_code == 0, answer.output
    assert answer.stdout == (
        f"{tmp_path / 'c.h5'}: {line}1 label changed; the backbone was trained on the old label "
        "of 1 of them, 0 had been trusted as clean.\n"
    )
    assert read_cache(tmp_path / "c.h5").label[0] != cache.label[0]


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file may grow beyond `limit` bytes, as on a disk without room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [0, 700, 20_000, 100_000])
@pytest.mark.parametrize("ending", [".h5", *FORMS])
def test_a_full_disk_is_one_clear_error_and_leaves_nothing(
    tmp_path: Path, ending: str, limit: int
) -> None:
    rng = np.random.default_rng(0)
    cache = trained(features=rng.normal(size=(60, 2000)).astype(np.float32))
    target = tmp_path / f"a{ending}"
    target.write_text("old")
    write = write_cache if ending == ".h5" else export_cache
    with full_disk(limit), pytest.raises(TrustqError) as caught:
        write(target, cache)
    assert str(caught.value).startswith(f"{target} could not be written: ")
    assert str(caught.value).endswith(
        ". Nothing was left half-written; free the disk or choose another place."
    )
    assert os.listdir(tmp_path) == [target.name] and target.read_text() == "old"


@pytest.mark.parametrize("ending", [".h5", *FORMS])
def test_a_folder_that_cannot_be_written_to_is_one_clear_error(tmp_path: Path, ending: str) -> None:
    (tmp_path / "file").touch()
    target = tmp_path / "file" / f"a{ending}"
    write = write_cache if ending == ".h5" else export_cache
    with pytest.raises(TrustqError) as caught:
        write(target, trained())
    assert str(caught.value) in {
        f"{target} could not be written: {reason}. Nothing was left half-written; free the disk or "
        "choose another place."
        for reason in ("file exists", "not a directory")
    }


@contextmanager
def anybody() -> Iterator[None]:
    """Run as a user who may not write everywhere, which root may."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("ending", [".h5", *FORMS])
def test_a_read_only_folder_is_one_clear_error_and_stays_empty(ending: str) -> None:
    # Outside of pytest's folders, which only their owner may enter.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        target = Path(folder) / f"a{ending}"
        write = write_cache if ending == ".h5" else export_cache
        with anybody(), pytest.raises(TrustqError) as caught:
            write(target, trained())
        message = str(caught.value)
        assert message.startswith(f"{target} could not be written: ")
        assert "permission denied" in message.lower()
        assert message.endswith(
            "Nothing was left half-written; free the disk or choose another place."
        )
        assert os.listdir(folder) == []
        os.chmod(folder, 0o755)
