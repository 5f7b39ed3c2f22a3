"""Features standardised block by block, in memory or beyond it."""

import os
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from support import make_cache

from trustq.core import scratch
from trustq.errors import InputError, TrustqError
from trustq.heads import LinearHead, SharedFeatures
from trustq.heads.standardise import Standardised, require_finite, scale_of
from trustq.store import read_cache, write_cache
from trustq.store.mapped import give_back


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_blocks_standardise_as_the_whole_to_the_last_bit(dtype: type) -> None:
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((9001, 37)) * 3 + 5).astype(dtype)
    features[:, 4] = 2.0
    rows = np.sort(rng.permutation(9001)[:8500])
    own = features[rows].astype(np.float64)
    spread = own.std(axis=0)
    spread[spread < 1e-12] = 1.0
    expected = ((features - own.mean(axis=0)) / spread).astype(np.float32)
    scale = scale_of(features, rows)
    np.testing.assert_array_equal(scale.center, own.mean(axis=0))
    np.testing.assert_array_equal(scale.spread, spread)
    np.testing.assert_array_equal(scale.standardise(features), expected)
    np.testing.assert_array_equal(scale.standardise(features, rows), expected[rows])


def test_rows_standardised_when_asked_for_are_those_standardised_at_once() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((5000, 11)).astype(np.float16)
    for rows in (np.arange(5000), np.sort(rng.permutation(5000)[:4000])):
        scale = scale_of(features, rows)
        expected = scale.standardise(features, rows)
        found = Standardised(features, rows, scale)
        assert (found.shape, len(found), found.size) == ((len(rows), 11), len(rows), expected.size)
        np.testing.assert_array_equal(np.asarray(found), expected)
        np.testing.assert_array_equal(found[7:3000], expected[7:3000])
        mask = rng.random(len(rows)) < 0.3
        np.testing.assert_array_equal(found[mask], expected[mask])
        order = rng.permutation(len(rows))[:50]
        np.testing.assert_array_equal(found[order], expected[order])
        np.testing.assert_array_equal(found.take(order)[3:], expected[order][3:])
        labels = (expected[:, 0] > 0).astype(int)
        one, other = (LinearHead(C=0.1).fit(SharedFeatures(x), labels) for x in (found, expected))
        np.testing.assert_array_equal(one.coef_, other.coef_)


def test_rows_that_are_not_finite_are_counted() -> None:
    features = np.zeros((5000, 2))
    features[[3, 4999], 1] = np.nan, np.inf
    with pytest.raises(InputError, match="Features of 2 rows hold NaN or infinite values"):
        require_finite(features)
    with pytest.raises(InputError, match="x.h5: features of 1 row hold NaN"):
        scale_of(features, np.arange(4000), where="x.h5")


def test_arrays_beyond_memory_lie_in_files_and_hold_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((6000, 24)).astype(np.float32)
    labels = (features[:, 0] + rng.standard_normal(6000) > 0).astype(int)
    held = LinearHead(n_classes=2, C=0.1).fit(SharedFeatures(features), labels)
    monkeypatch.setattr(scratch, "free_memory", lambda: 1000.0)
    monkeypatch.setattr(scratch, "SMALL", 0)
    array = scratch.room_for((10, 200), np.float32)
    assert isinstance(array.base, np.memmap)
    beyond = SharedFeatures(scale_of(features, np.arange(6000)).standardise(features))
    assert isinstance(beyond.features.base, np.memmap)
    beyond = SharedFeatures(features)
    found = LinearHead(n_classes=2, C=0.1).fit(beyond, labels)
    np.testing.assert_array_equal(found.coef_, held.coef_)


def test_the_memory_that_is_free_is_that_of_this_machine() -> None:
    assert 1e7 < scratch.free_memory() < 1e14


def test_pages_given_back_are_read_again(tmp_path) -> None:  # type: ignore[no-untyped-def]
    cache = make_cache(n=500, d=8)
    write_cache(tmp_path / "a.h5", cache)
    read = read_cache(tmp_path / "a.h5")
    before = read.features.copy()
    give_back(read.features)
    np.testing.assert_array_equal(read.features, before)
    give_back(before)  # of no file: nothing happens


def test_a_file_for_what_does_not_fit_in_memory_has_its_room_on_the_disk_before_it_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # One that is sparse ends the process by SIGBUS where the disk fills up later.
    opened: list[int] = []
    temporary = tempfile.TemporaryFile

    def kept(**settings: Any) -> IO[bytes]:
        file: IO[bytes] = temporary(**settings | {"dir": tmp_path})
        opened.append(os.dup(file.fileno()))
        return file

    monkeypatch.setattr(scratch, "fits_memory", lambda *_: False)
    monkeypatch.setattr(tempfile, "TemporaryFile", kept)
    array = scratch.room_for((1 << 10, 1 << 10), np.float32)
    assert scratch.lies_in_file(array)
    assert os.fstat(opened[0]).st_blocks * 512 >= array.nbytes
    with pytest.raises(TrustqError, match=r"70,368\.7 GB that do not fit .* Make room, or name a"):
        scratch.room_for((1 << 23, 1 << 23), np.uint8)
    for descriptor in opened:
        os.close(descriptor)


def test_what_does_not_fit_in_memory_goes_to_a_disk_where_temporary_files_lie_in_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/sdb /tmp/disk xfs rw 0 0\n"
        "/dev/sdc /over ext4 rw 0 0\ntmpfs /over tmpfs rw 0 0\n"
    )
    there = {
        "/tmp": True,
        "/tmp/disk/a": False,
        "/tmp/other": True,
        "/var/tmp": False,
        "/over/a": True,
    }
    assert {folder: scratch.in_memory(folder, str(mounts)) for folder in there} == there
    assert not scratch.in_memory("/tmp", str(tmp_path / "none"))
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/tmp")
    for in_memory, expected in (
        ({"/tmp"}, "/var/tmp"),
        (set(), "/tmp"),
        ({"/tmp", "/var/tmp"}, "/tmp"),
    ):
        monkeypatch.setattr(scratch, "in_memory", in_memory.__contains__)
        assert scratch.scratch_folder() == expected
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setattr(scratch, "in_memory", {"/tmp"}.__contains__)
    assert scratch.scratch_folder() == "/tmp"  # as was asked
