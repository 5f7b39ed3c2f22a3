"""What dropping the suspects changes: recall and F1 of every class, beside random drops."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trustq.audit.folder import StoredAudit
from trustq.audit.reopen import reopen
from trustq.audit.source import AuditSource
from trustq.core.generators import generator
from trustq.errors import InputError
from trustq.heads import SharedFeatures, fit_heads, make_head, text_file
from trustq.heads.feature_cache import one_blas_thread
from trustq.metrics.classification import summarise
from trustq.metrics.per_class import class_figures
from trustq.metrics.probabilities import softmax

MEASURES = ("accuracy", "macro_f1")
AUDITED_TOO = ", whose labels helped to choose what is dropped: they were audited too"


@dataclass(frozen=True)
class Figures:
    """Figures of one set of training labels: per class, (k,), and overall."""

    recall: np.ndarray
    f1: np.ndarray
    overall: dict[str, float]


@dataclass(frozen=True)
class DropEffect:
    """Figures before and after the suspects were dropped, and of each matched random drop."""

    classes: tuple[str, ...]
    evaluated_on: str
    n_train: np.ndarray  # (k,) training labels by given class
    n_dropped: np.ndarray  # (k,)
    n_evaluated: np.ndarray  # (k,)
    before: Figures
    after: Figures
    random: tuple[Figures, ...]


def drop_effect(
    audit: StoredAudit, *, max_per_class: float = 0.2, draws: int = 20, seed: int = 0
) -> DropEffect:
    """Fit the audit's heads with and without the listed labels; recall and F1 of every class.

    Of each given class at most the share `max_per_class` is dropped, most suspicious first. `draws`
    random drops take as many labels of each class, so that what they change is the loss of rows and
    not the choice of them. Evaluated on the test rows of the cache, whose labels are never dropped;
    where there are none, out of fold on the audited rows. Where the audit looked at those rows too,
    their labels had a part in what is dropped, and `evaluated_on` says so. Errors: no features to
    fit on, a source that has changed, nothing listed, draws below 1.
    """
    if draws < 1:
        raise InputError(f"`draws={draws}`: expected 1 or more.", where="draws", found=draws)
    if not 0 <= max_per_class <= 1:
        raise InputError(
            f"`max_per_class={max_per_class:g}`: expected a share from 0 to 1.",
            where="max_per_class",
            found=max_per_class,
        )
    source = _reopened(audit)
    test = _test_rows(source)
    is_training = np.ones(len(source.observed), dtype=bool)
    if len(test):
        is_training = source.cache.split[source.training.rows] == "train"
    suspects = _suspects(audit, source, is_training, max_per_class)
    if not len(suspects):
        raise InputError(
            f"The list of {audit.folder} has no training label to drop, of at most a share of "
            f"{max_per_class:g} of each class (`max_per_class`)."
        )
    kept = [is_training, is_training & ~np.isin(np.arange(len(is_training)), suspects)]
    kept += [_random_drop(source, is_training, suspects, seed, draw) for draw in range(draws)]
    logits, labels, where = _predicted(source, np.array(kept), test)
    figures = [_figures(labels, of) for of in logits]
    k = len(audit.classes)
    return DropEffect(
        classes=audit.classes,
        evaluated_on=where,
        n_train=np.bincount(source.observed[is_training], minlength=k),
        n_dropped=np.bincount(source.observed[suspects], minlength=k),
        n_evaluated=np.bincount(labels, minlength=k),
        before=figures[0],
        after=figures[1],
        random=tuple(figures[2:]),
    )


def _reopened(audit: StoredAudit) -> AuditSource:
    """The first source of the audit, with heads fitted out of fold, whatever was audited."""
    stored = audit.sources[0]
    path = Path(stored["path"])
    if text_file(stored["asked"]["head"]) is not None:
        raise InputError(
            f"{path} was audited by a zero-shot head, which learns from no label, so dropping "
            "labels cannot change it. Audit with a head that is fitted, e.g. `head=linear`.",
            path=path,
        )
    if stored["probabilities"] == "stated":
        raise InputError(
            f"{path} was audited by its probabilities: there are no features to fit a head on "
            "again. Audit a cache or an npz with features.",
            path=path,
        )
    return reopen(audit, source="head", repeats=1)  # for its penalty


def _test_rows(source: AuditSource) -> np.ndarray:
    """Positions in the cache of labelled test rows whose groups are not audited for training."""
    cache = source.cache
    training = source.training.rows[cache.split[source.training.rows] == "train"]
    theirs = np.isin(cache.group_id, cache.group_id[training])
    return np.flatnonzero((cache.split == "test") & (cache.label >= 0) & ~theirs)


def _suspects(
    audit: StoredAudit, source: AuditSource, is_training: np.ndarray, max_per_class: float
) -> np.ndarray:
    position = {sample_id: row for row, sample_id in enumerate(source.sample_ids.tolist())}
    counts = np.bincount(source.observed[is_training], minlength=len(audit.classes))
    room = (max_per_class * counts).astype(int)
    chosen = []
    for sample_id in audit.sample_ids[audit.order].tolist():
        row = position[sample_id]
        if is_training[row] and room[source.observed[row]]:
            room[source.observed[row]] -= 1
            chosen.append(row)
    return np.array(chosen, dtype=np.int64)


def _random_drop(
    source: AuditSource, is_training: np.ndarray, suspects: np.ndarray, seed: int, draw: int
) -> np.ndarray:
    """Kept rows after as many of each class were dropped at random, of untrusted ones."""
    kept = is_training.copy()
    rng = generator(seed, "random drop", draw)
    for c, n in enumerate(np.bincount(source.observed[suspects])):
        own = np.flatnonzero(is_training & ~source.trusted & (source.observed == c))
        kept[rng.permutation(own)[:n]] = False
    return kept


def _predicted(
    source: AuditSource, kept: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray, str]:
    """Logits (sets, rows, k) of heads on each kept set, the rows' labels, and where they are."""
    assert source.features is not None
    shared = SharedFeatures(source.features)
    if len(test):
        held_out = [np.zeros(kept.shape[1], dtype=bool)]
    else:
        held_out = [source.training.fold == f for f in np.unique(source.training.fold)]
    used = np.array([own & ~rows for own in kept for rows in held_out])
    head, n_classes = source.settings["head"], len(source.cache.classes)
    heads = [make_head(head, n_classes=n_classes, **source.head_settings) for _ in used]
    with one_blas_thread():
        fit_heads(heads, shared, np.repeat(source.observed[None], len(used), axis=0), used=used)
        if len(test):
            features = source.standardise(source.cache.features[test])
            logits = np.stack([head.predict_logits(features) for head in heads])
            labels = source.cache.label[test].astype(np.int64)
            known = np.isin(test, source.training.rows).any()
            return logits, labels, f"{len(test)} test rows" + (AUDITED_TOO if known else "")
        logits = np.empty((len(kept), kept.shape[1], n_classes))
        for index, head in enumerate(heads):
            rows = held_out[index % len(held_out)]
            logits[index // len(held_out), rows] = head.predict_logits(source.features[rows])
    if (source.reference >= 0).all():
        return logits, source.reference, "the audited rows, out of fold, by reference labels"
    return (
        logits,
        source.observed,
        "the audited rows, out of fold, by their given labels: wrong ones count against the heads",
    )


def _figures(labels: np.ndarray, logits: np.ndarray) -> Figures:
    probs = softmax(logits)
    classes = class_figures(labels, probs)
    overall = summarise(labels, logits=logits).figures
    return Figures(
        recall=np.array([c.recall for c in classes]),
        f1=np.array([c.f1 for c in classes]),
        overall={name: overall[name] for name in MEASURES},
    )
