"""The audit: rank labels by suspicion, say what they might be, and flag by several methods."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from trustq.audit.neighbours import K, NeighbourSearch, outlier_score, reference_rows
from trustq.audit.source import AuditSource, Progress, of_source
from trustq.core.counts import counted
from trustq.core.digest import digest_json
from trustq.core.generators import generator
from trustq.core.rounding import steady
from trustq.core.sample_ids import joined_keys
from trustq.core.words import plain_texts
from trustq.errors import InputError
from trustq.heads.standardise import at_hand, taken
from trustq.metrics.per_class import class_figures
from trustq.scoring import (
    LABEL_BLIND,
    NO_PROBABILITIES,
    feature_quality,
    is_score,
    known_scores,
    label_quality,
)
from trustq.scoring.confident import find_label_issues, noise_posterior
from trustq.scoring.dynamics import DYNAMICS, dynamics_quality

# Filters that flag by different reasoning; each source votes with each of them.
FILTERS = ("confident_learning", "prune_by_noise_rate", "prune_by_class")
AUTO = "auto"  # the score that `default_score` takes
FITTED_HERE = ("head", "crossfit")  # probabilities of models that learned the labels under audit
NEIGHBOURS = "neighbours"  # most of the nearest rows of other groups have another label
SHOWN_NEIGHBOURS = 5
UNITS = ("row", "group")
WEAK_F1 = 0.2  # of a class whose suspects say little
OUTLIER = 0.95  # rows further out than this share of rows may be rubbish rather than mislabelled


@dataclass(frozen=True)
class LabelAudit:
    """What is known of every audited row, in the order of the first source's rows.

    `rank` counts from 1, most suspicious first, 0 where a row has no place (trusted, no score, or
    the suggested class is the given one); `listed` are those that the list was cut to. `votes` maps
    methods to the number of sources, of `n_sources`, that flag the row.
    """

    sources: tuple[AuditSource, ...]
    score: str
    why: str  # why this score, where nobody asked for one; else blank
    classes: tuple[str, ...]
    sample_ids: np.ndarray
    groups: np.ndarray  # names
    given: np.ndarray  # (n,) of class indices
    suggested: np.ndarray
    quality: np.ndarray  # lower is more suspicious; NaN: no score
    p_given: np.ndarray  # out-of-fold probabilities, mean over sources
    p_suggested: np.ndarray
    p_wrong: np.ndarray  # an estimate
    votes: dict[str, np.ndarray]
    agreement: np.ndarray  # share of (source, method) pairs that flag the row
    is_issue: np.ndarray  # more than half of them do
    rank: np.ndarray
    listed: np.ndarray
    asked: np.ndarray  # rows that people are asked for: all, or the worst of each group and label
    unit: str  # "row" or "group"
    cut: str  # what cut the list, for people
    neighbours: np.ndarray | None  # (n, SHOWN_NEIGHBOURS) of positions, -1 where not looked for
    neighbour_agreement: np.ndarray  # share of neighbours with the given label; NaN: not looked for
    outlier: np.ndarray  # share of rows that lie closer to others; NaN: not looked for
    class_f1: np.ndarray  # (k,) of out-of-fold predictions against the given labels
    notes: tuple[str, ...]

    @property
    def n_sources(self) -> int:
        """Caches (seeds) or files that voted."""
        return len(self.sources)

    @property
    def trusted(self) -> np.ndarray:
        """Rows whose label was clean by purchase, (n,)."""
        return self.sources[0].trusted

    @property
    def reference(self) -> np.ndarray:
        """Labels known to be right, -1 where there is none, (n,)."""
        return self.sources[0].reference

    @property
    def order(self) -> np.ndarray:
        """Positions of the listed rows, most suspicious first."""
        rows = np.flatnonzero(self.listed)
        return rows[np.argsort(self.rank[rows])]

    @property
    def key(self) -> str:
        """Digest of what was audited and how; the same audit has the same key."""
        return digest_json(
            {
                "sources": [source.out_of_fold.cache_digest for source in self.sources],
                "settings": [source.settings for source in self.sources],
                "score": self.score,
                "cut": self.cut,
            }
        )

    def flags(self, row: int) -> str:
        """Methods that flag a row; with several sources, by how many of them."""
        return self._flag_texts[row]

    def neighbours_of(self, row: int) -> str:
        """Ids and labels of the nearest rows of other groups, as `id:label id:label`."""
        if self.neighbours is None:
            return ""
        near = self.neighbours[row]
        if near[0] < 0:
            return ""
        return " ".join([self._named[r] for r in near.tolist() if r >= 0])

    @cached_property
    def _flag_texts(self) -> list[str]:
        """The flags of each row: few combinations, of which each is put into words once."""
        of = f"={{}}/{self.n_sources}" if self.n_sources > 1 else ""
        votes = np.stack(list(self.votes.values()))
        code = np.ravel_multi_index(tuple(votes), (self.n_sources + 1,) * len(votes))
        _, first, place = np.unique(code, return_index=True, return_inverse=True)
        texts = [
            " ".join(name + of.format(n) for name, n in zip(self.votes, found, strict=True) if n)
            for found in votes[:, first].T.tolist()
        ]
        return [texts[i] for i in place.tolist()]

    @cached_property
    def _named(self) -> list[str]:
        labels = self.given.tolist()
        names = self.sample_ids.tolist()
        return [f"{name}:{self.classes[c]}" for name, c in zip(names, labels, strict=True)]


def default_score(sources: Sequence[AuditSource]) -> tuple[str, str]:
    """The score to list by where nobody asks for one, and why, for people.

    `mean_rank` where every source has models that were fitted on the audited labels out of fold:
    they have met the mistakes, so that their pattern is in the probabilities. `self_confidence` for
    probabilities of a file: of a model that never met the mistakes the pattern is its own errors',
    and how well it is calibrated does not tell the two apart (experiments/label-audit).
    """
    if all(source.out_of_fold.source in FITTED_HERE for source in sources):
        return "mean_rank", (
            "mean_rank is the default score where models were fitted on these labels out of fold"
        )
    return "self_confidence", (
        "self_confidence is the default score for probabilities of a file, whose model need not "
        "have learned these labels; if it did, out of fold, mean_rank finds more"
    )


def audit_labels(
    sources: Sequence[AuditSource],
    *,
    score: str = AUTO,
    review: int | None = None,
    precision: float | None = None,
    unit: str = "row",
    progress: Progress | None = None,
) -> LabelAudit:
    """Rank the labels of one source, or of several caches (seeds) of the same rows.

    Scores and probabilities are averaged over sources; methods vote. The list holds the most
    suspicious rows by the score: `review` of them, or as many as keep the estimated share of wrong
    labels at `precision`, in (0, 1], or, asked for neither, as many as most votes flag. Flags say
    how many, never which: a list of flagged rows alone holds fewer wrong labels than as many of the
    lowest self-confidence. `score` is one that looks at labels, or "auto" (`default_score`). With
    `unit="group"` only the most suspicious row of each group and label is listed: an answer then
    speaks for the lesion or patient, and counts are of these. `progress` is told what is done, its
    unit, how much and of how much. Raises `TrustqError` for another unit or score, where sources
    have other rows, classes or labels, and for both cuts at once.
    """
    if not sources:
        raise InputError("There is nothing to audit: pass a cache or a file.")
    score, why = default_score(sources) if score == AUTO else (score, "")
    _require_score(score)
    _require_cut(review, precision, unit)
    first = sources[0]
    places = [_places(first, other) for other in sources]
    given, classes = first.observed, first.cache.classes
    n = len(given)

    qualities, probs, scorable, wrong = [], [], [], []
    votes = {name: np.zeros(n, dtype=np.int64) for name in FILTERS}
    for source, place in zip(sources, places, strict=True):
        made = source.out_of_fold
        qualities.append(_quality(source, score)[place])
        flagged, p_wrong = _flagged(source.observed, made.probs, made.scorable)
        for name, rows in flagged.items():
            votes[name] += rows[place]
        probs.append(made.probs[place])
        scorable.append(made.scorable[place])
        wrong.append(p_wrong[place])
    known = np.all(scorable, axis=0)
    quality = steady(np.where(known, np.mean(qualities, axis=0), np.nan))
    mean_probs = np.mean(probs, axis=0)
    suggested = mean_probs.argmax(axis=1)

    looked = known & ((suggested != given) | (np.sum(list(votes.values()), axis=0) > 0))
    found = _neighbours(sources, places, given, looked, progress)
    if found.votes is not None:
        votes[NEIGHBOURS] = found.votes
    agreement = np.sum(list(votes.values()), axis=0) / (len(sources) * len(votes))

    trusted = first.trusted
    candidates = np.flatnonzero(known & ~trusted & (suggested != given))
    ids = first.sample_ids
    candidates = candidates[np.lexsort((ids[candidates], quality[candidates]))]
    asked = _asked(unit, first.training.groups, given, quality, trusted)
    candidates = candidates[asked[candidates]]
    rank = np.zeros(n, dtype=np.int64)
    rank[candidates] = np.arange(1, len(candidates) + 1)
    is_issue = (agreement > 0.5) & (rank > 0)
    p_wrong = steady(np.mean(wrong, axis=0))
    class_f1 = np.array([c.f1 for c in class_figures(given, mean_probs)])
    chosen, cut = _cut(candidates, is_issue, p_wrong, review, precision)
    listed = np.zeros(n, dtype=bool)
    listed[chosen] = True
    return LabelAudit(
        sources=tuple(sources),
        score=score,
        why=why,
        classes=classes,
        sample_ids=ids,
        groups=first.cache.group_id[first.training.rows],
        given=given,
        suggested=suggested,
        quality=quality,
        p_given=mean_probs[np.arange(n), given],
        p_suggested=mean_probs[np.arange(n), suggested],
        p_wrong=np.where(known, p_wrong, np.nan),
        votes=votes,
        agreement=agreement,
        is_issue=is_issue,
        rank=rank,
        listed=listed,
        asked=asked,
        unit=unit,
        cut=cut,
        neighbours=found.rows,
        neighbour_agreement=found.agreement,
        outlier=found.outlier,
        class_f1=class_f1,
        notes=(
            *_saw(score),
            *_notes(sources, known),
            *found.notes,
            *_weak_classes(classes, given, class_f1),
            *([why] if why else []),
        ),
    )


def _require_score(score: str) -> None:
    if score in LABEL_BLIND or not (is_score(score) or score in DYNAMICS):
        known = [name for name in (AUTO, *known_scores(), *DYNAMICS) if name not in LABEL_BLIND]
        why = " It looks at no label, so it finds uncertain images." if score in LABEL_BLIND else ""
        raise InputError(
            f"`score={score}`: expected a score of labels: {', '.join(known)}.{why}",
            where="score",
            found=score,
        )


def _require_cut(review: int | None, precision: float | None, unit: str) -> None:
    if review is not None and precision is not None:
        raise InputError("`review` and `precision` both cut the list: give one.")
    if review is not None and review < 1:
        raise InputError(
            f"`review={review}`: expected 1 or more labels.", where="review", found=review
        )
    if precision is not None and not 0 < precision <= 1:
        raise InputError(
            f"`precision={precision:g}`: expected a share above 0 and up to 1.",
            where="precision",
            found=precision,
        )
    if unit not in UNITS:
        raise InputError(
            f"`unit={unit}`: expected {' or '.join(UNITS)}.",
            where="unit",
            found=unit,
            expected=UNITS,
        )


def _asked(
    unit: str, groups: np.ndarray, given: np.ndarray, quality: np.ndarray, trusted: np.ndarray
) -> np.ndarray:
    """Rows to ask people for: all, or of each group and label the worst that is not trusted."""
    if unit == "row":
        return np.ones(len(given), dtype=bool)
    # NaN comes last, trusted rows after all others.
    order = np.lexsort((quality, trusted))
    key = groups[order].astype(np.int64) * (int(given.max()) + 1) + given[order]
    first = np.unique(key, return_index=True)[1]
    asked = np.zeros(len(given), dtype=bool)
    asked[order[first]] = True
    return asked


def _quality(source: AuditSource, score: str) -> np.ndarray:
    training, labels = source.training, source.observed
    if score in DYNAMICS:
        return dynamics_quality(labels, source.cache.epoch_logits[:, training.rows], score=score)
    if score not in NO_PROBABILITIES:
        return label_quality(source.out_of_fold, labels, training=training, score=score)
    if source.features is None:
        raise InputError(
            f"`score={score}`: {source.cache.name} holds no features. Audit a cache or embeddings, "
            "or choose another score.",
            where="score",
            found=score,
        )
    return feature_quality(
        score, labels=labels, features=np.asarray(source.features), training=training
    )


def _places(first: AuditSource, other: AuditSource) -> np.ndarray:
    """Where each row of the first source is in another; refused where they are not the same."""
    if other.cache.classes != first.cache.classes:
        raise InputError(
            f"{other.cache.name} has classes {', '.join(other.cache.classes)}, {first.cache.name} "
            f"{', '.join(first.cache.classes)}: audit them apart."
        )
    ours, theirs = joined_keys(first.sample_ids, other.sample_ids)
    if len({*ours}) < len(ours) or len({*theirs}) < len(theirs):  # a.jpg and a.png are two
        ours, theirs = plain_texts(first.sample_ids), plain_texts(other.sample_ids)
    position = {key: row for row, key in enumerate(theirs)}
    place = [position.get(key, -1) for key in ours]
    if len(ours) != len(theirs) or -1 in place:
        shared = len(ours) - place.count(-1)
        raise InputError(
            f"{other.cache.name} audits {counted(len(theirs), 'row')} and {first.cache.name} "
            f"{len(ours)}, {shared} of them shared: audit them apart."
        )
    differ = int((other.observed[place] != first.observed).sum())
    if differ:
        raise InputError(
            f"{other.cache.name} has other labels than {first.cache.name} in {differ} of "
            f"{len(ours)} rows, as where noise was drawn for each seed: audit them apart."
        )
    return np.asarray(place)


def _flagged(
    labels: np.ndarray, probs: np.ndarray, scorable: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Rows flagged by each filter, and the estimated probability of being wrong."""
    n = len(labels)
    flagged = {name: np.zeros(n, dtype=bool) for name in FILTERS}
    p_wrong = np.zeros(n)
    known = np.flatnonzero(scorable)
    own, own_probs = labels[known], probs[known]
    for name in FILTERS:
        flagged[name][known] = find_label_issues(own, own_probs, method=name)
    p_wrong[known] = 1 - noise_posterior(own, own_probs)
    return flagged, p_wrong


@dataclass(frozen=True)
class _Found:
    rows: np.ndarray | None
    agreement: np.ndarray
    outlier: np.ndarray
    votes: np.ndarray | None
    notes: list[str]


def _neighbours(
    sources: Sequence[AuditSource],
    places: list[np.ndarray],
    given: np.ndarray,
    looked: np.ndarray,
    progress: Progress | None,
) -> _Found:
    """Neighbours of the rows that are suspected at all, in the features of every source."""
    n, rows = len(given), np.flatnonzero(looked)
    agreement, outlier = np.full(n, np.nan), np.full(n, np.nan)
    with_features = [source.features is not None for source in sources]
    if not all(with_features) or not len(rows):
        return _Found(None, agreement, outlier, None, [])
    shown = np.full((n, SHOWN_NEIGHBOURS), -1)
    votes = np.zeros(n, dtype=np.int64)
    agree, out, notes = [], [], []
    for index, (source, place) in enumerate(zip(sources, places, strict=True)):
        reference = reference_rows(n, rng=generator(0, "outlier"))
        both = np.union1d(rows, reference)
        tell = None
        if (own := of_source(progress, index, len(sources))) is not None:
            tell = partial(own, "Finding neighbours", "rows")
            tell(0, len(both))  # before the axes are chosen, which takes a while of many rows
        search = _search(source, place)
        if search.n_axes:
            notes.append(_searched(search))
        every = search.nearest(both, progress=tell)
        del search  # may hold all rows
        found = every.take(np.searchsorted(both, rows))
        same = (given[found.rows] == given[rows, None]).mean(axis=1)
        votes[rows] += same < 0.5
        agree.append(same)
        out.append(outlier_score(found, every.take(np.searchsorted(both, reference))))
        if index == 0:
            k = min(SHOWN_NEIGHBOURS, found.rows.shape[1])
            shown[rows, :k] = found.rows[:, :k]
    agreement[rows], outlier[rows] = np.mean(agree, axis=0), np.mean(out, axis=0)
    return _Found(shown, agreement, outlier, votes, notes)


def _search(source: AuditSource, place: np.ndarray) -> NeighbourSearch:
    """A search among a source's rows in the order of the first source's."""
    features = source.features
    assert features is not None
    if (place != np.arange(len(place))).any():  # otherwise a copy would be as large as they are
        features = taken(features, place)
    return NeighbourSearch(at_hand(features), source.training.groups[place])


def _searched(search: NeighbourSearch) -> str:
    return (
        f"neighbours among {len(search):,} rows were searched first on the {search.n_axes} axes of "
        f"most spread, which finds {100 * search.recall:.1f} % of the {K} nearest (200 random rows)"
    )


def _cut(
    candidates: np.ndarray,
    is_issue: np.ndarray,
    p_wrong: np.ndarray,
    review: int | None,
    precision: float | None,
) -> tuple[np.ndarray, str]:
    if review is not None:
        return candidates[:review], f"the {min(review, len(candidates)):,} most suspicious"
    if precision is not None:
        running = np.cumsum(p_wrong[candidates]) / np.arange(1, len(candidates) + 1)
        enough = np.flatnonzero(running >= precision)
        n = int(enough[-1]) + 1 if len(enough) else 0
        return candidates[:n], f"as many as keep an estimated precision of {100 * precision:g}%"
    n = int(is_issue.sum())
    return candidates[:n], f"the {n:,} most suspicious, as many as most methods flag"


def _weak_classes(classes: tuple[str, ...], given: np.ndarray, f1: np.ndarray) -> list[str]:
    counts = np.bincount(given, minlength=len(classes))
    weak = [classes[c] for c in np.flatnonzero((f1 < WEAK_F1) & (counts > 0))]
    if not weak:
        return []
    return [
        f"the model hardly knows {', '.join(weak)} (out-of-fold F1 below {WEAK_F1}), so what it "
        "suspects there says little"
    ]


def _saw(score: str) -> list[str]:
    """What a score looked at, where that is not the out-of-fold probabilities of the page."""
    if score in DYNAMICS:
        return [
            f"{score} looks at the logits of each epoch of training on these labels, in-sample; "
            "suggestions and p_wrong are of probabilities that did not see them"
        ]
    if score in NO_PROBABILITIES:
        return [f"{score} looks at the features of rows of other groups and their labels"]
    return []


def _notes(sources: Sequence[AuditSource], known: np.ndarray) -> list[str]:
    notes = list(dict.fromkeys(note for source in sources for note in source.notes))
    saw = max(int(source.seen.sum()) for source in sources)
    if any(source.out_of_fold.backbone_saw_rows for source in sources):
        notes.insert(
            0,
            f"the backbone was trained on the labels of {saw} of these {len(known)} rows: heads "
            "are out of fold, the features below them are not, so wrong labels that it memorised "
            "look right (crossfit logits have no such blind spot)",
        )
    if any(source.cache.exposure == "unknown" for source in sources) and any(
        source.out_of_fold.source != "stated" for source in sources
    ):
        notes.insert(
            0,
            "what the backbone saw was not stated: if it was trained on these labels, wrong ones "
            "may look right",
        )
    if not known.all():
        n = int((~known).sum())
        notes.append(f"{counted(n, 'row')} without a score: the class is absent from other folds")
    return notes
