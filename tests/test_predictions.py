"""Reading predictions: every form gives the same rows, and what is wrong is said in full."""

import h5py
import numpy as np
import pandas
import pytest
from support import make_cache

import trustq as tq
from trustq.core.columns import write_parquet
from trustq.errors import TrustqError
from trustq.evaluation.predictions import read_predictions
from trustq.metrics.probabilities import softmax
from trustq.store import write_cache


def simulated(n=12, k=3, seed=0):
    rng = np.random.default_rng(seed)
    return np.arange(n) % k, softmax(rng.normal(size=(n, k))), np.array([f"s{i}" for i in range(n)])


def write_csv(path, header, rows):
    lines = [",".join(header), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def test_npz_csv_and_parquet_give_the_same_predictions(tmp_path):
    labels, probs, ids = simulated()
    groups = np.array([f"g{i // 2}" for i in range(12)])
    names = np.array(["a", "b", "c"])
    np.savez(
        tmp_path / "p.npz", labels=labels, probs=probs, sample_ids=ids, groups=groups, classes=names
    )
    header = ["sample_ids", "labels", "groups", "prob_a", "prob_b", "prob_c"]
    columns = [ids, names[labels], groups, *probs.T]
    write_csv(tmp_path / "p.csv", header, zip(*columns, strict=True))
    write_parquet(tmp_path / "p.parquet", dict(zip(header, columns, strict=True)))
    for ending in ("npz", "csv", "parquet"):
        found = read_predictions(tmp_path / f"p.{ending}")
        assert found.classes == ("a", "b", "c") and found.notes == ()
        assert np.array_equal(found.labels, labels) and found.logits is None
        assert found.of_rows() == pytest.approx(probs, abs=1e-12)
        assert found.sample_ids.tolist() == ids.tolist()
        assert found.groups.tolist() == groups.tolist()


def test_a_cache_gives_the_logits_of_its_labelled_rows(tmp_path):
    logits = np.random.default_rng(0).normal(size=(240, 3)).astype(np.float32)
    cache = make_cache(logits=logits, label=np.arange(240).astype(np.int16) % 4 - 1)
    write_cache(tmp_path / "c.h5", cache)
    found = read_predictions(tmp_path / "c.h5")
    kept = np.arange(240) % 4 > 0
    assert np.array_equal(found.logits, logits[kept].astype(float))
    assert found.notes == ("exposure frozen",)


def test_views_of_a_cache_are_conditions_of_its_labelled_rows(tmp_path):
    rng = np.random.default_rng(0)
    logits, blurred, noisy = rng.normal(size=(3, 240, 3)).astype(np.float32)
    features = np.zeros((240, 8), dtype=np.float32)
    extra = {}
    for name, values in (("blur-1", blurred), ("noise-1", noisy)):
        extra |= {
            f"views/{name}/features": features,
            f"views/{name}/logits": values,
            f"views/{name}/parameters": np.array(["{}"]),
        }
    label = np.arange(240).astype(np.int16) % 4 - 1
    write_cache(tmp_path / "c.h5", make_cache(logits=logits, label=label, extra=extra))
    kept = label >= 0
    found = read_predictions(tmp_path / "c.h5", conditions=["all"])
    assert list(found.conditions) == ["blur-1", "noise-1"]
    assert found.conditions["blur-1"] == pytest.approx(softmax(blurred[kept].astype(float)))
    one = read_predictions(tmp_path / "c.h5", conditions=["noise-1"])
    assert list(one.conditions) == ["noise-1"]
    assert read_predictions(tmp_path / "c.h5").conditions == {}
    with pytest.raises(TrustqError, match=r"c\.h5 has no view 'blur-2', only blur-1, noise-1\."):
        read_predictions(tmp_path / "c.h5", conditions=["blur-2"])


def test_a_table_joined_to_a_cache_gives_its_columns(tmp_path):
    cache = make_cache(logits=np.zeros((240, 3), dtype=np.float32))
    write_cache(tmp_path / "c.h5", cache)
    write_csv(tmp_path / "m.csv", ["sample_id", "site"], [("s0001", "face"), ("s0000", "hand")])
    found = read_predictions(tmp_path / "c.h5", columns=["site"], meta=[tmp_path / "m.csv"])
    assert found.columns["site"][:3].tolist() == ["hand", "face", None]
    with pytest.raises(TrustqError, match=r"c\.h5 has no age; it has sample_ids, labels, logits"):
        read_predictions(tmp_path / "c.h5", columns=["age"])


def test_logits_are_no_condition_of_themselves(tmp_path):
    labels, probs, _ = simulated()
    np.savez(tmp_path / "p.npz", labels=labels, logits=np.log(probs), other=probs)
    assert list(read_predictions(tmp_path / "p.npz", conditions=["all"]).conditions) == ["other"]


def test_metadata_is_joined_by_id_with_or_without_an_ending(tmp_path):
    _, probs, _ = simulated(n=3)
    write_csv(
        tmp_path / "p.csv",
        ["image", "A", "B", "C"],
        [(f"x{i}.jpg", *row) for i, row in enumerate(probs)],
    )
    write_csv(
        tmp_path / "m.csv",
        ["image_id", "dx", "lesion_id", "age"],
        [("x2", "c", "L1", 50), ("x0", "a", "L1", ""), ("x1", "b", "", 20), ("x9", "a", "L9", 1)],
    )
    found = read_predictions(
        tmp_path / "p.csv",
        names={"labels": "dx", "probs": "A,B,C"},
        meta=[tmp_path / "m.csv"],
        columns=["age"],
    )
    assert found.labels.tolist() == [0, 1, 2] and found.classes == ("A", "B", "C")
    # A row without a group is a group of its own.
    assert found.groups.tolist() == ["L1", "row x1.jpg", "L1"]
    assert found.columns["age"].tolist() == [None, "20", "50"]


def test_other_names_conditions_and_normalization(tmp_path):
    labels, probs, _ = simulated()
    path = tmp_path / "p.npz"
    np.savez(path, y_true=labels.astype(np.uint8), clean=3 * probs, blur=probs, noise=probs[::-1])
    options = {"names": {"labels": "y_true", "probs": "clean"}, "normalize": "l1"}
    found = read_predictions(path, **options, conditions=["blur"])
    assert found.of_rows() == pytest.approx(probs)
    assert found.notes == (
        "rows were normalized (l1)",
        "no groups: every row counts as independent, so intervals may be too narrow",
        "no ids: rows are named by their number",
    )
    assert list(found.conditions) == ["blur"]
    every = read_predictions(path, **options, conditions=["all"])
    assert list(every.conditions) == ["blur", "noise"]
    logits = read_predictions(path, names={"labels": "y_true", "logits": "blur"})
    assert np.array_equal(logits.logits, probs)
    as_softmax = {"names": {"labels": "y_true", "probs": "blur"}, "normalize": "softmax"}
    assert read_predictions(path, **as_softmax).of_rows() == pytest.approx(softmax(probs))


def save(tmp_path, **arrays):
    labels, probs, ids = simulated()
    np.savez(tmp_path / "p.npz", **({"labels": labels, "probs": probs, "sample_ids": ids} | arrays))
    return tmp_path / "p.npz"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"probs": np.tile([2.0, -1.0, 0.0], (12, 1))},
            "probs lies in [-1, 2], expected [0, 1]: pass probabilities, or pass these numbers as "
            "logits. For scores of another kind: `normalize=l1`, `normalize=softmax`, or "
            "`logits=NAME`.",
        ),
        (
            {"probs": np.full((12, 3), 0.3)},
            "probs row 1 sums to 0.9, expected 1: normalize the rows, or pass logits. For scores "
            "of another kind: `normalize=l1`, `normalize=softmax`, or `logits=NAME`.",
        ),
        (
            {"probs": np.full((12, 3), np.nan)},
            "probs has NaN or infinite values in 12 of 12 rows, first in row 1: leave these rows "
            "out, or clip log-probabilities of zero. For scores of another kind: `normalize=l1`, "
            "`normalize=softmax`, or `logits=NAME`.",
        ),
        (
            {"sample_ids": np.array(["a", "b", "a", "c", "a"] + list("defghij"))},
            "sample_ids must be unique; 2 are repeated, e.g. 'a': name the column of ids "
            "(`sample_ids`), or leave it out, and rows are numbered.",
        ),
        ({"sample_ids": np.array(["a"])}, "sample_ids has 1 row, the file 12."),
        ({"groups": np.array(["a"])}, "groups has 1 row, the file 12."),
        (
            {"classes": np.array(["a", "b"])},
            "names 2 classes (a, b) for 3 columns of scores: give every column its class, in "
            "column order.",
        ),
        (
            {"labels": np.array(["a", "b"] * 6), "classes": np.array(["b", "c", "d"])},
            "labels: unknown class 'a'; expected one of b, c, d.",
        ),
        (
            {"labels": np.array(["a", "b"] * 6)},
            "labels are names (a, b), so the order of the 3 columns of logits or probs is not "
            "known: name the classes in that order (`classes`).",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, arrays, message):
    path = save(tmp_path, **arrays)
    with pytest.raises(TrustqError) as error:
        read_predictions(path)
    assert str(error.value).removeprefix(f"{path}: ").removeprefix(f"{path} ") == message


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"labels": np.arange(12)},
            "{path}: labels hold 11, but the 3 classes are counted from 0 to 2. If the numbers are "
            "names of classes, state these in the order of the columns.",
        ),
        (
            {"labels": np.full(12, -1)},
            "{path} has no row with a label: predictions are judged by labels.",
        ),
        (
            {"labels": np.array([0, 1])},
            "labels has 2 rows and probs has 12: pass the same rows in the same order.",
        ),
        (
            {"labels": np.zeros(12_000, int), "probs": np.full((10_000, 3), 1 / 3)},
            "labels has 12,000 rows and probs has 10,000: pass the same rows in the same order.",
        ),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, arrays, message):
    with pytest.raises(TrustqError) as error:
        read_predictions(save(tmp_path, **arrays))
    assert str(error.value) == message.format(path=tmp_path / "p.npz")


def test_missing_names_are_listed(tmp_path):
    path = save(tmp_path)
    bad = [
        (
            {"names": {"labels": "y"}},
            f"{path} has no y for labels; it has labels, probs, sample_ids.",
        ),
        ({"columns": ["age"]}, f"{path} has no age; it has labels, probs, sample_ids."),
        ({"normalize": "l2"}, "`normalize=l2`: expected l1 or softmax."),
    ]
    for options, message in bad:
        with pytest.raises(TrustqError) as error:
            read_predictions(path, **options)
        assert str(error.value) == message
    with pytest.raises(TrustqError) as error:
        read_predictions(tmp_path / "none.npz")
    assert str(error.value) == f"{tmp_path}/none.npz: no such file."
    np.savez(tmp_path / "q.npz", labels=np.arange(3))
    with pytest.raises(TrustqError) as error:
        read_predictions(tmp_path / "q.npz")
    assert str(error.value) == (
        f"{tmp_path}/q.npz has no array probs or logits; it has labels. Name them (`probs`, "
        "`logits`)."
    )


def test_pickled_objects_are_not_loaded(tmp_path):
    path = save(tmp_path, labels=np.array([{}] * 12, dtype=object))
    with pytest.raises(TrustqError) as error:
        read_predictions(path)
    assert str(error.value) == (
        f"{path}: labels holds Python objects, which are pickled and not loaded: save it as plain "
        "numbers or texts, e.g. np.array(labels.tolist()), or np.array(labels, dtype=str)."
    )
    # One that nobody asked for is no obstacle.
    path = save(tmp_path, unused=np.array([{}] * 12, dtype=object))
    assert len(read_predictions(path)) == 12


@pytest.mark.parametrize("names", [["nv", "bcc", "mel"], ["bcc", "Mel", "nv"], ["2", "0", "1"]])
def test_positions_of_classes_that_are_not_sorted_are_told(tmp_path, names):
    rows = [f"{i % 3},{','.join('.8' if j == i % 3 else '.1' for j in range(3))}" for i in range(9)]
    head = ",".join(["label", *(f"prob_{name}" for name in names)])
    path = tmp_path / "p.csv"
    path.write_text("\n".join([head, *rows]), encoding="utf-8")
    read = read_predictions(path)
    told = [note for note in read.notes if "positions" in note]
    if names[0] == "nv":
        assert told == [
            "whole numbers of labels are positions of the classes as they stand (0 is nv, 1 is "
            "bcc, 2 is mel): if they count names in sorted order, most labels are others"
        ]
    else:  # sorted whatever the case, or called by the numbers themselves
        assert told == []


@pytest.mark.parametrize("spelt", [str.lower, str.upper, str.title])
@pytest.mark.parametrize("ending", ["npz", "h5", "npy", "csv", "parquet", "xlsx", "frame", "dict"])
def test_every_array_is_found_in_any_case(tmp_path, ending, spelt):
    labels, probs, ids = simulated()
    names, split = np.array(["c", "a", "b"]), np.repeat(["val", "test"], 6)
    groups = np.array([f"g{i // 2}" for i in range(12)])
    arrays = {"sample_ids": ids, "labels": names[labels], "groups": groups, "split": split}
    arrays |= {"probs": probs, "classes": names}
    arrays = {spelt(name): array for name, array in arrays.items()}
    columns = {"image_id": ids, "label": names[labels], "lesion_id": groups, "split": split}
    columns = {spelt(name): column for name, column in columns.items()}
    columns |= {spelt("prob_") + name: probs[:, j] for j, name in enumerate(names)}
    path = tmp_path / f"p.{ending}"
    if ending in ("npz", "npy"):
        np.savez(tmp_path / "p.npz", **arrays)
        for name, array in arrays.items():  # beside each other
            np.save(tmp_path / f"{name}.npy", array)
        path = path if ending == "npz" else tmp_path / f"{spelt('probs')}.npy"
    elif ending == "h5":
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array if array.dtype.kind == "f" else array.astype("S")
    elif ending == "csv":
        write_csv(path, columns, zip(*columns.values(), strict=True))
    elif ending == "parquet":
        write_parquet(path, columns)
    elif ending == "xlsx":
        pandas.DataFrame(columns).to_excel(path, index=False)
    source = {"frame": pandas.DataFrame(columns), "dict": arrays}.get(ending, path)
    found = tq.read_predictions(source)
    assert found.classes == ("c", "a", "b") and found.notes == ()
    assert np.array_equal(found.labels, labels)
    assert found.of_rows() == pytest.approx(probs, abs=1e-12)
    assert found.sample_ids.tolist() == ids.tolist() and found.groups.tolist() == groups.tolist()
    assert found.split.tolist() == split.tolist()


def test_a_name_as_it_is_spelt_goes_before_other_cases(tmp_path):
    path = tmp_path / "p.csv"
    head = ["ID", "image", "Label", "label", "PROB_a", "Logit_a", "Logit_b", "prob_a", "prob_b"]
    write_csv(path, head, [[7, f"r{i}", "b", "a", 0, 0, 9, 0.9, 0.1] for i in range(4)])
    found = read_predictions(path)
    assert found.sample_ids.tolist() == ["r0", "r1", "r2", "r3"]
    assert found.labels.tolist() == [0] * 4 and found.of_rows()[0].tolist() == [0.9, 0.1]
    # What is asked for as one array is no other one by its usual name.
    write_csv(path, ["Label", "Group_ID", "PROB_A", "PROB_B"], [["x", "b", 0.9, 0.1]] * 4)
    found = read_predictions(path, names={"labels": "Group_ID"})
    assert found.labels.tolist() == [1] * 4 and found.groups is None


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (
            ["Label", "LABEL", "prob_a", "prob_b"],
            "{path} has Label and LABEL, which differ in case alone: name the one of the labels "
            "(`labels`).",
        ),
        (
            ["label", "Prob_a", "PROB_b", "PROB_c"],
            "{path} has columns PROB_..., Prob_..., which differ in case alone: name those of the "
            "probs (`probs`).",
        ),
        (
            ["truth", "prob_a", "prob_b"],
            "{path} has no column labels; it has truth, prob_a, prob_b. Name it (`labels`).",
        ),
    ],
)
def test_columns_that_are_not_known_for_one_array_are_named(tmp_path, head, message):
    path = tmp_path / "p.csv"
    write_csv(path, head, [["a", *(["a"] * (len(head) - 3)), 0.4, 0.6]] * 4)
    with pytest.raises(TrustqError) as error:
        read_predictions(path)
    assert str(error.value) == message.format(path=path)


def test_a_frame_of_scores_under_another_name_is_read_by_its_columns():
    labels, probs, _ = simulated()
    order = [2, 0, 1]
    frame = pandas.DataFrame(probs[:, order], columns=np.array(["a", "b", "c"])[order])
    source = {"y": np.array(["a", "b", "c"])[labels], "p": frame}
    asked = {"labels": "y", "probs": "p"}
    for names in (asked, asked | {"classes": ["c", "a", "b"]}):
        found = tq.read_predictions(source, names=names)
        assert found.classes == ("c", "a", "b")
        assert found.of_rows()[:, [1, 2, 0]] == pytest.approx(probs)
    with pytest.raises(TrustqError) as error:
        tq.read_predictions(source, names=asked | {"classes": ["a", "b", "c"]})
    assert str(error.value) == (
        "The columns of p are of c, a, b, and the classes are called a, b, c: leave out "
        "`classes`, or give them in the order of the columns."
    )


def test_labels_that_are_always_the_largest_score_may_be_predictions(tmp_path) -> None:
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), size=60)
    said = "the label has the largest score in every row"
    for labels, is_told in ((probs.argmax(axis=1), True), (rng.integers(3, size=60), False)):
        np.savez(tmp_path / "p.npz", probs=probs, labels=labels)
        notes = read_predictions(tmp_path / "p.npz").notes
        assert any(note.startswith(said) for note in notes) == is_told


def test_values_of_a_slice_in_two_cases_are_told(tmp_path) -> None:
    frame = pandas.DataFrame({"label": [0, 1], "prob_0": [0.5, 0.4], "prob_1": [0.5, 0.6]})
    frame["sex"] = ["Male", "male "]
    frame.to_csv(tmp_path / "p.csv", index=False)
    assert (
        "'Male' and 'male' of sex differ in case alone and are taken for two: spell them alike if "
        "they are one"
    ) in read_predictions(tmp_path / "p.csv", columns=["sex"]).notes
