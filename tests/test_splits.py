"""Splits and folds: groups whole, classes spread, sizes near, the same draw for the same seed."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustq.data.splits import group_folds, split_by_group, thin_classes
from trustq.errors import TrustqError


@st.composite
def grouped_rows(draw):
    """Labels and groups in which every group has one label, rows in any order."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=60))
    label_of_group = draw(
        st.lists(st.integers(0, 3), min_size=len(sizes), max_size=len(sizes)).map(np.array)
    )
    groups = np.repeat(np.arange(len(sizes)), sizes)
    shuffled = np.random.default_rng(draw(st.integers(0, 9))).permutation(groups)
    return label_of_group[shuffled], shuffled


def parts_of_groups(part, groups):
    return {group: set(part[groups == group].tolist()) for group in np.unique(groups).tolist()}


@given(grouped_rows(), st.integers(0, 5))
def test_split_keeps_groups_whole_and_classes_spread(rows, seed):
    labels, groups = rows
    fractions = np.array([0.7, 0.15, 0.15])
    part = split_by_group(labels, groups, seed=seed)
    assert all(len(parts) == 1 for parts in parts_of_groups(part, groups).values())
    for label in np.unique(labels):
        own = labels == label
        sizes = np.bincount(groups[own])
        rows_of_part = np.bincount(part[own], minlength=3)
        if len(np.unique(groups[own])) >= 3:
            assert (rows_of_part > 0).all()
        # No part is off by more than a group to fill it and one that each part needs at least.
        assert np.abs(rows_of_part - fractions * own.sum()).max() <= 2 * sizes.max()


@given(grouped_rows(), st.integers(2, 6), st.integers(0, 5))
def test_folds_keep_groups_whole_and_classes_spread(rows, n_folds, seed):
    labels, groups = rows
    if len(np.unique(groups)) < n_folds:
        return
    fold = group_folds(labels, groups, n_folds=n_folds, seed=seed)
    assert all(len(parts) == 1 for parts in parts_of_groups(fold, groups).values())
    thin = thin_classes(labels, groups, n_folds=n_folds)
    for label in np.unique(labels):
        own = labels == label
        rows_of_fold = np.bincount(fold[own], minlength=n_folds)
        assert (label in thin) == (len(np.unique(groups[own])) < n_folds)
        assert label in thin or (rows_of_fold > 0).all()
        assert np.ptp(rows_of_fold) <= np.bincount(groups[own]).max()


@given(grouped_rows(), st.integers(0, 5))
def test_the_same_seed_gives_the_same_parts(rows, seed):
    labels, groups = rows
    part = split_by_group(labels, groups, seed=seed)
    np.testing.assert_array_equal(part, split_by_group(labels, groups, seed=seed))
    # Names of classes that sort alike change nothing.
    np.testing.assert_array_equal(part, split_by_group(labels * 10 - 3, groups, seed=seed))


def test_another_seed_gives_other_parts_and_folds_are_another_draw():
    labels, groups = np.zeros(300, int), np.arange(300)
    first, second = (split_by_group(labels, groups, seed=seed) for seed in (0, 1))
    assert (first != second).any()
    thirds = split_by_group(labels, groups, fractions=[1 / 3, 1 / 3, 1 / 3], seed=0)
    assert (thirds != group_folds(labels, groups, n_folds=3, seed=0)).any()


def test_single_rows_meet_the_fractions():
    labels = np.repeat([0, 1, 2], [1000, 100, 20])
    part = split_by_group(labels, np.arange(1120), seed=3)
    table = [np.bincount(part[labels == label]).tolist() for label in range(3)]
    assert table == [[700, 150, 150], [70, 15, 15], [14, 3, 3]]


def test_large_groups_are_spread_like_small_ones():
    # They once all went to train, and val and test held lesions of one image only.
    sizes = np.repeat([1, 2, 3, 5], [400, 100, 100, 100])
    groups = np.repeat(np.arange(700), sizes)
    part = split_by_group(np.zeros(len(groups), int), groups, seed=0)
    part_of_group = part[np.searchsorted(groups, np.arange(700))]
    for size in (1, 2, 3, 5):
        shares = np.bincount(part_of_group[sizes == size]) / (sizes == size).sum()
        np.testing.assert_allclose(shares, [0.7, 0.15, 0.15], atol=0.015)


def test_a_group_of_two_labels_stays_whole_and_counts_as_its_most_frequent():
    labels = np.array([0] * 30 + [1] * 30 + [0, 1, 1])
    groups = np.array([*range(60), 99, 99, 99])
    part = split_by_group(labels, groups, seed=0)
    assert len(set(part[groups == 99].tolist())) == 1


def test_names_of_groups_may_be_text():
    labels = np.array(["nv", "nv", "mel", "mel"], dtype=object)
    groups = np.array(["L1", "L2", "L3", "L4"], dtype=object)
    folds = group_folds(labels, groups, n_folds=2, seed=0)
    assert sorted(folds[:2]) == sorted(folds[2:]) == [0, 1]


@pytest.mark.parametrize("fractions", [(0.7, 0.2), (1.2, -0.1, -0.1), ()])
def test_fractions_that_are_no_shares_are_refused(fractions):
    listed = ", ".join(map(str, fractions))
    message = f"The split fractions {listed} must be positive and sum to 1."
    with pytest.raises(TrustqError, match=f"^{re.escape(message)}$"):
        split_by_group(np.zeros(4, int), np.arange(4), fractions=fractions, seed=0)


def test_more_folds_than_groups_are_refused():
    message = (
        "3 groups cannot make 5 folds: folds are whole groups, at least 2 folds, and no more than "
        "groups; use 3 folds (`folds=3`)."
    )
    with pytest.raises(TrustqError, match=f"^{re.escape(message)}$"):
        group_folds(np.zeros(6, int), np.repeat([0, 1, 2], 2), n_folds=5, seed=0)


def test_one_group_is_no_fold_and_the_way_out_is_said():
    with pytest.raises(TrustqError, match="All rows are of one group, .*every row is its own"):
        group_folds(np.zeros(6, int), np.repeat("p", 6), n_folds=2, seed=0)
