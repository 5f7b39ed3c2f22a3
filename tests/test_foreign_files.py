"""What a file means: each kind of label, class, id and format, by every command's own door."""

import json
import re
import sys
import tarfile
import unicodedata
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import duckdb
import h5py
import numpy as np
import pandas
import polars
import pytest
from support import make_cache

import trustq as tq
from trustq.audit import known_labels, open_source
from trustq.core.class_names import read_labels
from trustq.core.columns import read_table
from trustq.core.columns import write_parquet as write_table
from trustq.core.leaks import equal_rows, near_ids, shared_ids
from trustq.core.sample_ids import joined_keys
from trustq.core.sql_text import literal
from trustq.core.words import rejoined, split_names, split_pairs
from trustq.datasets import prepare
from trustq.datasets.table import read_rows
from trustq.errors import DishonestError, InputError, TrustqError
from trustq.evaluation.compare_models import compare_models
from trustq.evaluation.evaluate import evaluate
from trustq.evaluation.predictions import read_predictions
from trustq.metrics.probabilities import softmax
from trustq.store import import_cache, is_cache, open_cache, write_cache


def simulated(k: int = 13, n: int = 260, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels 0 to k - 1 and logits that mostly agree with them."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % k
    return labels, rng.normal(size=(n, k)) + 3 * np.eye(k)[labels]


def accuracy(path: Path, **options: Any) -> tuple[float, tuple[str, ...]]:
    found = read_predictions(path, **options)
    return float((found.of_rows().argmax(axis=1) == found.labels).mean()), found.classes


def write_parquet(path: Path, columns: dict[str, Any]) -> None:
    with duckdb.connect() as connection:
        plain = {
            name: np.array(values, dtype=object) if np.asarray(values).dtype.kind == "U" else values
            for name, values in columns.items()
        }
        connection.register("t", plain)
        connection.execute(f"COPY (FROM t) TO {literal(str(path))} (FORMAT parquet)")


FORMS = {
    "int": lambda y: y,
    "float32": lambda y: y.astype(np.float32),
    "column": lambda y: y[:, None],
    "one-hot": lambda y: np.eye(y.max() + 1)[y],
    "bytes": lambda y: y.astype("S"),
    "texts of floats": lambda y: np.array([f"{value}.0" for value in y]),
}


@pytest.mark.parametrize("form", FORMS)
def test_one_set_of_labels_in_every_form_gives_one_accuracy(tmp_path: Path, form: str) -> None:
    labels, logits = simulated()
    right = float((logits.argmax(axis=1) == labels).mean())
    stored = FORMS[form](labels)
    np.savez(tmp_path / "p.npz", logits=logits, labels=stored, other=np.array([{}], dtype=object))
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["predictions/logits"] = logits
        file["labels"] = stored.astype("S") if stored.dtype.kind == "U" else stored
    expected = (right, tuple(map(str, range(13))))
    for ending in ("npz", "h5"):
        assert accuracy(tmp_path / f"p.{ending}") == expected
    features = logits.astype(np.float32)
    np.savez(tmp_path / "f.npz", features=features[:, :, None, None], labels=stored)
    cache = import_cache(tmp_path / "f.npz")
    names = np.array(cache.classes)
    assert [int(name) for name in names[cache.label]] == labels.tolist()
    assert np.array_equal(cache.features, features)


@pytest.mark.parametrize("missing", [np.nan, -1.0])
def test_rows_without_a_label_are_left_out_and_counted(tmp_path: Path, missing: float) -> None:
    labels, logits = simulated(k=5)
    stored = np.where(labels == 2, missing, labels)
    np.savez(tmp_path / "p.npz", logits=logits, labels=stored, features=logits)
    found = read_predictions(tmp_path / "p.npz")
    assert np.array_equal(found.labels, labels[labels != 2])
    assert f"{(labels == 2).sum()} of 260 rows have no label" in found.notes
    assert (import_cache(tmp_path / "p.npz").label == np.where(labels == 2, -1, labels)).all()


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_columns_that_are_numbers_name_their_classes(tmp_path: Path, ending: str) -> None:
    labels, logits = simulated(k=11)
    order = np.random.default_rng(1).permutation(11)
    columns: dict[str, Any] = {"labels": labels + 5}
    columns |= {f"logit_{j + 5}": logits[:, j] for j in order}
    path = tmp_path / f"t.{ending}"
    write_parquet(tmp_path / "t.parquet", columns)
    duckdb.sql(f"COPY (FROM '{tmp_path}/t.parquet') TO '{tmp_path}/t.csv'")
    right = float((logits.argmax(axis=1) == labels).mean())
    assert accuracy(path) == (right, tuple(str(j + 5) for j in order))


def test_names_without_an_order_are_refused_by_every_reader(tmp_path: Path) -> None:
    labels, logits = simulated(k=4, n=80)
    names = np.array(["nv", "mel", "bkl", "df"])
    np.savez(tmp_path / "p.npz", logits=logits, labels=names[labels], features=logits)
    message = r"labels are names .*so the order of the 4 columns of logits or probs is not known"
    for read in (read_predictions, import_cache):
        with pytest.raises(InputError, match=message):
            read(tmp_path / "p.npz")
    with pytest.raises(InputError, match=message):
        open_source(tmp_path / "p.npz", source="file")
    right = float((logits.argmax(axis=1) == labels).mean())
    for stated in (list(names), "nv,mel,bkl,df", '["nv", "mel", "bkl", "df"]'):
        assert accuracy(tmp_path / "p.npz", names={"classes": stated}) == (right, tuple(names))


@pytest.mark.parametrize(
    "names",
    [
        ["A", "B", "a", "b"],
        ["None", "NA", "null", "nan"],
        ["Nevus, Reed", "Nevus", "a=b", "x@y"],
        ["0", "2", "1", "3"],
    ],
)
def test_odd_class_names_are_kept_as_they_are(tmp_path: Path, names: list[str]) -> None:
    labels, logits = simulated(k=4, n=80)
    probs, texts = softmax(logits), np.array(names)[labels]
    right = float((logits.argmax(axis=1) == labels).mean())
    np.savez(tmp_path / "p.npz", probs=probs, labels=texts, observed=texts, classes=np.array(names))
    quoted = [f'"prob_{name}"' for name in names]
    lines = [",".join(['"labels"', *quoted])]
    lines += [
        ",".join([f'"{text}"', *map(str, row)]) for text, row in zip(texts, probs, strict=True)
    ]
    (tmp_path / "p.csv").write_text("\n".join(lines))
    for ending in ("npz", "csv"):
        assert accuracy(tmp_path / f"p.{ending}") == (right, tuple(names))
    np.savez(tmp_path / "f.npz", features=logits, labels=texts, classes=np.array(names))
    cache = import_cache(tmp_path / "f.npz")
    assert cache.classes == tuple(names) and np.array_equal(cache.label, labels)
    audited = open_source(tmp_path / "p.npz", source="file")
    assert audited.cache.classes == tuple(names) and np.array_equal(audited.reference, labels)


@pytest.mark.parametrize(
    ("column", "options", "message"),
    [
        (["mel", "nv", "Mell"], {"classes": ["mel", "nv"]}, r"unknown class 'Mell' \(did you mean"),
        ([0, 1], {"classes": ["1", "2"]}, "labels are their values and not positions"),
        ([1, 2, 3], {"width": 3}, "state these in the order of the columns"),
        ([-1, 1], {"width": 2}, "labels are -1 and 1, which are two classes"),
        (["NA", "EU"], {}, "'NA', which may be a class or no label"),
        ([0.5, 1.0], {}, "labels hold 0.5; expected whole numbers or names"),
        ([[1, 1], [0, 1]], {}, "marks several classes in 1 row"),
        ([[0.3, 0.7], [0, 1]], {}, "is not one-hot"),
        (["aB"], {"classes": ["AB", "ab"]}, "unknown class 'aB'"),
    ],
)
def test_labels_that_could_mean_two_things_are_refused(
    column: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_labels(np.array(column), source="f", **options)


def test_one_column_of_scores_is_the_second_class(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 100)
    probs = softmax(np.column_stack([np.zeros(100), 3 * labels - 1.5 + rng.normal(size=100)]))[:, 1]
    right = float(((probs > 0.5) == labels).mean())
    np.savez(tmp_path / "p.npz", probs=probs, labels=labels)
    np.savez(tmp_path / "z.npz", logits=np.log(probs / (1 - probs))[:, None], labels=labels)
    names = np.array(["nv", "mel"])[labels]
    write_parquet(tmp_path / "t.parquet", {"labels": names, "prob_mel": probs})
    for name in ("p.npz", "z.npz"):
        assert accuracy(tmp_path / name) == (right, ("0", "1"))
    assert accuracy(tmp_path / "t.parquet") == (right, ("nv", "mel"))
    np.savez(tmp_path / "bad.npz", probs=3 * probs, labels=labels)
    with pytest.raises(InputError, match="expected the probability of the second class"):
        read_predictions(tmp_path / "bad.npz")


def test_which_scores_are_used_is_said_and_asked_for(tmp_path: Path) -> None:
    labels, logits = simulated(k=3, n=60)
    np.savez(tmp_path / "p.npz", labels=labels, logits=logits, probs=softmax(-logits))
    found = read_predictions(tmp_path / "p.npz")
    assert found.probs is None
    assert "the file has logits and probabilities: the logits are used" in found.notes
    asked = read_predictions(tmp_path / "p.npz", names={"probs": "probs"})
    assert asked.logits is None and np.allclose(asked.of_rows(), softmax(-logits))


def test_stated_classes_name_the_columns_of_a_table(tmp_path: Path) -> None:
    labels, logits = simulated(k=3, n=60)
    columns = {"labels": labels} | {f"p{j}": row for j, row in enumerate(softmax(logits).T)}
    write_parquet(tmp_path / "t.parquet", columns)
    names = {"probs": "p0,p1,p2", "classes": "akiec,bcc,nv"}
    right = float((logits.argmax(axis=1) == labels).mean())
    assert accuracy(tmp_path / "t.parquet", names=names) == (right, ("akiec", "bcc", "nv"))
    # Columns that say their place are put in the order of the names.
    columns = {"labels": labels} | {f"prob_{j}": softmax(logits)[:, j] for j in (2, 0, 1)}
    write_parquet(tmp_path / "s.parquet", columns)
    options = {"names": {"classes": "akiec,bcc,nv"}}
    assert accuracy(tmp_path / "s.parquet", **options) == (right, ("akiec", "bcc", "nv"))
    with pytest.raises(InputError, match="name every column, or none"):
        read_predictions(tmp_path / "t.parquet", names=names | {"classes": "p0,p1,x"})


def test_hugging_face_parquet_names_its_classes_and_images_are_no_ids(tmp_path: Path) -> None:
    path = tmp_path / "hf.parquet"
    feature = {
        "info": {"features": {"label": {"names": ["nv", "9", "mel"], "_type": "ClassLabel"}}}
    }
    duckdb.sql(
        f"""COPY (SELECT {{'bytes': '\\xff\\xd8'::BLOB, 'path': i || '.jpg'}} AS image,
        (i % 3)::INTEGER AS label, [[i / 7, -i]]::FLOAT[2][] AS embedding FROM range(90) t(i))
        TO {literal(str(path))} (FORMAT parquet,
        KV_METADATA {{huggingface: {literal(json.dumps(feature))}}})"""
    )
    cache = import_cache(path, names={"features": "embedding"})
    assert cache.classes == ("nv", "9", "mel") and cache.label.tolist() == [0, 1, 2] * 30
    assert cache.features.shape == (90, 2) and cache.sample_id[1] == "1.jpg"


def test_each_parquet_file_has_the_class_names_that_it_states(tmp_path: Path) -> None:
    # datasets takes those of the first: findings/datasets-class-names-of-the-first-file.sh.
    truth, logits = simulated(k=3, n=90)
    names = ["akiec", "mel", "nv"]
    for file, order in (("a", [0, 1, 2]), ("b", [2, 0, 1])):
        own = [names[j] for j in order]
        stated = {"info": {"features": {"label": {"names": own, "_type": "ClassLabel"}}}}
        columns = {"label": np.argsort(order)[truth]}
        columns |= {f"logit_{name}": logits[:, j] for j, name in enumerate(names)}
        write_parquet(tmp_path / "plain.parquet", columns)
        duckdb.sql(
            f"""COPY (FROM '{tmp_path}/plain.parquet') TO '{tmp_path}/{file}.parquet' (
            FORMAT parquet, KV_METADATA {{huggingface: {literal(json.dumps(stated))}}})"""
        )
    first, second = (read_predictions(tmp_path / f"{file}.parquet") for file in "ab")
    assert first.classes == second.classes == tuple(names)
    assert np.array_equal(first.labels, truth) and np.array_equal(second.labels, truth)


def test_medmnist_layout_is_stacked_by_split(tmp_path: Path) -> None:
    labels, logits = simulated(k=3, n=60)
    parts = {"train": slice(0, 30), "val": slice(30, 45), "test": slice(45, 60)}
    arrays = {f"{s}_labels": labels[own, None].astype(np.uint8) for s, own in parts.items()}
    arrays |= {f"{s}_logits": logits[own] for s, own in parts.items()}
    arrays |= {f"{s}_features": logits[own, None] for s, own in parts.items()}
    np.savez(tmp_path / "m.npz", **arrays)
    found = read_predictions(tmp_path / "m.npz")
    assert (
        found.split is not None
        and found.split.tolist() == ["train"] * 30 + ["val"] * 15 + ["test"] * 15
    )
    assert np.array_equal(found.labels, labels) and np.array_equal(found.logits, logits)
    cache = import_cache(tmp_path / "m.npz")
    assert np.array_equal(cache.label, labels) and cache.features.shape == (60, 3)


def test_files_of_extractors_give_the_same_cache(tmp_path: Path) -> None:
    labels, logits = simulated(k=3, n=60)
    features = np.round(logits * 4).astype(np.float32) / 4  # bfloat16 holds these
    ids = [f"im{i}" for i in range(60)]
    np.save(tmp_path / "x_features.npy", features)
    np.save(tmp_path / "x_labels.npy", labels)
    (tmp_path / "x_filenames.txt").write_text("\n".join(ids))
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file["features"], file["labels"] = features, labels
        file.create_dataset("sample_ids", data=ids, dtype=h5py.string_dtype())
    header = {
        "features": {"dtype": "BF16", "shape": [60, 3], "data_offsets": [0, 360]},
        "labels": {"dtype": "I64", "shape": [60], "data_offsets": [360, 840]},
    }
    text = json.dumps(header).encode()
    half = (features.view(np.uint32) >> 16).astype("<u2")
    content = (
        len(text).to_bytes(8, "little") + text + half.tobytes() + labels.astype("<i8").tobytes()
    )
    (tmp_path / "b.safetensors").write_bytes(content)
    with tarfile.open(tmp_path / "s.tar", "w") as shard:
        for name, row, label in zip(ids, features, labels, strict=True):
            stream = BytesIO()
            np.save(stream, row)
            for ending, data in (("npy", stream.getvalue()), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.size = len(data)
                shard.addfile(member, BytesIO(data))
    for name in ("x_features.npy", "e.h5", "b.safetensors", "s.tar"):
        cache = open_cache(tmp_path / name)
        assert np.array_equal(cache.features, features), name
        assert np.array_equal(cache.label, labels), name
        assert name == "b.safetensors" or cache.sample_id.tolist() == ids, name


def test_rows_without_a_label_stay_so_in_hdf5(tmp_path: Path) -> None:
    # HDF5 makes -1 a 0 in unsigned bytes: findings/h5py-no-label-becomes-class-0.sh.
    labels, logits = simulated(k=3, n=60)
    labels[:5] = -1
    with h5py.File(tmp_path / "l.h5", "w") as file:
        file["features"], file["labels"] = logits, labels.astype(np.int8)
    cache = import_cache(tmp_path / "l.h5")
    assert np.array_equal(cache.label, labels)
    write_cache(tmp_path / "seed0.h5", cache)
    assert np.array_equal(open_cache(tmp_path / "seed0.h5").label, labels)
    with h5py.File(tmp_path / "seed0.h5") as file:
        assert {file[name].dtype.kind for name in ("label", "observed")} == {"i"}


@pytest.mark.parametrize("name", ["f.npz", "x_features.npy"])
def test_brain_floats_that_numpy_saved_say_how_to_save_them(name: str, tmp_path: Path) -> None:
    # They come back as void: findings/numpy-bfloat16-is-void.sh.
    labels, logits = simulated(k=3, n=60)
    void = (logits.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view("V2")
    np.savez(tmp_path / "f.npz", features=void, labels=labels)
    np.save(tmp_path / "x_features.npy", void)
    np.save(tmp_path / "x_labels.npy", labels)
    message = "has type |V2, bytes that say no number, as numpy saves bfloat16 and other types of "
    with pytest.raises(InputError, match=re.escape(message) + "ml_dtypes: save it as float32[.]$"):
        import_cache(tmp_path / name)


def test_probabilities_that_safetensors_shuffled_are_refused(tmp_path: Path) -> None:
    # It saves an array's memory as it lies: findings/safetensors-values-by-column.sh.
    labels, logits = simulated(k=3, n=60)
    probs = softmax(logits).astype(np.float32)

    def write(memory: np.ndarray, shape: tuple[int, ...]) -> Path:
        entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, memory.nbytes]}
        ends = [memory.nbytes, memory.nbytes + labels.nbytes]
        own = {"dtype": "I64", "shape": [60], "data_offsets": ends}
        text = json.dumps({"probs": entry, "labels": own}).encode()
        path = tmp_path / "p.safetensors"
        content = memory.tobytes() + labels.astype("<i8").tobytes()
        path.write_bytes(len(text).to_bytes(8, "little") + text + content)
        return path

    found = read_predictions(write(probs, probs.shape))
    assert found.probs is not None and np.array_equal(found.probs, probs)
    path = write(probs.T, probs.shape)
    message = (
        f"{path} holds the values of probs column by column, as safetensors 0.8 saves arrays that "
        "are not contiguous: save them anew, np.ascontiguousarray(probs), and the other arrays too."
    )
    for options in ({}, {"normalize": "l1"}):
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            read_predictions(path, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        open_source(path)


def test_torch_tensors_are_read_without_pickles(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    labels, logits = simulated(k=3, n=60)
    torch.save(
        {"features": torch.tensor(logits).bfloat16(), "labels": torch.tensor(labels)},
        tmp_path / "t.pt",
    )
    cache = import_cache(tmp_path / "t.pt")
    assert np.array_equal(cache.label, labels) and np.allclose(cache.features, logits, rtol=0.01)
    torch.save({"features": Path("x")}, tmp_path / "bad.pt")
    torch.save((torch.tensor(logits),), tmp_path / "tuple.pt")
    for name, message in (
        ("bad.pt", "pickled objects are not loaded"),
        ("tuple.pt", "save a dict"),
    ):
        with pytest.raises(InputError, match=message):
            import_cache(tmp_path / name)


def test_torch_files_without_torch_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.pt").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(TrustqError, match="np.savez"):
        import_cache(tmp_path / "t.pt")


def test_splits_and_blank_groups(tmp_path: Path) -> None:
    labels, logits = simulated(k=3, n=60)
    split = np.array(["Training", "validation", "test"])[np.arange(60) // 20]
    groups = np.where(np.arange(60) < 30, "NA", np.arange(60).astype(str))
    np.savez(
        tmp_path / "p.npz",
        logits=logits,
        labels=labels,
        split=split,
        groups=groups,
        features=logits,
    )
    found = read_predictions(tmp_path / "p.npz")
    assert found.split is not None and found.groups is not None
    assert found.split.tolist() == ["train"] * 20 + ["val"] * 20 + ["test"] * 20
    assert len(set(found.groups.tolist())) == 60
    assert len(set(import_cache(tmp_path / "p.npz").group_id.tolist())) == 60


@pytest.mark.parametrize("form", [int, float, str])
def test_splits_that_are_counted_0_1_2_are_train_val_test_with_a_note(
    tmp_path: Path, form: type
) -> None:
    """As CelebA, Waterbirds and WILDS write them; fewer numbers may mean anything."""
    labels, logits = simulated(k=3, n=60)
    split = np.arange(60) % 3
    arrays = {"logits": logits, "labels": labels, "features": logits}
    np.savez(tmp_path / "p.npz", split=split.astype(form), **arrays)
    found = read_predictions(tmp_path / "p.npz")
    assert found.split is not None
    assert found.split.tolist() == ["train", "val", "test"] * 20
    note = "splits are numbers, which are read as usual: 0 is train, 1 is val, 2 is test"
    assert note in found.notes
    cache = import_cache(tmp_path / "p.npz")
    assert cache.split.tolist() == ["train", "val", "test"] * 20
    np.savez(tmp_path / "p.npz", split=(split % 2).astype(form), **arrays)
    with pytest.raises(TrustqError, match="split 0, 1; expected train, val, test, external"):
        import_cache(tmp_path / "p.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": {"labels": "x"}}, "whose arrays have names of their own: leave out `labels`"),
        ({"names": {"classes": "a,b"}}, "names of their own: leave out `classes`"),
        ({"normalize": "l1"}, "leave out `normalize`"),
        ({"exposure": "frozen"}, "which says what its backbone has seen: leave out `exposure`"),
        ({"source": "file"}, "use `source=head` or `source=crossfit`"),
    ],
)
def test_an_audit_of_a_cache_refuses_what_is_of_files(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    write_cache(tmp_path / "seed0.h5", make_cache(n=60))
    with pytest.raises(InputError, match=message):
        open_source(tmp_path / "seed0.h5", **options)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_of_ids_are_read_in_the_encodings_of_tables(tmp_path: Path, encoding: str) -> None:
    labels, logits = simulated(k=3, n=60)
    np.savez(tmp_path / "f.npz", features=logits, labels=labels)
    (tmp_path / "ids.txt").write_text("\r\n".join(f"ä{i}" for i in range(60)) + "\n\n", encoding)
    cache = import_cache(tmp_path / "f.npz", ids=tmp_path / "ids.txt")
    assert cache.sample_id[:2].tolist() == ["ä0", "ä1"]
    (tmp_path / "ids.txt").write_text("\n".join(f"ä{i}" for i in range(60)), "cp1252")
    with pytest.raises(InputError, match=r"ids.txt is not UTF-8 .*iconv -f CP1252"):
        import_cache(tmp_path / "f.npz", ids=tmp_path / "ids.txt")


def test_bytes_of_another_encoding_are_refused(tmp_path: Path) -> None:
    labels, logits = simulated(k=3, n=60)
    names = np.array(["Kopfläsion".encode("latin-1"), b"mel", b"nv"])
    np.savez(tmp_path / "a.npz", logits=logits, labels=names[labels], classes=names)
    with pytest.raises(InputError, match=r"is not UTF-8: decode the texts.*'latin-1'"):
        read_predictions(tmp_path / "a.npz")


def test_scores_that_are_both_named_are_said(tmp_path: Path) -> None:
    labels, logits = simulated(k=3, n=60)
    np.savez(tmp_path / "a.npz", z=logits, p=softmax(-logits), labels=labels)
    asked = {"logits": "z", "probs": "p"}
    with pytest.raises(InputError, match="x"):
        read_predictions(tmp_path / "a.npz", names=asked | {"logits": "x"})
    assert accuracy(tmp_path / "a.npz", names=asked)[0] == (logits.argmax(axis=1) == labels).mean()
    notes = read_predictions(tmp_path / "a.npz", names=asked).notes
    assert "the file has logits and probabilities: the logits are used" in notes


def test_lists_of_names_hold_commas() -> None:
    known = ["Nevus, Reed", "Nevus", "SCC, Invasive"]
    assert split_names("SCC, Invasive", known=known) == ["SCC, Invasive"]
    assert split_names("Nevus, Nevus, Reed", known=known) == ["Nevus", "Nevus, Reed"]
    assert split_names('"Nevus, Reed",mel') == ["Nevus, Reed", "mel"]
    assert split_pairs('"Nevus, Reed=3",mel=2') == [("Nevus, Reed", "3"), ("mel", "2")]
    with pytest.raises(InputError, match="can be read as"):
        rejoined(["a", "b"], ["a, b", "a", "b"])


def predictions(folder: Path, name: str, ids: list[str], logits: np.ndarray, **more: Any) -> Any:
    labels = logits.argmax(axis=1)
    labels[::5] = (labels[::5] + 1) % 3
    np.savez(folder / name, logits=logits, labels=labels, sample_ids=np.array(ids), **more)
    return read_predictions(folder / name)


def test_lists_of_a_table_s_values_hold_commas(tmp_path: Path) -> None:
    rows = ["s1,Nevus", 's2,"Nevus, Reed"', 's3,"Nevus, Reed"', "s4,mel"]
    (tmp_path / "t.csv").write_text("\n".join(["id,label", *rows]) + "\n")
    for trust, ids in (
        ("label=Nevus, Reed", {"s2", "s3"}),
        ("label=mel,Nevus, Reed", {"s2", "s3", "s4"}),
        ("label=Nevus", {"s1"}),
    ):
        found = known_labels(trust=trust, metadata=tmp_path / "t.csv")
        assert found is not None and set(found.labels) == ids
    with pytest.raises(InputError, match="no row has label 'x'; there are 'Nevus', 'Nevus, Reed'"):
        known_labels(trust="label=x", metadata=tmp_path / "t.csv")
    many = [f"{place}{row}" for place, row in enumerate(rows * 10)]
    (tmp_path / "t.csv").write_text("\n".join(["id,label", *many]) + "\n")
    options: dict[str, Any] = {"table": tmp_path / "t.csv", "metadata_only": True}
    out = tmp_path / "m.parquet"
    made = prepare("csv", out=out, root=tmp_path, drop=["Nevus", "Reed"], id_column="id", **options)
    assert made.classes == ("Nevus", "mel")


def test_leaks_by_ending_are_refused_and_by_spelling_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    test = predictions(
        tmp_path, "t.npz", [f"im/IMG_{i:03d}" for i in range(60)], rng.normal(size=(60, 3))
    )
    same = predictions(
        tmp_path, "v.npz", [f"im/IMG_{i:03d}.PNG" for i in range(40, 100)], rng.normal(size=(60, 3))
    )
    with pytest.raises(DishonestError, match=r"20 of 60 rows of v\.npz are rows of t\.npz too"):
        evaluate(test, calibrate_on=same, replicates=20)
    near = predictions(
        tmp_path, "n.npz", [f"img_{i}.jpg" for i in range(50, 110)], rng.normal(size=(60, 3))
    )
    notes = evaluate(test, calibrate_on=near, replicates=20).report["notes"]
    assert any(
        "10 ids of the calibration rows and the test rows differ in spelling alone, e.g. "
        "'img_50.jpg' and 'im/IMG_050'" in note
        for note in notes
    )
    far = evaluate(
        test,
        calibrate_on=predictions(
            tmp_path, "f.npz", [f"x{i}" for i in range(60)], rng.normal(size=(60, 3))
        ),
        replicates=20,
    )
    assert not any("suspicion" in note for note in far.report["notes"])


def test_equal_rows_are_found_without_ids(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(90, 3))
    test = predictions(tmp_path, "t.npz", [f"a{i}" for i in range(60)], logits[:60])
    other = predictions(tmp_path, "o.npz", [f"b{i}" for i in range(40)], logits[50:])
    found = evaluate(test, externals=[other], replicates=20).report["external"]["o.npz"]
    assert any(
        "10 rows of o.npz equal rows of the rows of t.npz" in note for note in found["notes"]
    )
    copy = predictions(tmp_path, "c.npz", [f"c{i}" for i in range(60)], logits[:60])
    with pytest.raises(DishonestError, match="60 of 60 rows of c.npz equal rows of t.npz bit for"):
        evaluate(test, calibrate_on=copy, replicates=20)
    votes = rng.integers(0, 5, (300, 2)) / 5  # numbers of few values agree by chance
    assert equal_rows(votes[:150], votes[150:]) == []
    assert near_ids(np.array(["a/1.jpg", "b/1.jpg"]), np.array(["1"])) == []


def test_test_rows_among_others_are_told_at_import(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 4))
    features[50:] = features[:10]
    split = np.array(["train"] * 40 + ["test"] * 20)
    np.savez(tmp_path / "e.npz", features=features, labels=np.arange(60) % 3, split=split)
    notes = import_cache(tmp_path / "e.npz").recipe["notes"]
    assert "10 rows of the test rows equal rows of the other rows bit for bit" in notes


def test_in_sample_probabilities_are_suspected(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(300) % 3
    features = rng.normal(size=(300, 8)) + 3 * np.eye(3, 8)[truth]
    observed = np.where(rng.random(300) < 0.2, (truth + 1) % 3, truth)
    learnt, honest = softmax(8 * np.eye(3)[observed]), softmax(3 * np.eye(3)[truth])
    for probs, suspected in ((learnt, True), (honest, False)):
        for more in ({"labels": truth}, {}, {"features": features}):
            arrays = {"probs": probs, "observed": observed} | more
            np.savez(tmp_path / "p.npz", **arrays)
            notes = open_source(tmp_path / "p.npz", source="file").notes
            assert any("suspicion of in-sample" in note for note in notes) == suspected, more


def test_models_are_compared_whatever_the_ending_of_their_ids(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(size=(60, 3))
    a = predictions(tmp_path, "a.npz", [f"im{i}" for i in range(60)], logits)
    b = predictions(tmp_path, "b.npz", [f"im{i}.tif" for i in range(60)], logits)
    assert compare_models({"A": a, "B": b}, replicates=20).n == 60


@pytest.mark.parametrize("stem", ["p", "softmax_class", "c"])
@pytest.mark.parametrize("shift", [0, 1, 10])
def test_columns_that_end_in_numbers_are_of_these_classes(
    tmp_path: Path, stem: str, shift: int
) -> None:
    labels, logits = simulated(k=5, n=100)
    right = float((logits.argmax(axis=1) == labels).mean())
    columns = {f"{stem}{j + shift}": softmax(logits)[:, j] for j in (3, 1, 4, 0, 2)}
    table = {"label": labels + shift} | {f"prob_{name}": own for name, own in columns.items()}
    write_parquet(tmp_path / "t.parquet", table)
    found, classes = accuracy(tmp_path / "t.parquet")
    assert found == right
    assert classes == tuple(str(j + shift) for j in (3, 1, 4, 0, 2))
    write_parquet(tmp_path / "s.parquet", {"label": labels + shift} | columns)
    assert accuracy(tmp_path / "s.parquet", names={"probs": stem}) == (right, classes)
    # Texts name the columns as they are called.
    write_parquet(
        tmp_path / "n.parquet", {"label": [f"{stem}{y}" for y in labels + shift]} | columns
    )
    listed = ",".join(columns)
    assert accuracy(tmp_path / "n.parquet", names={"probs": listed}) == (right, tuple(columns))


def test_numbers_of_classes_out_of_order_are_not_guessed() -> None:
    column = np.array([0, 1, 2, 2])
    with pytest.raises(InputError, match=r"hold 0, which may be c0 or, counted from 0, c2"):
        read_labels(column, source="a.npz", classes=["c2", "c1", "c0"])
    assert read_labels(column, source="a.npz", classes=["c0", "c1", "c2"]).indices.tolist() == [
        *(0, 1, 2, 2)
    ]


@pytest.mark.parametrize("classes", [None, ["a", "b", "c", "d"]])
def test_positions_without_a_first_one_are_said(classes: list[str] | None) -> None:
    found = read_labels(np.array([1, 2, 3]), source="a.npz", classes=classes, width=4)
    assert "counted from 1, every label is off by one" in found.notes[0]


@pytest.mark.parametrize("titled", ["prob_0", "prob_1", "prob", "score", "prob_True", "prob_FALSE"])
@pytest.mark.parametrize("form", ["int", "bool", "text"])
def test_one_column_says_by_its_name_whose_it_is(tmp_path: Path, titled: str, form: str) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    probs = 1 / (1 + np.exp(-(3 * labels - 1.5 + rng.normal(size=80))))
    column = 1 - probs if titled in ("prob_0", "prob_FALSE") else probs
    given = {"int": labels, "bool": labels > 0, "text": np.array(["FALSE", "TRUE"])[labels]}[form]
    write_parquet(tmp_path / "t.parquet", {"label": given, titled: column})
    names = {} if "_" in titled else {"probs": titled}
    found, _ = accuracy(tmp_path / "t.parquet", names=names)
    assert found == ((probs > 0.5) == labels).mean()


def test_labels_that_are_flags_name_classes_that_are(tmp_path: Path) -> None:
    labels = np.array([True, False, True])
    assert read_labels(labels, source="a", classes=["True", "False"]).indices.tolist() == [0, 1, 0]
    assert read_labels(labels, source="a", width=2).indices.tolist() == [1, 0, 1]
    words = np.array(["true", "FALSE", ""])
    assert read_labels(words, source="a", classes=["0", "1"]).indices.tolist() == [1, 0, -1]
    with pytest.raises(InputError, match="labels are names"):
        read_labels(words, source="a", width=3)
    with pytest.raises(InputError, match="unknown class 'true'"):  # of more than two classes
        read_labels(words, source="a", classes=["0", "1", "2"])


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_decimal_commas_are_numbers(tmp_path: Path, ending: str) -> None:
    labels, logits = simulated(k=3, n=60)
    separator = ";" if ending == ".csv" else "\t"
    probs = softmax(logits)
    rows = [["label", "prob_0", "prob_1", "prob_2"]]
    rows += [
        [f"{y},0", *(f"{v:.9f}".replace(".", ",") for v in p)]
        for y, p in zip(labels, probs, strict=True)
    ]
    path = tmp_path / f"t{ending}"
    path.write_text("\n".join(separator.join(row) for row in rows) + "\n")
    assert accuracy(path)[0] == (logits.argmax(axis=1) == labels).mean()
    quoted = tmp_path / "q.csv"  # by commas too, where each number is quoted
    quoted.write_text(
        "\n".join(
            ",".join([r[0][0], *(f'"{v}"' for v in r[1:])]) if i else ",".join(r)
            for i, r in enumerate(rows)
        )
    )
    assert accuracy(quoted)[0] == (logits.argmax(axis=1) == labels).mean()


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("label,prob_a,prob_a\na,0.3,0.7\n")
    with pytest.raises(InputError, match="the header names two columns 'prob_a'"):
        read_predictions(tmp_path / "t.csv")


def test_formulas_without_a_value_are_no_blanks(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    for row in (
        ["id", "label", "prob_a", "prob_=b"],
        ["r1", "a", 0.9, 0.1],
        ["r2", "=b", 0.2, 0.8],
    ):
        book.active.append(row)
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(InputError, match=r"1 cell, first B3.*holds a formula without its value|D1"):
        read_predictions(tmp_path / "t.xlsx")


def test_several_binary_columns_are_texts(tmp_path: Path) -> None:
    names = np.array(["mel", "nv"])[np.arange(20) % 2]
    columns = {"id": [f"r{i}.jpg" for i in range(20)], "label": names}
    columns |= {f"prob_{name}": (names == name) * 0.8 + 0.1 for name in ("mel", "nv")}
    write_parquet(tmp_path / "texts.parquet", columns)
    source, target = (literal(str(tmp_path / f"{name}.parquet")) for name in ("texts", "t"))
    duckdb.sql(
        "COPY (SELECT * REPLACE (encode(id) AS id, encode(label) AS label) "
        f"FROM {source}) TO {target}"
    )
    found = read_predictions(tmp_path / "t.parquet")
    assert found.sample_ids is not None and found.sample_ids[0] == "r0.jpg"
    assert accuracy(tmp_path / "t.parquet") == (1.0, ("mel", "nv"))


def test_parts_of_a_file_are_called_by_any_word_for_a_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for word, n in (("train", 20), ("valid", 10), ("testing", 15)):
        arrays[f"{word}_features"] = rng.normal(size=(n, 4))
        arrays[f"{word}_labels"] = np.arange(n) % 3
    np.savez(tmp_path / "t.npz", **arrays)
    split = import_cache(tmp_path / "t.npz").split
    assert [int((split == name).sum()) for name in ("train", "val", "test")] == [20, 10, 15]


def test_classes_as_attributes_of_hdf5_and_under_other_names(tmp_path: Path) -> None:
    labels, logits = simulated(k=3, n=60)
    names = np.array(["nv", "mel", "bkl"])
    right = ((logits.argmax(axis=1) == labels).mean(), tuple(names))
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["logits"], file["labels"] = logits, names.astype("S")[labels]
        file.attrs["classes"] = names.astype("S")
    assert accuracy(tmp_path / "t.h5") == right
    np.savez(tmp_path / "t.npz", logits=logits, labels=names[labels], class_names=names)
    assert accuracy(tmp_path / "t.npz") == right


@pytest.mark.parametrize("word", ["-", ".", "?", "-1", "missing", "NA"])
def test_a_word_for_no_group_is_no_group(tmp_path: Path, word: str) -> None:
    labels, logits = simulated(k=3, n=60)
    groups = [word if i % 2 else f"L{i // 4}" for i in range(60)]
    np.savez(tmp_path / "t.npz", logits=logits, labels=labels, groups=np.array(groups))
    found = read_predictions(tmp_path / "t.npz").groups
    assert found is not None and len(set(found.tolist())) == 15 + 30


@pytest.mark.parametrize("groups", [["1.0", "2", "NA"], ["1", "2.0", ""], ["1.00", "2e0", "-1"]])
def test_groups_that_are_whole_numbers_are_the_same_in_every_spelling(
    tmp_path: Path, groups: list[str]
) -> None:
    labels, logits = simulated(k=2, n=6)
    np.savez(tmp_path / "t.npz", logits=logits, labels=labels, groups=np.array(groups * 2))
    found = read_predictions(tmp_path / "t.npz").groups
    assert found is not None and found.tolist() == ["1", "2", "row 2", "1", "2", "row 5"]
    np.savez(tmp_path / "t.npz", logits=logits, labels=labels, groups=["1.0", "01", "x"] * 2)
    found = read_predictions(tmp_path / "t.npz").groups
    assert found is not None and found.tolist() == ["1.0", "01", "x"] * 2
    table = tmp_path / "t.csv"
    rows = [f"i{n},c{n % 2},{group}" for n, group in enumerate(groups)]
    table.write_text("\n".join(["id,label,group_id", *rows]))
    made = read_rows(tmp_path, table=table, metadata_only=True)
    assert made.columns["group_id"].tolist() == ["1", "2", "i2"]


def test_names_composed_otherwise_are_the_same_class() -> None:
    decomposed = unicodedata.normalize("NFD", "Kopfl\u00e4sion")
    column = np.array([decomposed, "nv"])
    found = read_labels(column, source="a", classes=["nv", "Kopfl\u00e4sion"])
    assert found.indices.tolist() == [1, 0]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32"])
def test_wide_texts_without_a_mark_are_named(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "t.csv").write_text("label,prob_a,prob_b\na,0.3,0.7\n", encoding=encoding)
    with pytest.raises(InputError, match=r"has zero bytes, .* save it as UTF-8"):
        read_predictions(tmp_path / "t.csv")


def test_frames_keep_columns_apart_that_differ_in_case(tmp_path: Path) -> None:
    names = ["mel", "Mel", "MEL"]
    labels, logits = simulated(3, 60)
    right = float((logits.argmax(axis=1) == labels).mean())
    columns: dict[str, Any] = {f"logit_{name}": logits[:, j] for j, name in enumerate(names)}
    columns["label"] = np.array(names)[labels]
    for data in (pandas.DataFrame(columns), polars.DataFrame(columns)):
        found = tq.read_predictions(data, names={"labels": "label"})
        assert found.classes == tuple(names)
        assert (found.of_rows().argmax(axis=1) == found.labels).mean() == right
    # In a file too, whose names DuckDB changes.
    write_table(tmp_path / "t.parquet", {"Age": labels, "age": labels + 1, "age_1": labels + 2})
    read = read_table(tmp_path / "t.parquet")
    assert {name: column[0] for name, column in read.items()} == {"Age": 0, "age": 1, "age_1": 2}


@pytest.mark.parametrize("form", ["utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_the_advice_for_wide_letters_names_their_form(tmp_path: Path, form: str) -> None:
    path = tmp_path / "p.csv"
    text = "sample_id,label,prob_nv,prob_mel\n1,nv,0.9,0.1\n"
    path.write_bytes(text.encode(form))
    with pytest.raises(InputError) as error:
        read_predictions(path)
    named = re.search(r"iconv -f (\S+) -t UTF-8", str(error.value))
    assert named is not None and path.read_bytes().decode(named[1]) == text


def test_models_are_compared_and_calibrated_whatever_the_order_of_their_classes(
    tmp_path: Path,
) -> None:
    labels, logits = simulated(k=3, n=90)
    names, order = np.array(["nv", "mel", "bkl"]), [2, 0, 1]
    ids = np.array([f"r{row}" for row in range(90)])
    for name, own in (("a", [0, 1, 2]), ("b", order)):
        arrays = {"logits": logits[:, own], "labels": names[labels], "classes": names[own]}
        np.savez(tmp_path / f"{name}.npz", sample_ids=ids, **arrays)
    a, b = (read_predictions(tmp_path / f"{name}.npz") for name in "ab")
    (pair,) = compare_models({"A": a, "B": b}).pairs
    assert pair.figures["accuracy"].difference == 0
    assert pair.figures["nll"].difference == 0
    other = replace(b, sample_ids=np.array([f"v{row}" for row in range(90)]))
    shifted = replace(other, logits=other.logits + np.linspace(0, 1, 90)[:, None])
    figures = [
        evaluate(a, calibrate_on=rows, replicates=20).report["calibrated"]
        for rows in (shifted, shifted.in_order_of(names))
    ]
    assert figures[0] == figures[1] is not None
    assert a.in_order_of(("nv", "mel", "x")) is a


def test_models_whose_ids_are_numbers_are_compared_in_either_form(tmp_path: Path) -> None:
    labels, logits = simulated(k=3, n=90)
    a = tmp_path / "a.csv"
    lines = ["sample_id,label,logit_0,logit_1,logit_2"]
    rows = [f"{label},{x},{y},{z}" for label, (x, y, z) in zip(labels, logits, strict=True)]
    a.write_text("\n".join(lines + [f"{n},{row}" for n, row in enumerate(rows)]))
    back = list(enumerate(rows))[::-1]
    (tmp_path / "b.csv").write_text("\n".join(lines + [f"{n}.0,{row}" for n, row in back]))
    found = compare_models({"A": read_predictions(a), "B": read_predictions(tmp_path / "b.csv")})
    (pair,) = found.pairs
    assert found.n == 90 and pair.figures["nll"].difference == 0
    # Ids that are no numbers stay as they are.
    assert joined_keys(np.array(["7", "a"]), np.array(["7.0", "a"])) == [["7", "a"], ["7.0", "a"]]
    assert shared_ids(np.array(["7"]), np.array(["7.0"])) == ["7"]


def test_a_file_of_an_unknown_kind_says_which_kinds_are_read(tmp_path: Path) -> None:
    for name in ("t.feather", "t.jsonl"):
        (tmp_path / name).write_bytes(b"ARROW1 and more than a seal has bytes")
        with pytest.raises(InputError, match=r"expected a file that ends in \.npz.*save it as one"):
            read_predictions(tmp_path / name)
        with pytest.raises(InputError, match=r"expected a file that ends in \.npz"):
            open_source(tmp_path / name)
    assert is_cache(tmp_path / "missing.feather")


@pytest.mark.parametrize("title", ["prob_Malignant", "prob_BENIGN"])
def test_one_column_is_of_the_class_that_it_is_called_by_in_any_case(
    tmp_path: Path, title: str
) -> None:
    labels = np.arange(80) % 2
    probs = np.where(labels == 1, 0.9, 0.2)
    column = probs if title == "prob_Malignant" else 1 - probs
    names = np.array(["benign", "malignant"])[labels]
    write_parquet(tmp_path / "t.parquet", {"label": names, title: column})
    found, classes = accuracy(tmp_path / "t.parquet")
    assert found == 1 and set(classes) == {"benign", "malignant"}
    write_parquet(
        tmp_path / "one.parquet", {"label": names[labels == 1], "score": probs[labels == 1]}
    )
    with pytest.raises(InputError, match="name the two classes"):
        read_predictions(tmp_path / "one.parquet", names={"probs": "score"})


@pytest.mark.parametrize("shape", [(-1,), (-1, 1), (-1, 1, 1)])
def test_one_column_of_any_shape_is_one_column(tmp_path: Path, shape: tuple[int, ...]) -> None:
    labels = np.arange(80) % 2
    probs = np.where(labels == 1, 0.9, 0.2)
    np.savez(tmp_path / "a.npz", probs=probs.reshape(shape), labels=labels)
    assert accuracy(tmp_path / "a.npz")[0] == 1


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_contents_of_images_are_no_ids(tmp_path: Path, ending: str) -> None:
    labels, logits = simulated(k=3, n=60)
    encoded = np.array([f"{row:04d}" + "iVBORw0KGgo" * 120 for row in range(60)])
    columns = {"image": encoded, "labels": labels}
    if ending == "npz":
        np.savez(tmp_path / "a.npz", probs=softmax(logits), **columns)
    else:
        scores = {f"prob_{j}": softmax(logits)[:, j] for j in range(3)}
        write_parquet(tmp_path / "a.parquet", columns | scores)
    assert not read_predictions(tmp_path / f"a.{ending}").has_ids


def test_ids_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    labels, logits = simulated(k=3, n=60)
    ids = np.array([*(f"r{row}" for row in range(59)), None], dtype=object)
    np.savez(tmp_path / "a.npz", logits=logits, labels=labels, sample_ids=ids)
    notes = read_predictions(tmp_path / "a.npz").notes
    assert any(note.startswith("sample_ids is left out, for it holds Python") for note in notes)


@pytest.mark.parametrize("name", ["labels", "split", "groups", "classes", "probs"])
def test_one_value_for_all_rows_is_refused(tmp_path: Path, name: str) -> None:
    labels, logits = simulated(k=3, n=60)
    arrays = {"probs": softmax(logits), "labels": labels, name: np.array("test")}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=f"a.npz: {name} is one value, test; expected one per"):
        read_predictions(tmp_path / "a.npz")


@pytest.mark.parametrize("bad", [0.5, np.inf])
def test_numbers_that_are_no_class_are_called_numbers(tmp_path: Path, bad: float) -> None:
    labels, logits = simulated(k=3, n=60)
    given = np.where(labels == 1, bad, labels)
    np.savez(tmp_path / "a.npz", logits=logits, labels=given)
    with pytest.raises(InputError, match=f"labels hold {bad}; expected whole numbers or names"):
        read_predictions(tmp_path / "a.npz")


def _with_slips(n: int = 120) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Labels, those that were observed (ten are wrong), and further arrays of one file."""
    labels, logits = simulated(k=3, n=n)
    observed = np.where(np.arange(n) < 10, (labels + 1) % 3, labels)
    return labels, observed, {"probs": softmax(logits), "classes": np.array(["nv", "mel", "bcc"])}


@pytest.mark.parametrize("form", ["one", "split", "group", "nested tensors", "npy"])
def test_observed_labels_are_audited_wherever_a_file_has_them(tmp_path: Path, form: str) -> None:
    labels, observed, more = _with_slips()
    arrays = {"probs": more["probs"], "labels": labels, "observed": observed}
    if form in ("one", "split"):
        before = "test_" if form == "split" else ""
        path = tmp_path / "a.npz"
        np.savez(path, classes=more["classes"], **{f"{before}{k}": v for k, v in arrays.items()})
    elif form == "group":
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            file.attrs["classes"] = more["classes"].tolist()
            for name, own in arrays.items():
                file[f"data/{name}"] = own
    elif form == "nested tensors":
        torch = pytest.importorskip("torch")
        path = tmp_path / "a.pt"
        tensors = {name: torch.tensor(own) for name, own in arrays.items()}
        torch.save({"test": tensors, "classes": more["classes"].tolist()}, path)
    else:
        path = tmp_path / "probs.npy"
        for name, own in (arrays | {"classes": more["classes"]}).items():
            np.save(tmp_path / f"{name}.npy", own)
    found = open_source(path)
    assert found.observed.tolist() == observed.tolist()
    assert found.reference.tolist() == labels.tolist()


@pytest.mark.parametrize("name", ["labels", "label"])
def test_reference_labels_of_an_audit_are_read_as_all_labels_are(tmp_path: Path, name: str) -> None:
    labels, observed, more = _with_slips()
    order = [2, 0, 1]  # columns of classes in another order than the file's own names
    columns = {
        name: labels,
        "observed": observed,
        **{f"prob_{more['classes'][j]}": more["probs"][:, j] for j in order},
    }
    stated = {"names": more["classes"].tolist(), "_type": "ClassLabel"}
    features = {"info": {"features": {name: stated, "observed": stated}}}
    write_table(tmp_path / "hf.parquet", columns, metadata={"huggingface": features})
    found = open_source(tmp_path / "hf.parquet")
    assert found.cache.classes == ("bcc", "nv", "mel")
    assert [found.cache.classes[i] for i in found.reference] == more["classes"][labels].tolist()


def test_lists_in_a_column_are_one_hot_labels_or_refused(tmp_path: Path) -> None:
    labels, logits = simulated(k=3, n=60)
    columns = {f"prob_{j}": own for j, own in enumerate(softmax(logits).T)}
    write_table(tmp_path / "p.parquet", {"label": np.eye(3, dtype=int)[labels], **columns})
    right = float((logits.argmax(axis=1) == labels).mean())
    assert accuracy(tmp_path / "p.parquet") == (right, ("0", "1", "2"))
    pairs = np.stack([labels, labels], axis=1)
    for role in ("groups", "split"):
        path = tmp_path / f"{role}.npz"
        np.savez(path, logits=logits, labels=labels, **{role: pairs})
        message = re.escape(f"{path}: {role} has shape (60, 2); expected one per row, (n,).")
        with pytest.raises(InputError, match=message):
            read_predictions(path)


def test_a_row_at_fault_has_its_number_in_the_file(tmp_path: Path) -> None:
    labels, logits = simulated(k=3, n=60)
    probs = softmax(logits)
    probs[6] = 0.5
    path = tmp_path / "p.npz"
    np.savez(path, probs=probs, labels=np.where(np.arange(60) < 4, -1, labels))
    with pytest.raises(InputError, match=re.escape(f"{path}: probs row 7 sums to 1.5")):
        read_predictions(path)
    logits[6] = np.nan
    np.savez(path, logits=logits, labels=np.where(np.arange(60) < 4, -1, labels))
    with pytest.raises(InputError, match="1 of 56 rows, first in row 7: leave"):
        read_predictions(path)


def test_tensors_that_torch_has_not_worked_out_yet_are_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    labels, logits = simulated(k=3, n=60)
    tensor = torch.imag(torch.complex(torch.zeros(60, 3), -torch.tensor(logits).float()).conj())
    assert tensor.is_neg()
    torch.save({"logits": tensor, "labels": torch.tensor(labels)}, tmp_path / "t.pt")
    right = float((logits.argmax(axis=1) == labels).mean())
    assert accuracy(tmp_path / "t.pt")[0] == right


def test_two_images_of_one_name_are_joined_by_their_endings(tmp_path: Path) -> None:
    labels, logits = simulated(k=3, n=60)
    ids = [f"a/{row // 2}.{'jpg' if row % 2 else 'png'}" for row in range(60)]
    np.savez(tmp_path / "p.npz", logits=logits, sample_ids=ids)
    right = logits.argmax(axis=1) == labels
    for rows in (slice(0, 60), slice(1, 60, 2)):
        columns = {"sample_id": np.array(ids[rows], dtype=object), "label": labels[rows]}
        write_table(tmp_path / "m.parquet", columns)
        found = read_predictions(tmp_path / "p.npz", meta=[tmp_path / "m.parquet"])
        assert found.sample_ids.tolist() == ids[rows]
        assert (found.of_rows().argmax(axis=1) == found.labels).tolist() == right[rows].tolist()
    twice = ["b.jpg", "b", *ids[2:]]
    columns = {"sample_id": np.array(twice, dtype=object), "label": labels}
    write_table(tmp_path / "m.parquet", columns)
    with pytest.raises(InputError, match="sample_id must be unique to be joined by"):
        read_predictions(tmp_path / "p.npz", meta=[tmp_path / "m.parquet"])


def test_blanks_of_a_joined_table_are_blanks_whether_or_not_it_has_every_row(
    tmp_path: Path,
) -> None:
    labels, logits = simulated(k=3, n=60)
    np.savez(tmp_path / "p.npz", logits=logits, sample_ids=[f"i{row}" for row in range(60)])
    for n in (60, 50):
        rows = [f"('i{i}', {'NULL' if i < 9 else labels[i]}, {i // 2})" for i in range(n)]
        duckdb.sql(
            f"COPY (SELECT * FROM (VALUES {', '.join(rows)}) t(sample_id, label, group_id)) "
            f"TO '{tmp_path / 'm.parquet'}'"
        )
        found = read_predictions(tmp_path / "p.npz", meta=[tmp_path / "m.parquet"])
        assert found.labels.tolist() == labels[9:n].tolist()


def test_a_list_as_python_prints_it_is_a_list_of_names() -> None:
    names = ["nv", "mel, in situ", "it's"]
    assert split_names(str(names)) == names == split_names(json.dumps(names))
    assert split_names("['a' 'b']") == ["['a' 'b']"]


def test_parts_of_a_file_that_are_left_out_are_said(tmp_path: Path) -> None:
    labels, logits = simulated(k=3, n=60)
    parts = {"train": slice(0, 40), "test": slice(40, 60)}
    both = {f"{s}_features": logits[rows] for s, rows in parts.items()}
    both |= {f"{s}_labels": labels[rows] for s, rows in parts.items()}
    path = tmp_path / "a.npz"
    np.savez(path, **both, test_logits=logits[40:], train_groups=np.arange(40))
    cache = import_cache(path)
    assert cache.label.tolist() == labels[40:].tolist()
    assert "features of train is left out, for there is no logits of it" in cache.recipe["notes"]
    assert "groups is left out, for there is none of test" in cache.recipe["notes"]
    np.savez(path, **both)
    assert "notes" not in import_cache(path).recipe
    np.savez(path, **(both | {"test_labels": np.array(["a", "b"] * 10)}))
    with pytest.raises(InputError, match="labels holds numbers in one of train, test and texts"):
        import_cache(path)
    np.savez(path, **both, train_groups=np.arange(39), test_groups=np.arange(20))
    notes = import_cache(path).recipe["notes"]
    assert "groups is left out, for features has other numbers of rows" in notes


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes", "nv,mel,bcc"),
        ("classes", "['nv', 'mel', 'bcc']"),
        ("class_names", '["nv", "mel", "bcc"]'),
        ("Classes", "nv,mel,bcc"),
        ("id2label", '{"1": "mel", "0": "nv", "2": "bcc"}'),
        ("class_to_idx", '{"bcc": 2, "mel": 1, "nv": 0}'),
    ],
)
def test_class_names_in_the_metadata_of_a_file(tmp_path: Path, name: str, text: str) -> None:
    from safetensors.numpy import save_file

    labels, logits = simulated(k=3, n=60)
    classes = ("nv", "mel", "bcc")
    save_file({"logits": logits, "labels": labels}, tmp_path / "p.safetensors", {name: text})
    right = float((logits.argmax(axis=1) == labels).mean())
    assert accuracy(tmp_path / "p.safetensors") == (right, classes)
    # Positions of an order that metadata state as such need no note.
    notes = read_predictions(tmp_path / "p.safetensors").notes
    assert any("positions" in note for note in notes) == (
        name.lower() in ("classes", "class_names")
    )
    if name.lower() in ("classes", "class_names"):
        with h5py.File(tmp_path / "p.h5", "w") as file:
            file["logits"], file["labels"], file.attrs[name] = logits, labels, text
        assert accuracy(tmp_path / "p.h5") == (right, classes)


def test_numbers_of_labels_are_those_that_metadata_give_to_classes(tmp_path: Path) -> None:
    """Columns of a table may stand in another order than the one that `id2label` counts."""
    columns = {"label": np.array([0, 1, 0]), "prob_b": np.array([0.1, 0.9, 0.2])}
    columns["prob_a"] = 1 - columns["prob_b"]
    write_table(tmp_path / "p.parquet", columns, metadata={"id2label": {"0": "a", "1": "b"}})
    found = read_predictions(tmp_path / "p.parquet")
    assert [found.classes[label] for label in found.labels] == ["a", "b", "a"]
    assert not any("positions" in note for note in found.notes)


def test_fields_of_a_struct_and_keys_of_dicts_are_columns_by_name(tmp_path: Path) -> None:
    """Also nested ones, of a path, a frame or a mapping; a blank is NaN and refused by its row."""
    labels = np.array(["nv", "mel", "nv", "A"])
    probs = np.array([[0.6, 0.3, 0.1], [0.5, 0.2, 0.3], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    rows = [dict(zip(("nv", "mel", "A"), row, strict=True)) for row in probs.tolist()]
    rows[1] = dict(reversed(rows[1].items()))  # the order of keys says nothing
    path = tmp_path / "p.parquet"
    polars.DataFrame({"label": labels, "probs": rows, "model": [{"own": r} for r in rows]}).select(
        "label", "probs", "model", image=polars.Series([{"bytes": b"\xff"}] * 4)
    ).write_parquet(path)
    frame = pandas.DataFrame({"label": labels, "probs": rows})
    sources = (path, frame, polars.DataFrame({"label": labels, "probs": rows}))
    mappings = [
        {"labels": frame["label"], "probs": given}
        for given in (rows, tuple(rows), frame["probs"], frame["probs"].iloc[::-1])
    ]
    mappings.append({"labels": labels, "probs": sources[2]["probs"]})
    for source in (*sources, *mappings):
        found = tq.read_predictions(source)
        assert found.classes == ("nv", "mel", "A")
        np.testing.assert_array_equal(found.probs, probs)
        assert found.labels.tolist() == [0, 1, 0, 2]
    nested = tq.read_predictions(path, names={"probs": "model.own"})
    np.testing.assert_array_equal(nested.probs, probs)
    quality = tq.label_quality(frame["label"], frame["probs"])
    np.testing.assert_array_equal(quality, [0.6, 0.2, 0.7, 0.8])
    with pytest.raises(TrustqError, match=r"The mapping: probs has NaN .* first in row 4"):
        tq.read_predictions({"labels": labels, "probs": [*rows[:3], None]})


def test_sorted_scores_are_of_no_class(tmp_path: Path) -> None:
    """As tools write the top k, beside their indices; rows that are all alike say nothing."""
    labels, logits = simulated(k=5, n=60)
    falling = -np.sort(-softmax(logits.astype(float)))
    path = tmp_path / "p.npz"
    np.savez(path, probs=falling, labels=labels, indices=np.argsort(-logits))
    with pytest.raises(TrustqError, match="probs fall from column to column in every row, as sort"):
        read_predictions(path)
    with pytest.raises(TrustqError, match="^The input: probs fall from column to column"):
        tq.label_quality(labels, falling)
    columns = {f"prob_{place}": falling[:, place] for place in range(5)}
    pandas.DataFrame({"label": labels, **columns}).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(
        TrustqError, match=r"sorted ones \(top-k\) do, so no column is of one class"
    ):
        read_predictions(tmp_path / "p.csv")
    np.savez(path, probs=np.tile(falling[0], (60, 1)), labels=labels)
    assert len(read_predictions(path)) == 60
    two = -np.sort(-np.stack([falling[:, 0], 1 - falling[:, 0]], axis=1))
    np.savez(path, probs=two, labels=labels % 2)
    assert any("no column is of one class" in note for note in read_predictions(path).notes)


def test_lists_that_are_texts_are_scores(tmp_path: Path) -> None:
    """As CSV has a column of lists."""
    labels, logits = simulated(k=3, n=30)
    frame = pandas.DataFrame({"labels": labels, "logits": [str(row) for row in logits.tolist()]})
    frame.to_csv(tmp_path / "p.csv", index=False)
    np.testing.assert_allclose(read_predictions(tmp_path / "p.csv").logits, logits)
    frame.loc[3, "logits"] = "[0.1, 0.2"
    frame.to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(TrustqError, match=r"logits holds several values .*, '\[0.1, 0.2'"):
        read_predictions(tmp_path / "p.csv")


def test_what_may_be_splits_or_one_group_is_said(tmp_path: Path) -> None:
    labels, logits = simulated(k=3, n=30)
    names = np.where(np.arange(30) % 2, "P1", "p1")
    np.savez(tmp_path / "p.npz", logits=logits, labels=labels, groups=names)
    notes = read_predictions(tmp_path / "p.npz").notes
    assert notes == (
        "groups 'P1' and 'p1' differ in case alone and are taken for two: spell them alike if they "
        "are one",
        "no ids: rows are named by their number",
    )
    frame = pandas.DataFrame({"label": labels, "is_test": labels == 0})
    frame[["logit_0", "logit_1", "logit_2"]] = logits
    notes = tq.read_predictions(frame).notes
    assert (
        "is_test is not used: if it says the splits of rows, write a column split of train, val "
        "and test"
    ) in notes
    np.savez(tmp_path / "p.npz", logits=logits, labels=labels, split=np.where(labels, "train", ""))
    with pytest.raises(TrustqError, match="has no rows of split test, only blank, train: call"):
        read_predictions(tmp_path / "p.npz").judged()


def test_tables_are_joined_by_whole_numbers_in_any_form(tmp_path: Path) -> None:
    """7.0 is what a table with a blank among its ids makes of 7; rows that it lacks are said."""
    labels, logits = simulated(k=3, n=6)
    np.savez(tmp_path / "p.npz", logits=logits, labels=labels, sample_ids=np.arange(6))
    (tmp_path / "m.csv").write_text("id,sex\n3.0,f\n1.0,m\n0.0,m\n2.0,f\n4.0,f\n")
    found = read_predictions(tmp_path / "p.npz", columns=["sex"], meta=[tmp_path / "m.csv"])
    assert found.columns["sex"].tolist() == ["m", "m", "f", "f", "f", None]
    assert "1 row is not in m.csv" in found.notes


def test_stacks_of_models_are_refused_with_a_way_out(tmp_path: Path) -> None:
    labels, logits = simulated(k=3, n=30)
    np.savez(tmp_path / "p.npz", logits=np.stack([logits, logits]), labels=labels)
    with pytest.raises(TrustqError, match="save one's, or the mean of their probabilities"):
        read_predictions(tmp_path / "p.npz")


@pytest.mark.parametrize("kind", ["STRUCT", "MAP", "list"])
def test_named_values_of_unlike_rows_in_one_column_are_refused_by_name(
    tmp_path: Path, kind: str
) -> None:
    made = {
        "MAP": "MAP {'nv': .2, 'mel': .8}",
        "list": "[{'label': 'nv', 'score': .2}, {'label': 'mel', 'score': .8}]",
    }
    path = tmp_path / "p.parquet"
    if kind == "STRUCT":
        polars.DataFrame({"label": ["nv"], "probs": [{"nv": 0.2, "NV": 0.8}]}).write_parquet(path)
        why = "has fields whose names differ in case alone: write each as a column of its own."
    else:
        duckdb.sql(f"COPY (SELECT 'nv' AS label, {made[kind]} AS probs) TO '{path}'")
        why = (
            "holds named values (in maps or lists): write each as a column of its own, scores as "
            "prob_<class> or logit_<class>."
        )
    with pytest.raises(TrustqError) as error:
        read_predictions(path)
    assert str(error.value) == f"{path}: probs {why}"
    with pytest.raises(
        TrustqError, match="^The mapping has no array labels; it has probs. Name it"
    ):
        tq.read_predictions({"probs": np.ones((3, 1))})


_ROWS = "label,prob_a,prob_b\na,.9,.1\nb,.2,.8\na,.5,.5\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "mixed"])
def test_comments_above_a_header_are_left_out_and_said(
    tmp_path: Path, encoding: str, ends: str
) -> None:
    text = '# made by "a model, and\n# with, some, more, commas\n\n' + _ROWS
    text = text.replace("\n", "\r\n", 1) if ends == "mixed" else text.replace("\n", ends)
    path = tmp_path / "p.csv"
    path.write_bytes(text.encode(encoding))
    found = read_predictions(path)
    assert found.labels.tolist() == [0, 1, 0]
    assert found.notes[0] == "2 lines above the header of p.csv left out (#)"


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("#id,p\nx,0.5\n", ["#id", "p"]),  # a header that begins so
        ("#id,p\n#x,0.5\ny,0.5\n", ["#id", "p"]),  # and a row
        ("id,p\n#x,0.5\n", ["id", "p"]),
    ],
)
def test_a_line_that_may_be_a_header_or_a_row_is_no_comment(
    tmp_path: Path, text: str, columns: list[str]
) -> None:
    (tmp_path / "t.csv").write_text(text)
    found = read_table(tmp_path / "t.csv")
    assert list(found) == columns and len(found["p"]) == text.count("\n") - 1


def test_lines_that_may_be_comments_or_a_header_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for text in ("# of a model\n#id,p\nx,0.5\n", "# of a model\n#\n1,0.5\n"):
        path.write_text(text)
        with pytest.raises(TrustqError) as error:
            read_table(path)
        assert str(error.value) == (
            f"{path}: lines 1 to 2 begin with #, and which are comments is not known: delete "
            "those, and write the names of the columns in the line above the rows, without #."
        )
    path.write_text("#a,b\n1,x,0.5\n2,y,0.5\n")  # row names without a title of their own
    with pytest.raises(TrustqError):
        read_table(path)


@pytest.mark.parametrize(
    ("column", "values", "note"),
    [
        ("fold", ["Train", "test"], "fold is not used: if it says the splits of rows, name it as "),
        ("Patient ID", ["7", "9"], "Patient ID is not used: if its rows belong together, name it"),
        ("labels", ["a", "b"], "labels are read from labels; label differs in 2 rows"),
        ("Labels", ["a", "b"], "labels are read from label; Labels differs in 2 rows"),
        ("site", ["x", "y"], None),
        ("words", ["train", "tracks"], None),
    ],
)
def test_columns_that_may_be_meant_and_are_not_used_are_said(
    tmp_path: Path, column: str, values: list[str], note: str | None
) -> None:
    rows = [f"b,.8,.2,{values[0]}", f"a,.8,.2,{values[1]}"] + [f",.8,.2,{values[0]}"] * 2
    (tmp_path / "t.csv").write_text("\n".join([f"label,prob_a,prob_b,{column}", *rows]))
    notes = read_predictions(tmp_path / "t.csv").notes
    usual = ("2 of 4 rows have no label", "no groups", "no ids")
    told = [one for one in notes if not one.startswith(usual)]
    assert told == [] if note is None else (len(told) == 1 and told[0].startswith(note))


def test_rows_that_a_joined_table_spells_otherwise_are_said(tmp_path: Path) -> None:
    rows = [f"{i},.8,.2" for i in range(12)]
    (tmp_path / "t.csv").write_text("\n".join(["id,prob_a,prob_b", *rows]))
    rows = [f"{i:02d},{'ab'[i % 2]}" for i in range(12)]
    (tmp_path / "m.csv").write_text("\n".join(["id,label", *rows]))
    found = read_predictions(tmp_path / "t.csv", meta=[tmp_path / "m.csv"])
    assert found.notes[0] == (
        "10 rows are not in m.csv (10 differ in spelling alone from ids that are there, e.g. '0' "
        "and '00')"
    )
    # A label of the file's own goes before that of the table.
    rows = [f"{i:02d},b,.8,.2" for i in range(12)]
    (tmp_path / "t.csv").write_text("\n".join(["id,label,prob_a,prob_b", *rows]))
    found = read_predictions(tmp_path / "t.csv", meta=[tmp_path / "m.csv"])
    assert found.labels.tolist() == [1] * 12
    assert found.notes[0] == (
        "labels are read from label; the label of a joined table differs in 6 rows"
    )


def test_logits_that_are_probabilities_are_said(tmp_path: Path) -> None:
    labels, logits = simulated(k=3, n=300)
    told = (
        "the logits are at least 0 and sum to 1 in every row: if they are probabilities, name them "
        "as probs, for otherwise confidence is far too low"
    )
    path = tmp_path / "t.npz"
    for array, is_told in ((softmax(logits), True), (logits, False), (np.abs(logits), False)):
        np.savez(path, labels=labels, logits=array, features=logits)
        assert (told in read_predictions(path).notes) == is_told
        assert (told in import_cache(path).recipe.get("notes", "")) == is_told


def test_ids_that_are_no_whole_numbers_are_left_out_and_said(tmp_path: Path) -> None:
    labels, logits = simulated(k=3, n=30)
    np.savez(tmp_path / "t.npz", labels=labels, logits=logits, id=np.arange(30) / 2)
    found = read_predictions(tmp_path / "t.npz")
    assert not found.has_ids and "id holds no whole numbers, and is left out" in found.notes


def test_further_sheets_of_a_workbook_are_said(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for line in _ROWS.splitlines():
        book.active.append(line.split(","))
    other = book.create_sheet("validation")
    path = tmp_path / "p.xlsx"
    for rows in (0, 1):
        for _ in range(rows):
            other.append(["label", "prob_a", "prob_b"])
        book.save(path)
        notes = read_predictions(path).notes
        assert ("of 2 sheets of p.xlsx the first is read" in notes) == bool(rows)


def test_a_prefix_takes_no_column_of_another_role(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("label,lesion_id,l0,l1\n0,a,9,0\n1,b,0,9\n")
    found = read_predictions(path, names={"logits": "l"})
    assert found.logits is not None and found.logits.tolist() == [[9, 0], [0, 9]]
    path.write_text("label,p0,p1,patient\n0,.9,.1,1\n1,.2,.8,0\n")
    with pytest.raises(TrustqError) as error:
        read_predictions(path, names={"probs": "p"})
    assert str(error.value) == (
        f"{path}: some columns that begin with p end in a number and some do not (patient): list "
        "those of the probs, `probs=a,b,c`."
    )
    path.write_text("label,f0,f1,fold\na,1,2,0\nb,3,4,1\n")
    cache = import_cache(path, names={"features": "f"})
    assert cache.features.tolist() == [[1, 2], [3, 4]]
    assert cache.recipe["notes"] == "no features, for they do not end in a number: fold"


@pytest.mark.parametrize("names", [["Yes", "No"], ["positive", "negative"]])
def test_ones_beside_a_yes_that_comes_first_are_not_guessed(names: list[str]) -> None:
    with pytest.raises(TrustqError) as error:
        read_labels(np.array([1, 0]), source="a.csv", classes=names)
    assert str(error.value) == (
        f"a.csv: labels hold 0, 1, where 1 is {names[0]} by usage and {names[1]} counted from 0: "
        "write labels as names of classes."
    )
    found = read_labels(np.array([1, 0]), source="a.csv", classes=names[::-1])
    assert found.indices.tolist() == [1, 0] and found.notes == ()


def test_a_frame_of_scores_has_its_prefix_in_any_case() -> None:
    probs = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    frame = pandas.DataFrame(probs, columns=["Prob_c", "Prob_a", "Prob_b"])
    assert tq.label_quality(["c", "a", "b"], frame) == pytest.approx([0.7, 0.8, 0.6])


def test_a_column_that_names_images_holds_none(tmp_path: Path) -> None:
    """Scores that are called by their classes alone are asked for, and images are not."""
    path = tmp_path / "p.csv"
    path.write_text("image,lesion,MEL,NV\na.jpg,NV,.1,.9\nb.jpg,MEL,.7,.3\n")
    with pytest.raises(TrustqError) as error:
        read_predictions(path)
    assert str(error.value) == (
        f"{path} has no columns prob_<class> or logit_<class>; it has image, lesion, MEL, NV. Name "
        "them (`probs`, `logits`)."
    )
    names = {"labels": "lesion", "probs": ["MEL", "NV"]}
    assert not any("lesion" in note for note in read_predictions(path, names=names).notes)


def test_labels_that_are_the_predictions_themselves_are_said(tmp_path: Path) -> None:
    labels, logits = simulated(n=80)
    np.savez(tmp_path / "p.npz", probs=softmax(logits), labels=logits.argmax(axis=1))
    notes = tq.audit_labels(tmp_path / "p.npz").audit.notes
    assert any("or the labels are its own predictions" in note for note in notes)


def test_numbers_with_leading_zeros_keep_them_and_are_not_pooled(tmp_path: Path) -> None:
    labels, logits = simulated(k=3, n=60)
    codes = np.array(["00", "01", "10"])
    frame = pandas.DataFrame(softmax(logits), columns=[f"prob_{code}" for code in codes])
    frame.insert(0, "label", codes[labels])
    frame.to_csv(tmp_path / "p.csv", index=False)
    right = (logits.argmax(axis=1) == labels).mean()
    assert accuracy(tmp_path / "p.csv") == (right, tuple(codes))
    frame.assign(label=np.array([0, 1, 10])[labels]).to_csv(tmp_path / "n.csv", index=False)
    assert accuracy(tmp_path / "n.csv") == (right, tuple(codes))
    assert read_labels(codes[labels], source="a").classes == tuple(codes)
    assert read_labels(np.array(["01", "2.0"]), source="a").classes == ("01", "2")
    for options in ({}, {"width": 2}, {"classes": ["p0", "p1"]}):
        with pytest.raises(InputError, match="hold 0, 00, which may be one class or two"):
            read_labels(np.array(["0", "00", "1"]), source="a", **options)


def test_minus_one_and_one_alone_are_asked_for_beside_features(tmp_path: Path) -> None:
    labels, logits = simulated(k=2, n=60)
    np.savez(tmp_path / "f.npz", features=logits, labels=2 * labels - 1)
    with pytest.raises(InputError, match="are -1 and 1, which are two classes"):
        import_cache(tmp_path / "f.npz")


def test_flags_are_of_the_class_that_the_columns_have_second(tmp_path: Path) -> None:
    labels, logits = simulated(k=2, n=60)
    probs = softmax(logits)
    frame = pandas.DataFrame({"label": np.where(labels, "TRUE", "FALSE")})
    right = (probs.argmax(axis=1) == labels).mean()
    for columns in (("benign", "malignant"), ("malignant",)):
        named = {f"prob_{name}": probs[:, int(name == "malignant")] for name in columns}
        frame.assign(**named).to_csv(tmp_path / "p.csv", index=False)
        found, classes = accuracy(tmp_path / "p.csv")
        assert found == right and classes[1] == "malignant"
    with pytest.raises(InputError, match="1 is yes by usage"):
        read_labels(np.array(["TRUE", "FALSE"]), source="a", classes=["yes", "no"])


def test_lists_in_torch_files_are_arrays_or_said(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    labels, logits = simulated(k=3, n=60)
    rows, path = torch.tensor(logits, dtype=torch.float32), tmp_path / "t.pt"
    groups = [None if i % 2 else f"L{i // 4}" for i in range(60)]
    torch.save({"features": rows, "labels": labels.tolist(), "groups": groups}, path)
    assert len(set(import_cache(path).group_id.tolist())) == 30 + 15
    lists = {"features": list(rows), "labels": list(torch.tensor(labels)), "args": [1, {}]}
    torch.save(lists, path)
    cache = import_cache(path)
    assert np.array_equal(cache.features, rows) and np.array_equal(cache.label, labels)
    for size, message in ((20, "matrices"), (25, "not all alike.*torch.cat")):
        torch.save({"features": list(rows.split(size)), "labels": labels.tolist()}, path)
        with pytest.raises(InputError, match=f"features is a list.*{message}"):
            import_cache(path)
    torch.save({"features": rows, "labels": labels.tolist(), "groups": [["a"], []] * 30}, path)
    with pytest.raises(InputError, match="groups is a list of values that are not all alike"):
        import_cache(path)


def test_stated_classes_that_contradict_those_of_the_file_are_refused(tmp_path: Path) -> None:
    labels, logits = simulated(k=3, n=60)
    names = np.array(["akiec", "bcc", "nv"])
    frame = pandas.DataFrame(logits, columns=[f"logit_{name}" for name in names])
    frame.insert(0, "label", names[labels])
    frame.to_csv(tmp_path / "p.csv", index=False)
    right = (logits.argmax(axis=1) == labels).mean()
    found = accuracy(tmp_path / "p.csv", names={"classes": ["nv", "bcc", "akiec"]})
    assert found == (right, tuple(names))
    for stated in (["akiec", "bcc"], ["akiec", "bcc", "nv", "mel"]):
        with pytest.raises(InputError, match="name every column, or none"):
            read_predictions(tmp_path / "p.csv", names={"classes": stated})
        with pytest.raises(InputError, match="name every column, or none"):
            tq.evaluate({"logits": frame.iloc[:, 1:], "labels": labels, "classes": stated})
    np.savez(tmp_path / "p.npz", logits=logits, labels=labels, classes=names)
    with pytest.raises(InputError, match="in the order akiec, bcc, nv, and they are given as nv,"):
        accuracy(tmp_path / "p.npz", names={"classes": ["nv", "bcc", "akiec"]})
    assert accuracy(tmp_path / "p.npz", names={"classes": ["x", "y", "z"]})[1] == ("x", "y", "z")


def test_a_frame_that_is_not_collected_is_refused_without_a_warning() -> None:
    with pytest.raises(InputError, match="Cannot read from LazyFrame"):
        tq.evaluate(polars.DataFrame({"label": [0], "prob_0": [1.0]}).lazy())


def test_one_column_that_is_never_below_a_half_may_be_the_confidence_of_the_answer(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=60)
    second = np.clip(0.5 + (labels - 0.5) * 0.6 + rng.normal(size=60) * 0.2, 0.01, 0.99)
    said = (
        "probs is .5 or more in every row: if it is the confidence of whichever class was "
        "predicted, and not the probability of 1, every figure is wrong: save 1 - p where the "
        "other class was predicted"
    )
    for probs, is_told in ((np.maximum(second, 1 - second), True), (second, False)):
        np.savez(tmp_path / "p.npz", probs=probs, labels=labels)
        assert (said in read_predictions(tmp_path / "p.npz").notes) == is_told


def test_numbers_as_texts_may_be_in_the_order_of_texts_which_is_said(tmp_path: Path) -> None:
    for k, is_told in ((13, True), (10, False)):
        labels, logits = simulated(k=k)
        texts = labels.astype(str)
        write_table(tmp_path / "p.parquet", {"labels": texts, "logits": logits})
        np.savez(tmp_path / "p.npz", logits=logits, labels=texts)
        np.savez(tmp_path / "b.npz", logits=logits, labels=texts.astype("S"))
        for name in ("p.npz", "b.npz", "p.parquet"):
            notes = " ".join(read_predictions(tmp_path / name).notes)
            assert ("are numbers written as texts" in notes) == is_told
        np.savez(tmp_path / "p.npz", logits=logits, labels=labels)
        assert "as texts" not in " ".join(read_predictions(tmp_path / "p.npz").notes)
        probs = softmax(logits)
        if is_told:
            with pytest.warns(UserWarning, match="are numbers written as texts"):
                tq.label_quality(labels.astype(str), probs)
        order = sorted(range(k), key=str)
        named = tq.label_quality(
            labels.astype(str), probs[:, order], classes=[str(j) for j in order]
        )
        assert np.array_equal(named, tq.label_quality(labels, probs))


def test_labels_in_a_column_a_class_are_told_how_to_become_one(tmp_path: Path) -> None:
    labels, logits = simulated(k=3, n=60)
    names = ["MEL", "NV", "BCC"]
    scores = {"image": [f"i{row}" for row in range(60)]}
    scores |= {name: logits[:, j].tolist() for j, name in enumerate(names)}
    marks = {"image": scores["image"]}
    marks |= {name: (labels == j).astype(float).tolist() for j, name in enumerate(names)}
    pandas.DataFrame(scores).to_csv(tmp_path / "scores.csv", index=False)
    pandas.DataFrame(marks).to_csv(tmp_path / "truth.csv", index=False)
    said = (
        r"If the columns MEL, NV, BCC mark the class of a row by 1, write one column of the "
        r"classes' names: in pandas, table\[names\].idxmax\(axis=1\)\."
    )
    asked: dict[str, Any] = {"meta": [tmp_path / "truth.csv"]}
    for labelled in ({}, {"labels": "MEL,NV,BCC"}):
        with pytest.raises(InputError, match=said):
            read_predictions(tmp_path / "scores.csv", names={"logits": names, **labelled}, **asked)
    truth = pandas.DataFrame(marks).set_index("image").idxmax(axis=1).rename("label")
    truth.to_csv(tmp_path / "truth.csv")
    found = accuracy(tmp_path / "scores.csv", names={"logits": names}, **asked)
    assert found == (float((logits.argmax(axis=1) == labels).mean()), tuple(names))


def test_percents_are_told_apart_from_logits(tmp_path: Path) -> None:
    labels, logits = simulated(k=3, n=60)
    percents = 100 * softmax(logits)
    for name, array in (("probs", percents), ("probs", percents[:, 2]), ("logits", percents)):
        np.savez(
            tmp_path / "p.npz", labels=labels if array.ndim == 2 else labels == 2, **{name: array}
        )
        if name == "probs":
            with pytest.raises(InputError, match="divide percents by 100"):
                read_predictions(tmp_path / "p.npz")
        else:
            notes = read_predictions(tmp_path / "p.npz").notes
            assert any("sum to 100 in every row: if they are percents" in note for note in notes)


def test_names_of_columns_without_their_signs_are_renamed_by_the_stated_classes(
    tmp_path: Path,
) -> None:
    labels, logits = simulated(k=3, n=60)
    names = ["Nevus, Reed", "Melanoma (in situ)", "SCC"]
    of_r = ["Nevus..Reed", "Melanoma..in.situ.", "SCC"]
    columns: dict[str, Any] = {"label": np.array(names)[labels]}
    columns |= {f"logit_{name}": logits[:, j] for j, name in enumerate(of_r)}
    pandas.DataFrame(columns).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(InputError, match=r"is that class, name the classes in their order"):
        read_predictions(tmp_path / "p.csv")
    right = float((logits.argmax(axis=1) == labels).mean())
    assert accuracy(tmp_path / "p.csv", names={"classes": names}) == (right, tuple(names))
    with pytest.raises(InputError, match="name every column, or none"):
        read_predictions(tmp_path / "p.csv", names={"classes": [names[1], names[0], "SCC"]})


def test_features_of_a_prefix_are_its_numbered_columns_and_nothing_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {f"feature_{j}": rng.normal(size=30) for j in range(3)}
    columns |= {"feature_label": np.arange(30) % 3, "label": np.arange(30) % 3}
    pandas.DataFrame(columns).to_csv(tmp_path / "f.csv", index=False)
    found = import_cache(tmp_path / "f.csv")
    assert found.features.shape == (30, 3)
    assert "no features, for they do not end in a number: feature_label" in found.recipe["notes"]
    named = {"feature_area": columns["feature_0"], "feature_edge": columns["feature_1"]}
    pandas.DataFrame({**named, "label": columns["label"]}).to_csv(tmp_path / "f.csv", index=False)
    assert import_cache(tmp_path / "f.csv").features.shape == (30, 2)


@pytest.mark.parametrize(
    "cell", ["[0.25 0.75]", "(0.25, 0.75)", '{"a": 0.25, "b": 0.75}', "0.25;0.75", "0.25 -0.75"]
)
def test_several_numbers_in_one_cell_say_how_they_are_written(tmp_path: Path, cell: str) -> None:
    frame = pandas.DataFrame({"label": [0, 1], "probs": [cell, cell]})
    frame.to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(InputError, match=r"probs holds several values in one cell, .* JSON list"):
        read_predictions(tmp_path / "p.csv")
    frame["probs"] = "[0.25, 0.75]"
    frame.to_csv(tmp_path / "p.csv", index=False)
    assert len(read_predictions(tmp_path / "p.csv")) == 2


def test_a_list_of_ids_has_them_in_the_column_that_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "img_emb_0.npy", np.random.default_rng(0).normal(size=(4, 3)))
    table = pandas.DataFrame(
        {"image_path": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"], "label": [0, 1, 0, 1]}
    )
    write_table(tmp_path / "m.parquet", {name: own.to_numpy(object) for name, own in table.items()})
    options: dict[str, Any] = {"ids": tmp_path / "m.parquet"}
    with pytest.raises(InputError, match=r"has no column of ids; .*: name it \(`sample_ids`\)"):
        import_cache(tmp_path / "img_emb_0.npy", **options)
    found = import_cache(tmp_path / "img_emb_0.npy", names={"sample_ids": "image_path"}, **options)
    assert found.sample_id.tolist() == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


@pytest.mark.parametrize("ending", ["csv", "npz", "parquet", "npy", "safetensors", "xlsx"])
def test_a_pointer_or_a_page_in_place_of_a_file_is_told(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"p.{ending}"
    for text, said in (
        ("version https://git-lfs.github.com/spec/v1\noid sha256:a\n", "git lfs pull fetches it"),
        ("<!DOCTYPE html><html></html>\n", "is a web page and not the file: download it again"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            read_predictions(path)


def test_arrays_of_fields_rows_of_labels_and_huge_numbers_are_refused(tmp_path: Path) -> None:
    labels, logits = simulated(k=3, n=30)
    fields = np.zeros(30, dtype=[("label", "i8"), ("probs", "f8", (3,))])
    np.save(tmp_path / "p.npy", fields)
    np.savez(tmp_path / "p.npz", probs=fields, labels=labels)
    for name in ("p.npy", "p.npz"):
        with pytest.raises(InputError, match="has the fields label, probs: save each as an array"):
            read_predictions(tmp_path / name)
    np.save(tmp_path / "p.npy", logits.astype(complex))
    with pytest.raises(InputError, match="has type complex128, expected numbers or texts"):
        read_predictions(tmp_path / "p.npy", names={"logits": "features"})
    np.savez(tmp_path / "p.npz", logits=logits, labels=labels[None])
    with pytest.raises(InputError, match=r"one row of all: save labels.reshape\(-1\)"):
        read_predictions(tmp_path / "p.npz")
    np.savez(tmp_path / "p.npz", logits=logits, labels=labels.astype(np.uint64) + 2**63)
    with pytest.raises(InputError, match="the 3 classes are counted from 0 to 2"):
        read_predictions(tmp_path / "p.npz")
