"""Gaps between groups: intervals that hold the truth, and what chance alone would make."""

import re

import numpy as np
import pytest
from PIL import Image

from trustq.audit.duplicates.fingerprints import fingerprint_images
from trustq.data.image_measures import MEASURES, image_measures, ita_group, measured
from trustq.data.manifest import make_manifest
from trustq.errors import TrustqError
from trustq.evaluation.fairness import gap_intervals
from trustq.evaluation.slices import age_bands, slice_names
from trustq.metrics.per_class import equalised_odds_gaps


def simulated(seed, *, n=300, sensitivity=(0.9, 0.6)):
    """Lesions of two images in two groups of people whose sensitivities are known."""
    rng = np.random.default_rng(seed)
    units = np.repeat(np.arange(n), 2)
    group = np.repeat(rng.integers(0, 2, n), 2)
    truth = np.repeat(rng.random(n) < 0.5, 2)
    found = rng.random(2 * n) < np.where(truth, np.array(sensitivity)[group], 0.1)
    return truth, found, np.array(["light", "dark"])[group], units


def test_intervals_hold_a_known_gap_and_exceed_chance():
    held = []
    for seed in range(20):
        truth, found, group, units = simulated(seed)
        gap = gap_intervals(truth, found, group, units=units, replicates=200, seed=seed)
        held.append(gap["sensitivity"].lower <= 0.3 <= gap["sensitivity"].upper)
        assert gap["sensitivity"].value > gap["sensitivity"].by_chance
        plain = equalised_odds_gaps(truth, found, group)
        assert gap["sensitivity"].value == pytest.approx(plain.sensitivity)
    assert sum(held) >= 17


def test_without_a_difference_the_gap_is_what_chance_makes():
    above = 0
    for seed in range(40):
        truth, found, group, units = simulated(seed, sensitivity=(0.8, 0.8))
        gap = gap_intervals(truth, found, group, units=units, replicates=200, seed=seed)
        above += gap["sensitivity"].value > gap["sensitivity"].by_chance
    assert above <= 6  # 2 expected


def test_small_and_unknown_groups_are_shown_and_stay_out():
    truth, found, group, units = simulated(0)
    group = group.astype(object)
    group[:6], group[6:12] = "few", None
    gaps = equalised_odds_gaps(truth, found, group, min_rows=10)
    assert gaps.left_out == ("few", "unknown") and "few" in gaps.by_group
    known = gap_intervals(truth[12:], found[12:], group[12:], replicates=20, seed=0)
    with_them = gap_intervals(truth, found, group, replicates=20, seed=0)
    assert with_them["f1"].value == known["f1"].value
    assert gap_intervals(truth[:12], found[:12], group[:12], seed=0) == {}


def test_a_level_or_number_that_means_nothing_is_refused():
    truth, found, group, _ = simulated(0)
    message = "Expected a level in (0, 1) and replicates; found 95, 2000."
    with pytest.raises(TrustqError, match=f"^{re.escape(message)}$"):
        gap_intervals(truth, found, group, level=95, seed=0)


# Columns to slice by


def test_a_constant_column_is_refused_as_a_slice():
    with pytest.raises(
        TrustqError,
        match=r"^A column to slice by is 200 in all its rows, so it does not divide them; leave it "
        r"out\.$",
    ):
        slice_names(np.full(40, 200.0))
    nearly = np.concatenate([np.full(200, 7.0), np.arange(8, 28)])
    with pytest.raises(
        TrustqError, match=r"^A column to slice by is 7 in more than three quarters "
    ):
        slice_names(nearly)
    assert slice_names(np.array(["rosendahl"] * 3))[1] == ["rosendahl"]


def test_measures_are_those_of_their_definitions():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    found = image_measures(pixels)
    assert tuple(found) == MEASURES and (found["image_width"], found["image_height"]) == (60, 40)
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    assert found["mean_grey"] == pytest.approx(grey.mean(), rel=1e-5)
    assert found["contrast"] == pytest.approx(grey.std(), rel=1e-5)
    padded = np.pad(grey, 1, mode="symmetric")
    sides = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    assert found["laplacian_variance"] == pytest.approx((sides - 4 * grey).var(), rel=1e-4)
    ramp = np.tile(np.arange(0, 120, 2, dtype=np.uint8), (40, 1))
    slope = image_measures(np.stack([ramp] * 3, axis=2))["edge_strength"]
    assert slope == pytest.approx(2.0, rel=0.03)  # two grey levels a pixel, less at the borders


def test_skin_tones_are_ordered_by_ita():
    # L*, b* of these by a colour calculator: (81.4, 15.6), (55.4, 24.8), (28.0, 13.6).
    tones = [(232, 197, 174), (176, 122, 90), (92, 60, 45)]
    ita = []
    for tone in tones:
        pixels = np.tile(np.array(tone, dtype=np.uint8), (20, 20, 1))
        ita.append(image_measures(pixels)["ita"])
    assert ita[0] > 55 and 5 < ita[1] < 25 and ita[2] < -30
    assert [ita_group(value) for value in ita] == ["very light", "tan", "dark"]
    framed = np.zeros((40, 40, 3), dtype=np.uint8)
    framed[10:30, 10:30] = tones[0]
    assert image_measures(framed)["ita"] == pytest.approx(ita[0])  # of the centre alone


def test_an_image_without_colour_has_no_skin_tone():
    ramp = np.repeat(np.arange(240, dtype=np.uint8)[None], 40, axis=0)
    ita = image_measures(np.stack([ramp] * 3, axis=2))["ita"]
    assert np.isnan(ita) and ita_group(ita) is None


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_sixteen_bits_are_measured_as_eight(tmp_path, ending):
    grey = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
    for depth, pixels in (("8", grey), ("16", grey.astype(np.uint16) * 257)):
        Image.fromarray(pixels).save(tmp_path / f"{depth}.{ending}")
    rows = {name: np.array(["x", "y"], object) for name in ("sample_id", "group_id", "label")}
    rows["path"] = np.array([f"8.{ending}", f"16.{ending}"], object)
    rows |= {name: np.array(["d", "d"], object) for name in ("dataset", "domain")}
    rows["split"] = np.array(["train", "train"], object)
    made = make_manifest(rows, classes=("x", "y"), root=tmp_path, source="m")
    columns = measured(made).columns
    for name in MEASURES:
        np.testing.assert_array_equal(*columns[name])
    assert columns["mean_grey"][1] == pytest.approx(grey.mean(), rel=1e-5)
    prints = fingerprint_images([made.image_path(row) for row in range(2)])
    assert (prints.hashes[0] == prints.hashes[1]).all()


def test_a_single_lesion_gives_no_interval_of_a_gap():
    truth = np.tile([1, 0], 40)
    groups = np.repeat(["f", "m"], 40)
    found = gap_intervals(truth, truth, groups, units=np.repeat("one", 80), replicates=20, seed=0)
    assert found["sensitivity"].value == 0 and np.isnan(found["sensitivity"][1:]).all()


def test_masked_values_are_unknown_and_no_group():
    truth = np.tile([1, 0], 60)
    hidden = np.repeat([False, True, False], 40)
    types = np.ma.array(np.repeat([1.0, 2.0, 3.0], 40), mask=hidden)
    assert list(equalised_odds_gaps(truth, truth, types).left_out) == ["unknown"]
    found = gap_intervals(truth, np.where(hidden, 0, truth), types, replicates=20, seed=0)
    assert found["sensitivity"].value == 0
    assert slice_names(types)[1] == ["1.0", "3.0", "unknown"]
    assert age_bands(types)[1] == ["<30", "unknown"]


def test_bins_of_large_numbers_are_told_apart():
    names, order = slice_names(1_000_000 + np.arange(20.0))
    assert order[0] == "1000000 to 1000005" and len(order) == 4
    assert [int((names == name).sum()) for name in order] == [5, 5, 5, 5]
