"""What else is wrong with a set: rows like no other, rows twice, classes that overlap, and more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trustq.audit.close_rows import close_rows, nearest_distances
from trustq.audit.labels import LabelAudit
from trustq.core.counts import counted
from trustq.core.generators import generator
from trustq.core.sample_ids import find_rows
from trustq.errors import NotFound
from trustq.heads.feature_cache import one_blas_thread
from trustq.heads.standardise import Standardised, at_hand
from trustq.scoring.confident import estimated_joint
from trustq.scoring.neighbours import Rows
from trustq.statistics.paired import holm, share_interval

KINDS = {
    "outlier": "rows unlike all others",
    "near_duplicate": "pairs of rows nearly the same",
    "overlapping_classes": "pairs of classes that overlap",
    "weak_cluster": "clusters where the model is worse",
    "image": "odd images",
    "predicts_label": "columns that predict the label",
}
COLUMNS = ("kind", "sample_id", "other", "value", "usual", "note")
# Columns that name a row, or are the label in another word.
NAMES = {
    *("sample_id", "image_id", "group_id", "lesion_id", "patient_id", "path", "image", "file"),
    *("label", "dx", "diagnosis", "class", "observed", "trusted", "split", "image_digest"),
}
FAR = 4.0  # robust standard deviations beyond which a distance or a measure is out of the usual
OVERLAP = 0.01  # of all labels: pairs of classes with a larger estimated share are listed
CLUSTER_ROWS = 50  # rows of a cluster on average, at the least
MOST_CLUSTERS = 20
CLUSTERED_ROWS = 5000  # random rows whose clusters they are
CLUSTER_ROUNDS = 20
ALPHA = 0.05
EFFECT = 0.1  # of a column on the label: less is not worth a look
# Measure, what little of it is called and what much, and whether its logarithm is compared.
_MEASURES = (
    ("mean_grey", "dark", "bright", False),
    ("contrast", "flat", "", False),
    ("laplacian_variance", "blurred", "", True),
)


@dataclass(frozen=True)
class SetIssue:
    """One finding of a kind of KINDS.

    `sample_id` and `other` name rows or classes, blank where there is none; `value` is compared
    with `usual`: mean distance to neighbours and the median row's, distance of a pair and the
    median row's to its nearest, share of all labels, error rate in a cluster and in all rows, a
    measure and its median, effect in [0, 1].
    """

    kind: str
    sample_id: str
    other: str
    value: float
    usual: float
    note: str


def find_set_issues(
    audit: LabelAudit, *, columns: Mapping[str, np.ndarray] | None = None
) -> list[SetIssue]:
    """What is wrong with the set of an audit beside its labels, by kind, the worst of each first.

    `columns` has metadata of the audited rows, (n,) each, in their order; image measures among them
    (`trustq data measure`) give flags of images. Where the source holds no features nothing is said
    of outliers, duplicates and clusters.
    """
    source = audit.sources[0]
    found: list[SetIssue] = []
    if source.features is not None:
        with one_blas_thread():
            found += _of_features(audit, source.features)
    found += _overlaps(audit)
    if columns:
        found += _odd_images(audit, columns)
        found += _predictors(audit, columns)
    return found


def columns_of_rows(path: Path | None, sample_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of a table (a manifest is one) for some rows, in their order, None where it has none.

    What names rows, groups, labels or files is left out. No table: no columns.
    """
    if path is None:
        return {}
    try:
        table, places = find_rows(Path(path), sample_ids)
    except NotFound:  # a column of ids
        return {}
    rows = [-1 if place is None else place for place in places]
    if max(rows, default=-1) < 0:
        return {}
    found = {}
    for name, column in table.items():
        if name not in NAMES:
            values: list[Any] = [*column.tolist(), None]
            found[name] = np.array([None, *(values[row] for row in rows)], dtype=object)[1:]
    return found


def _of_features(audit: LabelAudit, features: np.ndarray | Standardised) -> list[SetIssue]:
    features = at_hand(features)
    groups = audit.sources[0].training.groups
    ids = audit.sample_ids
    near = nearest_distances(features, groups)
    usual = float(np.median(near.mean))
    far = _robust(np.log(np.maximum(near.mean, 1e-12)))
    found = [
        SetIssue("outlier", str(ids[row]), "", float(near.mean[row]), usual, f"{far[row]:.1f} sd")
        for row in _worst(far, FAR)
    ]
    for a, b, distance in close_rows(features, groups, usual=near.nearest):
        same = audit.given[a] == audit.given[b]
        found.append(
            SetIssue(
                "near_duplicate",
                str(ids[a]),
                str(ids[b]),
                distance,
                near.nearest,
                "same label" if same else "another label",
            )
        )
    return found + _weak_clusters(audit, features)


def _worst(deviation: np.ndarray, limit: float) -> list[int]:
    rows = np.flatnonzero(deviation > limit)
    return [int(row) for row in rows[np.argsort(-deviation[rows], kind="stable")]]


def _robust(values: np.ndarray) -> np.ndarray:
    """Deviations from the median in units of the spread that the middle half has."""
    known = values[np.isfinite(values)]
    if not len(known):
        return np.zeros(len(values))
    low, middle, high = np.quantile(known, (0.25, 0.5, 0.75))
    spread = (high - low) / 1.349
    apart = np.where(np.isfinite(values), values - middle, 0.0)
    if spread > 0:
        return np.asarray(apart / spread)
    return np.where(apart == 0, 0.0, np.copysign(np.inf, apart))  # most are equal: others are odd


def _weak_clusters(audit: LabelAudit, features: Rows) -> list[SetIssue]:
    """Clusters of rows in which the suggested class is more often not the given one."""
    from scipy.special import bdtrc

    known = np.flatnonzero(~np.isnan(audit.p_wrong))
    n_clusters = min(MOST_CLUSTERS, len(known) // CLUSTER_ROWS)
    if n_clusters < 2:
        return []
    cluster = _clusters(features, n_clusters)[known]
    # Of a group one row, the first: its images share their mistakes.
    first = np.unique(audit.groups[known], return_index=True)[1]
    missed = (audit.suggested != audit.given)[known]
    own, own_missed = cluster[first], missed[first]
    n = np.bincount(own, minlength=n_clusters)
    wrong = np.bincount(own, weights=own_missed, minlength=n_clusters)
    rate = float(own_missed.mean())
    p = np.array([bdtrc(w - 1, m, rate) if w > 0 else 1.0 for w, m in zip(wrong, n, strict=True)])
    worse = np.flatnonzero((holm(p) < ALPHA) & (wrong > rate * n))
    found = []
    for c in worse[np.argsort(-wrong[worse] / n[worse], kind="stable")]:
        low, high = share_interval(int(wrong[c]), int(n[c]))
        rows = known[cluster == c]
        classes = np.bincount(audit.given[rows], minlength=len(audit.classes))
        most = audit.classes[int(classes.argmax())]
        found.append(
            SetIssue(
                "weak_cluster",
                "",
                f"cluster {c}",
                float(wrong[c] / n[c]),
                rate,
                f"{counted(len(rows), 'row')}, {classes.max() / len(rows):.0%} of {most}; "
                f"error [{low:.2f}, {high:.2f}]",
            )
        )
        found += [
            SetIssue("weak_cluster", str(audit.sample_ids[row]), f"cluster {c}", wrong[c] / n[c],
                     rate, "row") for row in rows
        ]  # fmt: skip
    return found


def _clusters(features: Rows, n_clusters: int) -> np.ndarray:
    """Cluster of each row: k-means on a sample of rows, then the nearest centre."""
    rng = generator(0, "clusters")
    some = features[np.sort(rng.permutation(len(features))[:CLUSTERED_ROWS])]
    centres = _first_centres(some, n_clusters, rng)
    for _ in range(CLUSTER_ROUNDS):
        own = _nearest_centre(some, centres)
        held = np.bincount(own, minlength=len(centres))
        sums = np.stack([some[own == c].sum(axis=0) for c in range(len(centres))])
        moved = np.where(held[:, None] > 0, sums / np.maximum(held, 1)[:, None], centres)
        if np.array_equal(moved, centres):
            break
        centres = moved.astype(np.float32)
    parts = (features[start : start + 4096] for start in range(0, len(features), 4096))
    return np.concatenate([_nearest_centre(part, centres) for part in parts])


def _first_centres(rows: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Rows far from each other, each drawn by its squared distance to those before (k-means++)."""
    chosen = [int(rng.integers(len(rows)))]
    squares = np.einsum("nd,nd->n", rows, rows)
    far = np.full(len(rows), np.inf)
    while len(chosen) < n:
        last = chosen[-1]
        far = np.minimum(far, squares + squares[last] - 2 * (rows @ rows[last]))
        far = np.maximum(far, 0)
        if not far.sum():
            break  # all rows are one of those chosen
        reached = np.cumsum(far, dtype=np.float64)
        chosen.append(int(np.searchsorted(reached, rng.random() * reached[-1], side="right")))
    return rows[chosen]


def _nearest_centre(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    less = np.einsum("nd,nd->n", centres, centres) / 2
    return np.asarray((rows @ centres.T - less).argmax(axis=1))


def _overlaps(audit: LabelAudit) -> list[SetIssue]:
    """Pairs of classes by the estimated share of labels that are one and may be the other."""
    shares = []
    for source in audit.sources:
        known = source.out_of_fold.scorable
        joint = estimated_joint(source.observed[known], source.out_of_fold.probs[known])
        shares.append(joint + joint.T)
    share = np.mean(shares, axis=0)
    first, second = np.triu_indices(len(share), 1)
    found = [
        SetIssue("overlapping_classes", audit.classes[a], audit.classes[b], share[a, b], OVERLAP,
                 "estimated share of all labels, either way")
        for a, b in zip(first, second, strict=True)
        if share[a, b] > OVERLAP
    ]  # fmt: skip
    return sorted(found, key=lambda one: -one.value)


def _odd_images(audit: LabelAudit, columns: Mapping[str, np.ndarray]) -> list[SetIssue]:
    found = []
    for name, little, much, by_log in _MEASURES:
        if name in columns:
            values = _numbers(columns[name])
            assert values is not None
            scale = np.log(np.maximum(values, 1e-6)) if by_log else values
            found += _flags(audit, values, _robust(scale), (little, much), name)
    if "image_width" in columns and "image_height" in columns:
        sides = [_numbers(columns[name]) for name in ("image_width", "image_height")]
        assert sides[0] is not None and sides[1] is not None
        ratio = sides[0] / np.maximum(sides[1], 1)
        found += _flags(audit, ratio, _robust(np.log(ratio)), ("tall", "wide"), "width / height")
    return found


def _flags(
    audit: LabelAudit,
    values: np.ndarray,
    deviation: np.ndarray,
    words: tuple[str, str],
    name: str,
) -> list[SetIssue]:
    usual = float(np.nanmedian(values))
    return [
        SetIssue("image", str(audit.sample_ids[row]), word, float(values[row]), usual, name)
        for word, sign in zip(words, (-1, 1), strict=True)
        if word
        for row in _worst(sign * deviation, FAR)
    ]


def _predictors(audit: LabelAudit, columns: Mapping[str, np.ndarray]) -> list[SetIssue]:
    """Columns that tell the label, by groups' first rows: a ruler, a site, a colour cast."""
    from scipy.special import chdtrc

    first = np.unique(audit.groups, return_index=True)[1]
    labels = audit.given[first]
    tested = []
    for name, column in columns.items():
        numbers = _numbers(column)
        if numbers is not None:
            effect, statistic, freedom = _ranks_by_label(numbers[first], labels)
            kind = "epsilon squared of ranks"
        else:
            own: np.ndarray = np.array([str(value) for value in column[first].tolist()])
            if len(set(own.tolist())) > max(50, len(own) // 20):
                continue  # an id of its own for each row tells nothing
            pairs = {*zip(own.tolist(), labels.tolist(), strict=True)}
            if len(pairs) == len(set(labels.tolist())):
                continue  # the label in other words, e.g. malignant
            effect, statistic, freedom = _table_by_label(own, labels)
            kind = "Cramer's V, bias-corrected"
        if freedom > 0:
            tested.append((name, effect, float(chdtrc(freedom, statistic)), kind))
    if not tested:
        return []
    adjusted = holm(np.array([p for _, _, p, _ in tested]))
    found = [
        SetIssue("predicts_label", "", name, effect, EFFECT, f"{kind}; p {p:.1e} (Holm)")
        for (name, effect, _, kind), p in zip(tested, adjusted, strict=True)
        if p < ALPHA and effect > EFFECT
    ]
    return sorted(found, key=lambda one: -one.value)


def _numbers(column: np.ndarray) -> np.ndarray | None:
    """A column of numbers, NaN where there is none; None for texts."""
    values: np.ndarray = np.asarray(np.ma.filled(np.ma.asarray(column, dtype=object), None))
    if any(isinstance(value, str | bool | np.bool_) for value in values.tolist()):
        return None
    found = np.array([np.nan if v is None else float(v) for v in values.tolist()])
    return found if np.isfinite(found).any() else None


def _ranks_by_label(values: np.ndarray, labels: np.ndarray) -> tuple[float, float, int]:
    """Epsilon squared, Kruskal and Wallis' H and its degrees of freedom."""
    known = np.isfinite(values)
    values, labels = values[known], np.unique(labels[known], return_inverse=True)[1]
    k = int(labels.max(initial=-1)) + 1
    n = len(values)
    if k < 2 or n <= k or (values == values[0]).all():
        return 0.0, 0.0, 0
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    means = np.bincount(labels, weights=ranks) / np.bincount(labels)
    between = float((np.bincount(labels) * (means - ranks.mean()) ** 2).sum())
    h = (n - 1) * between / float(((ranks - ranks.mean()) ** 2).sum())
    return max(0.0, (h - k + 1) / (n - k)), h, k - 1


def _table_by_label(values: np.ndarray, labels: np.ndarray) -> tuple[float, float, int]:
    """Bias-corrected Cramer's V (Bergsma 2013), chi squared and its degrees of freedom."""
    rows = np.unique(values, return_inverse=True)[1]
    columns = np.unique(labels, return_inverse=True)[1]
    r, c, n = int(rows.max()) + 1, int(columns.max()) + 1, len(rows)
    if r < 2 or c < 2 or n < 2:
        return 0.0, 0.0, 0
    counts = np.bincount(rows * c + columns, minlength=r * c).reshape(r, c)
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / n
    chi = float(((counts - expected) ** 2 / expected).sum())
    freedom = (r - 1) * (c - 1)
    phi = max(0.0, chi / n - freedom / (n - 1))
    r_, c_ = r - (r - 1) ** 2 / (n - 1), c - (c - 1) ** 2 / (n - 1)
    return float(np.sqrt(phi / max(min(r_, c_) - 1, 1e-12))), chi, freedom


def issue_counts(found: Sequence[SetIssue]) -> dict[str, Any]:
    """How many findings of each kind there are; rows of clusters are not counted apart."""
    return {
        kind: sum(one.kind == kind and not (kind == "weak_cluster" and one.sample_id)
                  for one in found)
        for kind in KINDS
    }  # fmt: skip
