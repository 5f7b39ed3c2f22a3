"""Out-of-fold probabilities: the only thing that a label-quality score is computed from.

An `OutOfFold` cannot be made by hand. Only the functions here build one: they fit the folds
themselves, or read them from a verified cache, or are told outright that the probabilities are
in-sample and mark them so.
"""

from collections.abc import Callable
from dataclasses import InitVar, dataclass

import numpy as np

from trustq.digest import digest_array, digest_strings
from trustq.errors import TrustqError
from trustq.heads import Head
from trustq.probabilities import softmax
from trustq.store import Cache

_BUILDER = object()  # only this module has it


@dataclass(frozen=True)
class OutOfFold:
    """Probabilities of rows by models that did not see their groups, and proof of whose they are.

    `logits` and `probs` are (n, k); `fold` is (n,), -1 in sample; `scorable` is (n,) and False
    where the row's observed class was absent from the training part of its fold. The digests tie it
    to rows, observed labels, groups and cache; `require` checks them.
    """

    logits: np.ndarray
    probs: np.ndarray
    fold: np.ndarray
    scorable: np.ndarray
    source: str  # head, crossfit or in_sample
    rows_digest: str
    observed_digest: str
    groups_digest: str
    cache_digest: str
    exposure: str
    backbone_saw_rows: bool
    builder: InitVar[object] = None

    def __post_init__(self, builder: object) -> None:
        if builder is not _BUILDER:
            raise TrustqError(
                "An OutOfFold is built by fit_out_of_fold, read_crossfit or accept_in_sample: "
                "in-sample probabilities cannot pass as out-of-fold ones."
            )
        for array in (self.logits, self.probs, self.fold, self.scorable):
            array.setflags(write=False)

    @property
    def in_sample(self) -> bool:
        """Whether the rows were scored by a model that was fitted on them."""
        return self.source == "in_sample"

    def require(self, training: "TrainingRows", observed: np.ndarray) -> None:
        """Raise unless these are the rows, groups and labels that the folds were fitted on."""
        for name, found, expected in (
            ("sample ids", _digest_ids(training), self.rows_digest),
            ("observed labels", _digest_labels(observed), self.observed_digest),
            ("groups", _digest_labels(training.groups), self.groups_digest),
            ("cache content", training.cache.content_digest, self.cache_digest),
        ):
            if found != expected:
                raise TrustqError(
                    f"These out-of-fold probabilities belong to other {name} (digest "
                    f"{expected[:8]}..., found {found[:8]}...). Fit the folds again on these rows."
                )


@dataclass(frozen=True)
class TrainingRows:
    """The rows of a cache that labels are scored on: positions, groups, folds, observed labels."""

    cache: Cache
    rows: np.ndarray  # (n,) positions in the cache
    groups: np.ndarray  # (n,) group of each row, as integers
    fold: np.ndarray  # (n,)


def fit_out_of_fold(
    training: TrainingRows,
    features: np.ndarray,
    observed: np.ndarray,
    *,
    make: Callable[[], Head],
    validation: tuple[np.ndarray, np.ndarray] | None = None,
) -> OutOfFold:
    """Fit one head per fold on the other folds; predict each row by the one that did not see it.

    `features` is (n, d) and `observed` (n,), in the order of `training.rows`. `validation`, rows of
    other groups, is for heads that stop early. Raises `TrustqError` when a fold splits a group.
    """
    _require_whole_groups(training)
    n_classes = len(training.cache.classes)
    logits = np.full((len(observed), n_classes), np.nan)
    scorable = np.zeros(len(observed), dtype=bool)
    for fold in np.unique(training.fold):
        held_out = training.fold == fold
        head = make()
        head.fit(features[~held_out], observed[~held_out], validation=validation)
        logits[held_out] = head.predict_logits(features[held_out])
        scorable[held_out] = np.isin(observed[held_out], head.classes_)
    return _build(training, logits, observed, training.fold, scorable, source="head")


def read_crossfit(training: TrainingRows, observed: np.ndarray) -> OutOfFold:
    """The cache's own `crossfit_logits`: each row by a backbone that did not see its group.

    Raises `TrustqError` when the cache has none, was not verified, or was trained on other labels.
    """
    cache, rows = training.cache, training.rows
    if "crossfit_logits" not in cache.extra or "fold" not in cache.extra:
        raise TrustqError(
            f"{cache.name} holds no crossfit logits; use the source `head`, or extract it in a "
            "crossfit mode."
        )
    if not cache.digest:
        raise TrustqError(f"{cache.name} was not read from a verified file.")
    if not np.array_equal(cache.observed[rows], observed):
        raise TrustqError(
            f"{cache.name}: its crossfit logits were trained on its stored labels, not on these. "
            "They fit --noise stored, before any repair."
        )
    fold = cache.extra["fold"][rows]
    own = TrainingRows(cache, rows, training.groups, fold)
    _require_whole_groups(own)
    logits = np.asarray(cache.extra["crossfit_logits"][rows], dtype=np.float64)
    scorable = np.zeros(len(rows), dtype=bool)
    for f in np.unique(fold):
        scorable[fold == f] = np.isin(observed[fold == f], np.unique(observed[fold != f]))
    return _build(own, logits, observed, fold, scorable, source="crossfit")


def accept_in_sample(training: TrainingRows, logits: np.ndarray, observed: np.ndarray) -> OutOfFold:
    """Take logits of a model that was fitted on these very rows, marked as in-sample.

    Calling this is the statement that the caller knows: every result row made from it says so.
    """
    fold = np.full(len(observed), -1)
    scorable = np.ones(len(observed), dtype=bool)
    logits = np.asarray(logits, dtype=np.float64)
    return _build(training, logits, observed, fold, scorable, source="in_sample")


def _build(
    training: TrainingRows,
    logits: np.ndarray,
    observed: np.ndarray,
    fold: np.ndarray,
    scorable: np.ndarray,
    *,
    source: str,
) -> OutOfFold:
    cache, rows = training.cache, training.rows
    return OutOfFold(
        logits=logits,
        probs=softmax(logits),
        fold=fold.copy(),
        scorable=scorable,
        source=source,
        rows_digest=_digest_ids(training),
        observed_digest=_digest_labels(observed),
        groups_digest=_digest_labels(training.groups),
        cache_digest=cache.content_digest,
        exposure=cache.exposure,
        backbone_saw_rows=source != "crossfit" and bool(cache.seen_labels[rows].any()),
        builder=_BUILDER,
    )


def _require_whole_groups(training: TrainingRows) -> None:
    fold_of: dict[int, int] = {}
    for group, fold in zip(training.groups.tolist(), training.fold.tolist(), strict=True):
        if fold_of.setdefault(group, fold) != fold:
            row = int(np.flatnonzero(training.groups == group)[0])
            name = str(training.cache.group_id[training.rows[row]])
            raise TrustqError(
                f"Group {name!r} lies in folds {fold_of[group]} and {fold}: a model would score "
                "rows of a group it was fitted on. Make folds by group (splits.group_folds)."
            )


def _digest_ids(training: TrainingRows) -> str:
    return digest_strings(training.cache.sample_id[training.rows].tolist())


def _digest_labels(labels: np.ndarray) -> str:
    return digest_array(np.asarray(labels, dtype=np.int64))
