"""The cache: what is written is read; damage, mixing and half-written files are noticed."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest
from support import make_cache

from trustq.core.foreign_files import read_foreign
from trustq.data.manifest import make_manifest
from trustq.errors import TrustqError
from trustq.store import (
    Cache,
    find_caches,
    import_cache,
    read_attributes,
    read_cache,
    require_same_manifest,
    verify_cache,
    write_cache,
    writing_cache,
)
from trustq.store.format import SEEN_OBSERVED, USER_BLOCK


def test_read_returns_what_was_written(tmp_path: Path) -> None:
    cache = make_cache(
        logits=np.ones((240, 3), np.float32),
        noise={"spec": "symmetric:0.2", "rate": 0.19},
        preprocessing={"size": 64},
        extra={"history/train_loss": np.arange(3.0), "fold": np.arange(240) % 5},
    )
    written = write_cache(tmp_path / "a.h5", cache)
    read = read_cache(tmp_path / "a.h5")
    for field in dataclasses.fields(Cache):
        ours, theirs = getattr(written, field.name), getattr(read, field.name)
        if isinstance(ours, np.ndarray):
            np.testing.assert_array_equal(ours, theirs, err_msg=field.name)
        elif field.name == "extra":
            assert sorted(ours) == sorted(theirs)
            for name in ours:
                np.testing.assert_array_equal(ours[name], theirs[name])
        elif field.name != "created":
            assert ours == theirs, field.name


def test_streamed_rows_equal_whole_arrays(tmp_path: Path) -> None:
    cache = make_cache()
    whole = write_cache(tmp_path / "whole.h5", cache)
    with writing_cache(tmp_path / "streamed.h5", len(cache), {"features": (8, "float32")}) as w:
        for start in range(0, len(cache), 7):
            w.append("features", cache.features[start : start + 7])
        for name in ("sample_id", "split", "group_id", "label", "observed", "trusted", "seen"):
            w.put(name, getattr(cache, name))
        w.finish({name: getattr(cache, name) for name in _attribute_names()})
    assert w.content_digest == whole.content_digest
    verify_cache(tmp_path / "streamed.h5")


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "small.h5"
    write_cache(path, make_cache(n=6, d=2, logits=np.zeros((6, 3), np.float32)))
    raw = path.read_bytes()
    rng = np.random.default_rng(0)
    places = rng.choice(len(raw), size=min(1000, len(raw)), replace=False)
    for place in places.tolist():
        damaged = bytearray(raw)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(TrustqError):
            verify_cache(path)
        with pytest.raises(TrustqError):
            read_cache(path)


@pytest.mark.parametrize("name", ["exposure", "classes"])
def test_a_changed_attribute_fails_though_the_file_was_sealed_anew(
    tmp_path: Path, name: str
) -> None:
    from trustq.store.write import _seal

    path = tmp_path / "a.h5"
    write_cache(path, make_cache())
    with h5py.File(path, "r+") as file:
        value = str(file.attrs[name])
        file.attrs[name] = value.replace("frozen", "frozem").replace('"a"', '"z"')
    _seal(path)
    with pytest.raises(TrustqError) as caught:
        verify_cache(path)
    assert str(caught.value) == (
        f"{path} is damaged: the attributes do not match the overall digest.\n"
        "Copy it again from where it was made, or delete it and extract again."
    )


def test_a_truncated_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_cache(path, make_cache())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TrustqError, match="is damaged: its bytes have digest .*\nCopy it again"):
        read_cache(path)


def test_a_foreign_hdf5_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.h5"
    with h5py.File(path, "w") as file:
        file["features"] = np.zeros(3)
    with pytest.raises(TrustqError) as caught:
        read_cache(path)
    assert str(caught.value) == (
        f"{path} is not a trustq cache (it does not begin with 'trustq.cache sealed xxh3_128=').\n"
        "Features and logits from elsewhere come in with `trustq cache import`."
    )


def test_a_missing_dataset_is_named(tmp_path: Path) -> None:
    from trustq.store.write import _seal

    path = tmp_path / "a.h5"
    write_cache(path, make_cache())
    with h5py.File(path, "r+") as file:
        del file["observed"]
    _seal(path)
    with pytest.raises(TrustqError) as caught:
        read_cache(path)
    assert str(caught.value) == (
        f"{path} lacks the dataset observed; a cache has sample_id, split, group_id, label, "
        "observed, trusted, seen and features. Extract or import it again."
    )


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    from trustq.store.write import _seal

    path = tmp_path / "a.h5"
    write_cache(path, make_cache())
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 99
    _seal(path)
    with pytest.raises(TrustqError, match="has cache format 99; this trustq reads up to 1. Upg"):
        read_cache(path)


def test_a_cache_of_another_manifest_is_refused(tmp_path: Path) -> None:
    ids = np.array(["a", "b"])
    columns = {
        "sample_id": ids,
        "path": ids,
        "label": np.array(["x", "y"]),
        "group_id": ids,
        "split": np.array(["train", "test"]),
        "dataset": np.array(["d", "d"]),
        "domain": np.array(["e", "e"]),
    }
    manifest = make_manifest(columns, classes=["x", "y"], root=tmp_path, source="m")
    cache = make_cache(manifest=manifest.digests)
    require_same_manifest(cache, manifest)
    columns["label"] = np.array(["y", "y"])
    other = make_manifest(columns, classes=["x", "y"], root=tmp_path, source="m")
    with pytest.raises(TrustqError) as caught:
        require_same_manifest(cache, other)
    ours, theirs = manifest.digests["labels"][:8], other.digests["labels"][:8]
    assert str(caught.value) == (
        f"cache of gauss was written from another manifest: its labels have digest {ours}..., "
        f"expected {theirs}....\nExtract again, or pass the manifest it was written from."
    )


def test_content_digest_leaves_out_time_and_versions(tmp_path: Path) -> None:
    a = write_cache(tmp_path / "a.h5", make_cache(created="2020", versions={"trustq": "0"}))
    b = write_cache(tmp_path / "b.h5", make_cache(created="2021", versions={"trustq": "1"}))
    c = write_cache(tmp_path / "c.h5", make_cache(exposure="unknown"))
    assert a.content_digest == b.content_digest != c.content_digest
    assert a.digest != b.digest


KILLED_WRITER = """
    import os, signal, sys
    sys.path.insert(0, {tests!r})
    from support import make_cache
    from pathlib import Path
    import h5py
    from trustq.store import write_cache
    calls = 0
    def count(original):
        def counted(*args, **kwargs):
            global calls
            calls += 1
            if calls == {at}:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)
        return counted
    h5py.Group.create_dataset = count(h5py.Group.create_dataset)
    os.fsync = count(os.fsync)
    os.replace = count(os.replace)
    write_cache(Path({path!r}), make_cache(seed=1, dataset="new"))
"""


@pytest.mark.parametrize("at", [1, 4, 8, 9, 10, 11, 12])
def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path: Path, at: int) -> None:
    path = tmp_path / "a.h5"
    write_cache(path, make_cache(dataset="old"))
    tests = str(Path(__file__).parent)
    code = textwrap.dedent(KILLED_WRITER).format(tests=tests, at=at, path=str(path))
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert process.returncode in (0, -signal.SIGKILL), process.stderr.decode()
    verify_cache(path)
    assert read_cache(path).dataset in ("old", "new")
    assert [p.name for p in find_caches([tmp_path])] == ["a.h5"]
    write_cache(path, make_cache(dataset="newer"))
    assert os.listdir(tmp_path) == ["a.h5"]  # the next writer cleared what the killed one left


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="closed without finish"),
        writing_cache(tmp_path / "a.h5", 1, {}),
    ):
        pass
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrustqError, match="could not be written: (file exists|not a directory)"):
        write_cache(tmp_path / "file" / "a.h5", make_cache())


def test_attributes_are_read_without_arrays(tmp_path: Path) -> None:
    write_cache(tmp_path / "a.h5", make_cache())
    attributes = read_attributes(tmp_path / "a.h5")
    assert attributes["exposure"] == "frozen"
    assert attributes["datasets"]["features"] == "<f4(240, 8)"


def test_the_file_opens_without_trustq(tmp_path: Path) -> None:
    cache = make_cache()
    write_cache(tmp_path / "a.h5", cache)
    with h5py.File(tmp_path / "a.h5", "r") as file:
        assert file.userblock_size == USER_BLOCK
        assert file["features"].chunks is None and file["features"].compression is None
        assert file["sample_id"].asstr()[0] == "s0000"
        assert json.loads(file.attrs["classes"]) == list(cache.classes)


def test_rows_beside_a_seen_relative_are_not_honest() -> None:
    seen = np.zeros(240, np.uint8)
    seen[0] = SEEN_OBSERVED
    cache = make_cache(seen=seen)
    assert not cache.honest_for_any_noise[:2].any()  # row 1 shares row 0's group
    assert cache.honest_for_any_noise[2:].all()


def test_import_gives_missing_arrays_their_stated_meaning(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", features=np.eye(3), labels=np.array([0, 1, 1]))
    cache = import_cache(tmp_path / "e.npz")
    assert cache.sample_id.tolist() == cache.group_id.tolist() == ["0", "1", "2"]
    assert set(cache.split.tolist()) == {"train"}
    assert cache.exposure == "unknown"
    assert cache.classes == ("0", "1")
    assert cache.observed.tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"labels": np.zeros(3)},
            "{path} has no array 'features' for features; it holds labels. "
            "Name it with `features=ARRAY`.",
        ),
        (
            {"features": np.eye(3), "labels": np.zeros(2, int)},
            "{path}: labels has 2 rows, features 3.",
        ),
        (
            {"features": np.eye(3), "labels": np.arange(3) + 0.5},
            "{path}: labels hold 0.5, 1.5, 2.5; expected whole numbers or names.",
        ),
        (
            {"features": np.eye(2), "labels": np.zeros(2, int), "probs": np.full((2, 2), 0.6)},
            "{path}: probs must be at least 0 and sum to 1 in every row; row 1 sums to 1.2. "
            "For other scores: `normalize=l1` or softmax.",
        ),
        (
            {"features": np.full((2, 2), np.nan), "labels": np.zeros(2, int)},
            "{path}: features holds NaN or infinite values in 2 rows.",
        ),
        (
            {"features": np.eye(2), "labels": np.zeros(2, int), "sample_ids": np.array(["a", "a"])},
            "{path}: sample_ids must be unique; 1 are repeated, e.g. 'a': name the column of ids "
            "(`sample_ids`), or leave it out, and rows are numbered.",
        ),
        (
            {"features": np.eye(2), "labels": np.array(["a", "b"]), "logits": np.eye(2)},
            "{path}: labels are names (a, b), so the order of the 2 columns of logits or probs is "
            "not known: name the classes in that order (`classes`).",
        ),
        (
            {"features": np.eye(2), "labels": np.array([0, 2]), "logits": np.eye(2)},
            "{path}: labels hold 2, but the 2 classes are counted from 0 to 1. If the numbers are "
            "names of classes, state these in the order of the columns (`classes`: 0, 2, if so).",
        ),
        (
            {
                "features": np.eye(2),
                "labels": np.zeros(2, int),
                "groups": np.array(["g", "g"]),
                "split": np.array(["train", "test"]),
            },
            "{path}: group 'g' is in both train and test. A group (lesion, patient) must lie in "
            "one split, or test images leak.",
        ),
        (
            {"features": np.eye(2), "labels": np.ones((2, 2), int)},
            "{path}: labels marks several classes in 2 rows, first in row 1: each row has one "
            "class here.",
        ),
        (
            {"features": np.eye(2), "labels": np.zeros((2, 2, 2), int)},
            "{path}: labels has shape (2, 2, 2); expected one label per row, (n,).",
        ),
    ],
)
def test_import_says_what_is_wrong(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    path = tmp_path / "e.npz"
    np.savez(path, **arrays)
    with pytest.raises(TrustqError) as caught:
        import_cache(path)
    assert str(caught.value) == message.format(path=path)


def test_import_takes_unsigned_and_sparse_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", features=np.eye(3), labels=np.array([7, 40000, 7], np.uint16))
    cache = import_cache(tmp_path / "e.npz")
    assert cache.classes == ("7", "40000")
    assert cache.label.tolist() == [0, 1, 0]


@pytest.mark.parametrize("exposure", ["crossfit", "finetuned-observed"])
def test_an_exposure_that_the_arrays_cannot_back_is_refused(tmp_path: Path, exposure: str) -> None:
    np.savez(tmp_path / "e.npz", features=np.eye(3), labels=np.array([0, 1, 1]))
    with pytest.raises(TrustqError, match="`exposure="):
        import_cache(tmp_path / "e.npz", exposure=exposure)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"hello"])
def test_an_npz_that_is_none_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "e.npz"
    path.write_bytes(content)
    with pytest.raises(TrustqError, match="is no whole npz file|is damaged"):
        import_cache(path)


def test_import_never_unpickles(tmp_path: Path) -> None:
    path = tmp_path / "e.npz"
    np.savez(path, features=np.eye(2), labels=np.array([{}, {}], dtype=object))
    with pytest.raises(TrustqError, match="labels holds Python objects, which are pickled and not"):
        import_cache(path)


def _attribute_names() -> tuple[str, ...]:
    from trustq.store.format import ATTRIBUTES

    return ATTRIBUTES


def test_features_lie_in_the_file_and_stay_those_verified(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    written = write_cache(path, make_cache(n=40, d=8))
    cache = read_cache(path)
    with pytest.raises(ValueError, match="read-only"):
        cache.features[0, 0] = 1
    other = make_cache(n=40, d=8)
    other.features = other.features + 1
    write_cache(path, other)  # another file under the same name
    np.testing.assert_array_equal(cache.features, written.features)
    np.testing.assert_array_equal(read_cache(path).features, other.features)


def test_a_file_of_many_blocks_is_verified_block_by_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.h5"
    written = write_cache(path, make_cache(n=2000, d=32))
    monkeypatch.setattr("trustq.store.mapped._BLOCK", 1 << 14)
    assert path.stat().st_size > 5 * (1 << 14)
    np.testing.assert_array_equal(read_cache(path).features, written.features)
    data = bytearray(path.read_bytes())
    data[len(data) - 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(TrustqError, match="is damaged: its bytes have digest"):
        read_cache(path)


def test_a_dataset_resealed_by_hand_is_found_by_verifying(tmp_path: Path) -> None:
    from trustq.store.write import _seal

    path = tmp_path / "a.h5"
    write_cache(path, make_cache())
    with h5py.File(path, "r+") as file:
        file["features"][0, 0] += 1
    _seal(path)
    with pytest.raises(TrustqError, match="dataset features does not match its digest"):
        verify_cache(path)


@pytest.mark.parametrize("ending", ["npz", "npy", "h5"])
def test_a_large_matrix_is_mapped_and_holds_what_was_written(tmp_path: Path, ending: str) -> None:
    features = np.random.default_rng(0).standard_normal((9000, 500)).astype(np.float32)
    path = tmp_path / f"features.{ending}"
    if ending == "npz":
        np.savez(path, other=np.arange(3), features=features, labels=np.arange(9000) % 3)
    elif ending == "npy":
        np.save(path, features)
    else:
        with h5py.File(path, "w") as file:
            file["features"], file["labels"] = features, np.arange(9000) % 3
    found = read_foreign(path).arrays["features"]
    assert isinstance(found.base, np.memmap) and not found.flags.writeable
    np.testing.assert_array_equal(found, features)
    with open(path, "r+b") as file:  # cut within the matrix
        file.truncate(4_000_000)
    with pytest.raises(TrustqError):
        read_foreign(path)


def test_a_flipped_byte_of_a_mapped_array_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    np.savez(path, features=np.ones((9000, 500), dtype=np.float32))
    with open(path, "r+b") as file:
        file.seek(7_000_001)
        file.write(b"\x07")
    with pytest.raises(TrustqError) as caught:
        read_foreign(path)
    assert str(caught.value) == (
        f"{path} is damaged: Bad CRC-32 for file 'features.npy'. Copy it again."
    )


def test_packed_and_turned_arrays_are_read_as_before(tmp_path: Path) -> None:
    features = np.random.default_rng(0).standard_normal((9000, 500)).astype(np.float32)
    np.savez_compressed(tmp_path / "packed.npz", features=features)
    np.save(tmp_path / "turned.npy", np.asfortranarray(features))
    for name in ("packed.npz", "turned.npy"):
        np.testing.assert_array_equal(read_foreign(tmp_path / name).arrays["features"], features)
