"""Out-of-fold probabilities: the only thing that a label-quality score is computed from.

An `OutOfFold` cannot be made by hand. Only the functions here build one: they fit the folds
themselves, or read them from a verified cache, or are told outright that the probabilities are
in-sample and mark them so.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import InitVar, dataclass
from functools import cached_property

import numpy as np

from trustq.core.digest import digest_array, digest_strings
from trustq.data.row_weights import DomainBalance
from trustq.errors import DishonestError, InputError
from trustq.heads import Head, SharedFeatures, fit_heads
from trustq.heads.feature_cache import row_blocks
from trustq.heads.standardise import Standardised, taken
from trustq.metrics.probabilities import PROBABILITY_FLOOR, logits_from_probs, softmax
from trustq.store import Cache

PASSES = "passes/dropout/logits"  # (t, n, k): logits of stochastic passes, in a cache's `extra`

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
    source: str  # head, crossfit, passes, stated, in_sample or epochs
    rows_digest: str
    observed_digest: str
    groups_digest: str
    cache_digest: str
    exposure: str
    backbone_saw_rows: bool
    builder: InitVar[object] = None

    def __post_init__(self, builder: object) -> None:
        if builder is not _BUILDER:
            raise DishonestError(
                "An OutOfFold is built by fit_out_of_fold, read_crossfit, read_passes, read_epochs "
                "or accept_in_sample: in-sample probabilities cannot pass as out-of-fold ones."
            )
        for array in (self.logits, self.probs, self.fold, self.scorable):
            array.setflags(write=False)

    @property
    def in_sample(self) -> bool:
        """Whether the rows were scored by a model that was fitted on them."""
        return self.source in ("in_sample", "epochs") or (
            self.source == "passes" and self.backbone_saw_rows
        )

    def require(self, training: "TrainingRows", observed: np.ndarray) -> None:
        """Raise unless these are the rows, groups and labels that the folds were fitted on."""
        for name, found, expected in (
            ("sample ids", training.rows_digest, self.rows_digest),
            ("observed labels", _digest_labels(observed), self.observed_digest),
            ("groups", _digest_labels(training.groups), self.groups_digest),
            ("cache content", training.cache.content_digest, self.cache_digest),
            ("folds", _digest_labels(self._folds_of(training)), _digest_labels(self.fold)),
        ):
            if found != expected:
                raise DishonestError(
                    f"These out-of-fold probabilities belong to other {name} (digest "
                    f"{expected[:8]}..., found {found[:8]}...). Fit the folds again on these rows."
                )

    def _folds_of(self, training: "TrainingRows") -> np.ndarray:
        # Those of a cache or of no folds are not those that the rows are split by for heads.
        return training.fold if self.source == "head" else self.fold


@dataclass(frozen=True)
class TrainingRows:
    """The rows of a cache that labels are scored on: positions, groups, folds, observed labels."""

    cache: Cache
    rows: np.ndarray  # (n,) positions in the cache
    groups: np.ndarray  # (n,) group of each row, as integers
    fold: np.ndarray  # (n,)

    @cached_property
    def rows_digest(self) -> str:
        """Digest of the rows' sample ids, in order."""
        return digest_strings(self.cache.sample_id[self.rows].tolist())


@dataclass(frozen=True)
class FoldFit:
    """What the folds of one label set gave: their probabilities, their heads, one of all rows."""

    out_of_fold: OutOfFold | None  # None: no folds were asked for
    fold_heads: tuple[Head, ...]
    head: Head | None  # fitted on all rows; None where it was not asked for


def fit_out_of_fold(
    training: TrainingRows,
    features: np.ndarray | SharedFeatures,
    observed: np.ndarray,
    *,
    make: Callable[[], Head],
    validation: tuple[np.ndarray, np.ndarray] | None = None,
) -> OutOfFold:
    """Fit one head per fold on the other folds; predict each row by the one that did not see it.

    `features` is (n, d) and `observed` (n,), in the order of `training.rows`. `validation`, rows of
    other groups, is for heads that stop early. Raises `TrustqError` when a fold splits a group.
    """
    fit = fit_folds(training, features, observed[None], make=[make], validation=validation)[0]
    assert fit.out_of_fold is not None
    return fit.out_of_fold


def fit_folds(
    training: TrainingRows,
    features: np.ndarray | SharedFeatures,
    label_sets: np.ndarray,
    *,
    make: Sequence[Callable[[], Head]],
    folds: bool = True,
    whole: bool = False,
    start: Sequence[FoldFit] | None = None,
    tolerance: float | None = None,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    weight: np.ndarray | None = None,
    balance: DomainBalance | None = None,
) -> list[FoldFit]:
    """Out-of-fold probabilities of many label sets at once: all their folds are fitted together.

    `label_sets` is (s, n), in the order of `training.rows`, and `make` makes the heads of each.
    With `whole` a head of all rows is fitted beside each set's `folds`. `start` holds s earlier
    fits, with the same folds, that heads start from; it must know no more than the new fit, or
    labels would leak into the last bits. `weight`, (n,), is what rows count in every fit, 0 where
    they were dropped; `balance` weighs each fit's rows besides, by the labels that it is fitted on
    and no others. `tolerance` is that of linear heads, see `fit_multinomial`. Raises `TrustqError`
    when a fold splits a group.
    """
    _require_whole_groups(training)
    shared = features if isinstance(features, SharedFeatures) else SharedFeatures(features)
    held_out = [training.fold == f for f in np.unique(training.fold)] if folds else []
    used = [~rows for rows in held_out] + [np.ones(len(training.rows), dtype=bool)] * whole
    heads = [[make_one() for _ in used] for make_one in make]
    if weight is not None:
        used = [rows * weight for rows in used]
    weights = np.tile(np.array(used), (len(heads), 1))
    if balance is not None:
        weights = np.array(
            [rows * balance.weights(own, rows > 0) for own in label_sets for rows in used]
        )
    fit_heads(
        [head for own in heads for head in own],
        shared,
        np.repeat(label_sets, len(used), axis=0),
        used=weights,
        start=None if start is None else [head for fit in start for head in _heads(fit, folds)],
        tolerance=tolerance,
        validation=validation,
    )
    fits = []
    for own, observed in zip(heads, label_sets, strict=True):
        out_of_fold = None
        if folds:
            out_of_fold = _predicted(training, shared.features, observed, held_out, own)
        fits.append(FoldFit(out_of_fold, tuple(own[: len(held_out)]), own[-1] if whole else None))
    return fits


def averaged(training: TrainingRows, fits: Iterable[FoldFit], observed: np.ndarray) -> OutOfFold:
    """Mean probabilities over several divisions of the same rows into folds, each out of fold.

    A class's is over the heads that knew it, whichever label the row has, and what a row is then
    given sums to 1: so its own label has no part in it. A row is scorable where one of its heads
    knew its class; `fold` and source are those of the first division.
    """
    first: OutOfFold | None = None
    total = n_knew = np.zeros(0)
    for fit in fits:
        own = fit.out_of_fold
        assert own is not None, "folds were asked for"
        if first is None:
            first, total, n_knew = own, np.zeros(own.probs.shape), np.zeros(own.probs.shape, int)
        for f, head in zip(np.unique(own.fold), fit.fold_heads, strict=True):
            knew = np.ix_(own.fold == f, head.seen_classes_)
            total[knew] += own.probs[knew]
            n_knew[knew] += 1
    assert first is not None, "there is a division"
    probs = np.divide(total, n_knew, out=total, where=n_knew > 0)
    probs /= probs.sum(axis=1, keepdims=True)
    scorable = n_knew[np.arange(len(observed)), observed] > 0
    logits = logits_from_probs(probs)
    return _build(
        training, logits, observed, first.fold, scorable, source=first.source, probs=probs
    )


def _heads(fit: FoldFit, folds: bool) -> list[Head]:
    heads = list(fit.fold_heads) if folds else []
    return heads + ([] if fit.head is None else [fit.head])


def _predicted(
    training: TrainingRows,
    features: np.ndarray | Standardised,
    observed: np.ndarray,
    held_out: list[np.ndarray],
    heads: list[Head],
) -> OutOfFold:
    logits = np.full((len(observed), len(training.cache.classes)), np.nan)
    scorable = np.zeros(len(observed), dtype=bool)
    for rows, head in zip(held_out, heads, strict=False):  # a head of all rows may be the last
        logits[rows] = predict_rows(head, taken(features, np.flatnonzero(rows)))
        scorable[rows] = np.isin(observed[rows], head.seen_classes_)
    return _build(training, logits, observed, training.fold, scorable, source="head")


def predict_rows(head: Head, features: np.ndarray | Standardised) -> np.ndarray:
    """Logits of (m, d) rows by a head, (m, k) of float64.

    Rows that are standardised when asked for are never all there.
    """
    if not isinstance(features, Standardised):
        return head.predict_logits(features)
    blocks = row_blocks(len(features))
    return np.concatenate([head.predict_logits(features[block]) for block in blocks])


def read_crossfit(training: TrainingRows, observed: np.ndarray) -> OutOfFold:
    """The cache's own `crossfit_logits`: each row by a backbone that did not see its group.

    Raises `TrustqError` when the cache has none, was not verified, or was trained on other labels.
    """
    cache, rows = training.cache, training.rows
    if "crossfit_logits" not in cache.extra or "fold" not in cache.extra:
        raise InputError(
            f"{cache.name} holds no crossfit logits; use the source head, or extract it in a "
            "crossfit mode."
        )
    if not cache.digest:
        raise InputError(f"{cache.name} was not read from a verified file.")
    if not np.array_equal(cache.observed[rows], observed):
        raise DishonestError(
            f"{cache.name}: its crossfit logits were trained on its stored labels, not on these. "
            "They fit `noise=stored`, before any repair."
        )
    fold = cache.extra["fold"][rows]
    own = TrainingRows(cache, rows, training.groups, fold)
    _require_whole_groups(own)
    logits = np.asarray(cache.extra["crossfit_logits"][rows], dtype=np.float64)
    scorable = np.zeros(len(rows), dtype=bool)
    for f in np.unique(fold):
        scorable[fold == f] = np.isin(observed[fold == f], np.unique(observed[fold != f]))
    return _build(own, logits, observed, fold, scorable, source="crossfit")


def read_passes(training: TrainingRows, observed: np.ndarray) -> OutOfFold:
    """Mean probabilities of the cache's own dropout passes, by the one network there is.

    In-sample, and marked so, where that network was trained on one of the rows. Raises
    `TrustqError` when the cache has no passes or was not verified.
    """
    cache, rows = training.cache, training.rows
    if PASSES not in cache.extra:
        raise InputError(
            f"{cache.name} holds no dropout passes; extract them (`passes=20`), or use another "
            "source."
        )
    if not cache.digest:
        raise InputError(f"{cache.name} was not read from a verified file.")
    passes = cache.extra[PASSES]
    mean = np.zeros((len(rows), passes.shape[2]))
    for logits in passes:
        mean += softmax(np.asarray(logits[rows], dtype=np.float64)) / len(passes)
    fold, scorable = np.full(len(rows), -1), np.ones(len(rows), dtype=bool)
    logits = np.log(np.maximum(mean, PROBABILITY_FLOOR))
    return _build(training, logits, observed, fold, scorable, source="passes")


def read_epochs(training: TrainingRows, observed: np.ndarray) -> OutOfFold:
    """Mean probabilities over the epochs of the cache's own training, marked as in-sample.

    A label that is wrong is learned late, so that the mean doubts it where the last epoch no longer
    does. Rows that no epoch trained on are not scorable. Raises `TrustqError` when the cache keeps
    no epochs, was not verified, or was trained on other labels.
    """
    cache, rows = training.cache, training.rows
    epochs = cache.epoch_logits
    if not cache.digest:
        raise InputError(f"{cache.name} was not read from a verified file.")
    if not np.array_equal(cache.observed[rows], observed):
        raise DishonestError(
            f"{cache.name}: its epochs were trained on its stored labels, not on these. They fit "
            "`noise=stored`, before any repair."
        )
    total = np.zeros((len(rows), epochs.shape[2]))
    n_seen = np.zeros(len(rows))
    for logits in epochs:
        own = np.asarray(logits[rows], dtype=np.float64)
        known = ~np.isnan(own).any(axis=1)
        total[known] += softmax(own[known])
        n_seen += known
    mean = np.divide(total, n_seen[:, None], out=np.ones_like(total), where=n_seen[:, None] > 0)
    logits = np.log(np.maximum(mean / mean.sum(axis=1, keepdims=True), PROBABILITY_FLOOR))
    fold = np.full(len(rows), -1)
    return _build(training, logits, observed, fold, n_seen > 0, source="epochs")


def accept_in_sample(training: TrainingRows, logits: np.ndarray, observed: np.ndarray) -> OutOfFold:
    """Take logits of a model that was fitted on these very rows, marked as in-sample.

    Calling this is the statement that the caller knows: every result row made from it says so.
    """
    fold = np.full(len(observed), -1)
    scorable = np.ones(len(observed), dtype=bool)
    logits = np.asarray(logits, dtype=np.float64)
    return _build(training, logits, observed, fold, scorable, source="in_sample")


def accept_out_of_fold(
    training: TrainingRows, probs: np.ndarray, observed: np.ndarray
) -> OutOfFold:
    """Take probabilities that were made out of fold elsewhere, as the caller states.

    Nothing here can check that statement: the source is `stated`, and whoever shows a figure made
    from it says so. `probs` is (n, k) with rows that sum to 1.
    """
    fold = np.full(len(observed), -1)
    scorable = np.ones(len(observed), dtype=bool)
    probs = np.array(probs, dtype=np.float64)
    logits = logits_from_probs(probs)
    return _build(training, logits, observed, fold, scorable, source="stated", probs=probs)


def _build(
    training: TrainingRows,
    logits: np.ndarray,
    observed: np.ndarray,
    fold: np.ndarray,
    scorable: np.ndarray,
    *,
    source: str,
    probs: np.ndarray | None = None,
) -> OutOfFold:
    cache, rows = training.cache, training.rows
    return OutOfFold(
        logits=logits,
        probs=softmax(logits) if probs is None else probs,
        fold=fold.copy(),
        scorable=scorable,
        source=source,
        rows_digest=training.rows_digest,
        observed_digest=_digest_labels(observed),
        groups_digest=_digest_labels(training.groups),
        cache_digest=cache.content_digest,
        exposure=cache.exposure,
        backbone_saw_rows=source != "crossfit" and bool(cache.seen_labels[rows].any()),
        builder=_BUILDER,
    )


def _require_whole_groups(training: TrainingRows) -> None:
    _, first, group = np.unique(training.groups, return_index=True, return_inverse=True)
    fold_of_group = training.fold[first]
    split = np.flatnonzero(fold_of_group[group] != training.fold)
    if len(split):
        row = int(split[0])
        name = str(training.cache.group_id[training.rows[row]])
        raise DishonestError(
            f"Group {name!r} lies in folds {fold_of_group[group[row]]} and {training.fold[row]}: a "
            "model would score rows of a group it was fitted on. Make folds by group "
            "(splits.group_folds)."
        )


def _digest_labels(labels: np.ndarray) -> str:
    return digest_array(np.asarray(labels, dtype=np.int64))
