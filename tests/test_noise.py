"""Label noise: rates, orientation, matrix files, and draws by seed and purpose alone."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm
from support import refused

from trustq.core.generators import generator
from trustq.data.noise import (
    FLIP_SPREAD,
    Noise,
    draw_noise,
    draw_start,
    observe_labels,
    packaged_noise,
    parse_noise,
)
from trustq.data.splits import group_folds
from trustq.errors import TrustqError

SEVEN = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
COUNTS = np.array([327, 514, 1099, 115, 1113, 6705, 142])  # of the published HAM10000 table
ham10000_labels = np.repeat(np.arange(7), COUNTS)

# a is often seen as b, b never as a: read the other way round, b would be.
ONE_WAY = """classes = ["a", "b", "c"]
matrix = [
  [0.6, 0.4, 0.0],
  [0.0, 1.0, 0.0],
  [0.1, 0.2, 0.7],
]
"""
ONE_WAY_CSV = "true,a,b,c\na,0.6,0.4,0.0\nb,0.0,1.0,0.0\nc,0.1,0.2,0.7\n"


def assert_plausible(n_hits, n_rows, rate):
    """The count lies within the binomial's central 1 - 2e-6."""
    low, high = binom.ppf([1e-6, 1 - 1e-6], n_rows, rate)
    assert low <= n_hits <= high


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.4])
def test_symmetric_noise_changes_the_stated_share_evenly(rate):
    labels = np.repeat(np.arange(4), 5000)
    observed = draw_noise(
        labels, noise=parse_noise(f"symmetric:{rate}", classes=tuple("abcd")), seed=1
    )
    assert_plausible((observed != labels).sum(), 20_000, rate)
    for true in range(4):
        for other in set(range(4)) - {true}:
            assert_plausible((observed[labels == true] == other).sum(), 5000, rate / 3)


@given(st.integers(2, 8), st.integers(0, 99))
def test_a_flipped_label_is_another_class(k, seed):
    labels = np.arange(k).repeat(20)
    noise = parse_noise("symmetric:1.0", classes=tuple(map(str, range(k))))
    observed = draw_noise(labels, noise=noise, seed=seed)
    assert (observed != labels).all() and observed.min() >= 0 and observed.max() < k


def test_pair_noise_mistakes_each_class_for_the_next_one_alone():
    labels = np.repeat(np.arange(4), 5000)
    observed = draw_noise(
        labels, noise=parse_noise("pair:0.3", classes=("a", "b", "c", "d")), seed=0
    )
    wrong = observed != labels
    assert abs(wrong.mean() - 0.3) < 0.01
    np.testing.assert_array_equal(observed[wrong], (labels[wrong] + 1) % 4)


def test_no_noise_changes_nothing():
    labels = np.array([2, 0, 1, 1], dtype=np.int16)
    for spec in ("none", "symmetric:0"):
        observed = draw_noise(labels, noise=parse_noise(spec, classes=("a", "b", "c")), seed=0)
        np.testing.assert_array_equal(observed, labels)
        assert observed.dtype == np.int16


def test_the_reference_changes_5_26_percent_at_the_priors_of_ham10000():
    assert packaged_noise() == ["reference"]
    noise = parse_noise("reference", classes=SEVEN)
    wrong = 1 - np.diag(noise.matrix)
    assert round(100 * (COUNTS / 10_015) @ wrong, 2) == 5.26
    observed = draw_noise(ham10000_labels, noise=noise, seed=42)
    for true in range(7):
        own = observed[ham10000_labels == true]
        for other in range(7):
            assert_plausible((own == other).sum(), len(own), noise.matrix[true, other])


@pytest.mark.parametrize(("name", "text"), [("m.toml", ONE_WAY), ("m.csv", ONE_WAY_CSV)])
def test_rows_of_a_matrix_file_are_true_classes(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    noise = parse_noise(f"matrix:{tmp_path / name}", classes=("a", "b", "c"))
    np.testing.assert_array_equal(noise.matrix[0], [0.6, 0.4, 0.0])
    labels = np.repeat(np.arange(3), 2000)
    observed = draw_noise(labels, noise=noise, seed=0)
    assert (observed[labels == 1] == 1).all()  # no b is seen as a
    assert_plausible((observed[labels == 0] == 1).sum(), 2000, 0.4)
    assert_plausible((observed[labels == 2] == 1).sum(), 2000, 0.2)


def test_a_matrix_follows_the_class_order_of_the_data(tmp_path):
    (tmp_path / "m.toml").write_text(ONE_WAY)
    noise = parse_noise(f"matrix:{tmp_path / 'm.toml'}", classes=("c", "a", "b"))
    np.testing.assert_array_equal(noise.matrix, [[0.7, 0.1, 0.2], [0.0, 0.6, 0.4], [0.0, 0.0, 1.0]])


TWO = ("a", "b")
BAD_FILES = {
    "sum.toml": (
        'classes = ["a", "b"]\nmatrix = [[1.0, 0.0], [0.2, 0.7]]',
        "{path}: rows must be probabilities that sum to 1; row b sums to 0.9. "
        "Rows are true classes, columns observed ones.",
    ),
    "transposed.csv": (
        "true,a,b\na,0.6,0.0\nb,0.4,1.0\n",
        "{path}: rows must be probabilities that sum to 1; row a sums to 0.6. "
        "Rows are true classes, columns observed ones.",
    ),
    "negative.toml": (
        'classes = ["a", "b"]\nmatrix = [[1.0, 0.0], [-0.5, 1.5]]',
        "{path}: rows must be probabilities that sum to 1; row b holds a number outside 0 to 1.",
    ),
    "nan.toml": (
        'classes = ["a", "b"]\nmatrix = [[nan, nan], [0.5, 0.5]]',
        "{path}: rows must be probabilities that sum to 1; row a holds a number outside 0 to 1.",
    ),
    "shape.toml": (
        'classes = ["a", "b"]\nmatrix = [[1.0, 0.0]]',
        "{path}: expected 2 rows of 2 numbers.",
    ),
    "ragged.toml": (
        'classes = ["a", "b"]\nmatrix = [[1.0, 0.0], [1.0]]',
        "{path}: expected 2 rows of 2 numbers.",
    ),
    "classes.toml": (
        'classes = ["a", "c"]\nmatrix = [[1.0, 0.0], [0.0, 1.0]]',
        "{path} is for the classes a, c; these data have a, b.",
    ),
    "repeated.toml": (
        'classes = ["a", "b", "b"]\nmatrix = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]',
        "{path} is for the classes a, b, b; these data have a, b.",
    ),
    "keys.toml": (
        'classes = ["a", "b"]',
        "{path}: a noise matrix has the keys classes and matrix.",
    ),
    "words.csv": (
        "true,a,b\na,1,none\nb,0,1\n",
        "{path}: a noise matrix holds numbers; could not convert string to float: 'none'.",
    ),
    "order.csv": (
        "true,b,a\na,1,0\nb,0,1\n",
        "{path}: the rows are a, b, the columns b, a; a noise matrix has the same classes in the "
        "same order in both.",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_matrix_file_is_refused(tmp_path, name):
    text, message = BAD_FILES[name]
    path = tmp_path / name
    path.write_text(text)
    with refused(message.format(path=path)):
        parse_noise(f"matrix:{path}", classes=TWO)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "symmetric:1.5",
            "Noise 'symmetric:1.5': expected a rate from 0 to 1, e.g. symmetric:0.2.",
        ),
        ("symmetric:a", "Noise 'symmetric:a': expected a rate from 0 to 1, e.g. symmetric:0.2."),
        (
            "symmetric:nan",
            "Noise 'symmetric:nan': expected a rate from 0 to 1, e.g. symmetric:0.2.",
        ),
        ("matrix:no.toml", "no.toml: no such noise matrix file."),
        ("matrix:no.csv", "no.csv: no such file."),
        (
            "assymetric",
            "Unknown label noise 'assymetric'; expected none, symmetric:RATE, pair:RATE, "
            "instance:RATE, matrix:FILE, file:FILE or one of the packaged: reference.",
        ),
        (
            "reference",
            "packaged noise reference is for the classes akiec, bcc, bkl, df, mel, nv, vasc; these "
            "data have a, b.",
        ),
    ],
)
def test_another_form_of_noise_is_refused(spec, message):
    with refused(message):
        parse_noise(spec, classes=TWO)


def test_a_file_that_is_no_toml_is_refused(tmp_path):
    path = tmp_path / "m.toml"
    path.write_text("matrix = [")
    with pytest.raises(TrustqError, match=f"^{re.escape(str(path))}: this is not TOML: "):
        parse_noise(f"matrix:{path}", classes=TWO)


def test_the_same_seed_gives_the_same_draw_and_another_seed_another():
    noise = parse_noise("reference", classes=SEVEN)
    first, again, other = (draw_noise(ham10000_labels, noise=noise, seed=s) for s in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_draw_of_a_stronger_noise_keeps_the_labels_that_a_weaker_one_changed():
    # One uniform number a row, so that rates are compared on the same rows.
    labels = np.zeros(2000, int)
    weak, strong = (
        draw_noise(labels, noise=parse_noise(f"symmetric:{rate}", classes=TWO), seed=0) != labels
        for rate in (0.1, 0.3)
    )
    assert (strong[weak]).all()


@given(st.sampled_from([0.0, 0.05, 0.1, 0.33]), st.integers(0, 20))
def test_trusted_start_is_a_share_stratified_by_observed_labels(share, seed):
    labels = ham10000_labels[::7]
    noise = parse_noise("reference", classes=SEVEN)
    start = draw_start(labels, noise=noise, trusted=share, seed=seed)
    noisy = draw_noise(labels, noise=noise, seed=seed)
    assert start.trusted.sum() == round(share * len(labels))
    for name in np.unique(noisy):
        own = noisy == name
        assert abs(start.trusted[own].sum() - share * own.sum()) < 1.01
    # Trusted rows are right, the others as they were drawn; the rate is that of the draw.
    np.testing.assert_array_equal(start.observed, np.where(start.trusted, labels, noisy))
    assert start.rate == (noisy != labels).mean()


def test_trusted_start_may_be_stratified_by_clean_labels():
    labels = np.repeat([0, 1], [90, 10])
    noise = Noise("all to 0", np.array([[1.0, 0.0], [1.0, 0.0]]))
    clean = draw_start(labels, noise=noise, trusted=0.1, seed=0, strata="clean")
    assert clean.trusted[:90].sum() == 9 and clean.trusted[90:].sum() == 1
    # By observed labels all rows are one stratum, so the true class has no say.
    shares = [
        draw_start(labels, noise=noise, trusted=0.1, seed=seed).trusted[90:].sum()
        for seed in range(20)
    ]
    assert len(set(shares)) > 1


def test_draws_for_different_purposes_are_independent():
    # The trusted rows do not depend on which labels the noise changed, nor the folds on either.
    labels, n = np.zeros(20_000, int), 20_000
    noise = parse_noise("symmetric:0.5", classes=TWO)
    changed = draw_noise(labels, noise=noise, seed=3) != labels
    trusted = draw_start(labels, noise=noise, trusted=0.5, seed=3).trusted
    fold = group_folds(labels, np.arange(n), n_folds=2, seed=3) == 0
    for one, other in ((changed, trusted), (changed, fold), (trusted, fold)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(n)
    numbers = [generator(3, purpose).random(n) for purpose in ("noise", "trusted", "folds")]
    numbers += [generator(3, "noise", 0).random(n), generator(3, "noise", 1).random(n)]
    correlation = np.corrcoef(numbers)[np.triu_indices(5, 1)]
    assert np.abs(correlation).max() < 5 / np.sqrt(n)


def test_adding_a_trusted_share_changes_no_noise():
    noise = parse_noise("reference", classes=SEVEN)
    without, with_ = (
        draw_start(ham10000_labels, noise=noise, trusted=share, seed=2) for share in (0.0, 0.1)
    )
    untouched = ~with_.trusted
    np.testing.assert_array_equal(without.observed[untouched], with_.observed[untouched])
    assert without.digest != with_.digest


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_trusted_share_outside_its_range_is_refused(share):
    with refused(f"The trusted share is {share}, expected at least 0 and below 1."):
        draw_start(np.zeros(4, int), noise=Noise("none", np.eye(2)), trusted=share, seed=0)


def instance_rows(n=6000, d=20, k=4):
    rng = np.random.default_rng(0)
    labels = rng.integers(k, size=n)
    features = rng.standard_normal((n, d)).astype(np.float32)
    ids = np.array([f"s{i}" for i in range(n)])
    classes = tuple("abcdefgh"[:k])
    return labels, {"classes": classes, "features": features, "sample_ids": ids}


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.4])
def test_instance_noise_flips_at_its_rate(rate):
    labels, rows = instance_rows()
    observed = observe_labels(f"instance:{rate}", labels, seed=3, **rows).labels
    flipped = observed != labels
    # Rates of rows are normal about the rate, cut off at 0 and 1, which lifts a small one.
    z = rate / FLIP_SPREAD
    lifted = rate + FLIP_SPREAD * norm.pdf(z) / norm.cdf(z)
    assert flipped.mean() == pytest.approx(lifted, abs=0.02)
    again, other = (
        observe_labels(f"instance:{rate}", labels, seed=seed, **rows).labels for seed in (3, 4)
    )
    assert (again == observed).all() and (other != observed).any()


def test_instance_noise_depends_on_the_row_not_on_the_class_alone():
    labels, rows = instance_rows()
    observed = observe_labels("instance:0.4", labels, seed=0, **rows).labels
    own = np.flatnonzero((labels == 0) & (observed != 0))
    from sklearn.linear_model import LogisticRegression

    features = rows["features"]
    where = LogisticRegression().fit(features[own[:400]], observed[own[:400]])
    assert where.score(features[own[400:]], observed[own[400:]]) > 0.8


@pytest.mark.parametrize("spec", ["symmetric:0.3", "instance:0.3", "reference"])
def test_noise_by_group_mislabels_relatives_together(spec):
    k = 7
    labels, rows = instance_rows(k=k)
    labels = np.repeat(labels[: len(labels) // 3], 3)
    groups = np.repeat(np.arange(len(labels) // 3), 3)
    rows["classes"] = SEVEN
    observed = observe_labels(spec, labels, seed=1, groups=groups, **rows).labels
    by_group = observed.reshape(-1, 3)
    assert (by_group == by_group[:, :1]).all()
    assert (observed != labels).any()
    alone = observe_labels(spec, labels, seed=1, **rows).labels.reshape(-1, 3)
    assert not (alone == alone[:, :1]).all()


def test_noise_of_a_file_is_what_the_file_says(tmp_path):
    labels, rows = instance_rows(n=3, k=2)
    path = tmp_path / "observed.csv"
    path.write_text("sample_id,label,observed\ns2,a,b\ns0,a,a\nother,a,a\ns1,a,b\n")
    drawn = observe_labels(f"file:{path}", labels, seed=0, **rows)
    assert drawn.labels.tolist() == [0, 1, 1]
    path.write_text("sample_id,label\ns2,b\ns0,a\ns1,b\n")
    again = observe_labels(f"file:{path}", labels, seed=9, **rows)
    assert again.labels.tolist() == [0, 1, 1] and again.process == drawn.process
    path.write_text("sample_id,label\ns2,b\ns0,a\ns0,b\n")
    with pytest.raises(TrustqError) as caught:
        observe_labels(f"file:{path}", labels, seed=0, **rows)
    assert str(caught.value) == (
        f"{path}: 2 of the 3 training rows have no label or several, first s0; expected one "
        "observed label each."
    )
    with pytest.raises(TrustqError, match="is given row by row; it is not drawn by group.$"):
        observe_labels(f"file:{path}", labels, seed=0, groups=labels, **rows)


@pytest.mark.parametrize("spec", ["instance:0.2", "file:observed.csv"])
def test_noise_without_a_matrix_is_refused_where_one_is_needed(spec):
    with pytest.raises(TrustqError) as caught:
        parse_noise(spec, classes=TWO)
    assert str(caught.value) == (
        f"Noise {spec!r} depends on each row and has no matrix; only `trustq repair` draws it, on "
        "a cache."
    )


def test_noise_that_knows_no_row_is_drawn_as_ever():
    labels, rows = instance_rows()
    noise = parse_noise("symmetric:0.2", classes=rows["classes"])
    np.testing.assert_array_equal(
        observe_labels("symmetric:0.2", labels, seed=5, **rows).labels,
        draw_noise(labels, noise=noise, seed=5),
    )
    for spec in ("instance:1.5", "instance:x"):
        with pytest.raises(TrustqError) as caught:
            observe_labels(spec, labels, seed=0, **rows)
        assert str(caught.value) == (
            f"Noise {spec!r}: expected a rate from 0 to 1, e.g. instance:0.2."
        )
    assert (observe_labels("instance:0", labels, seed=0, **rows).labels == labels).all()
