"""The board: which score finds wrong labels where, over sets whose truth is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trustq.audit.labels import audit_labels, default_score
from trustq.audit.source import PENALTIES, AuditSource, fitted_out_of_fold, open_source
from trustq.core.generators import generator
from trustq.data.noise import depends_on_row, observe_labels
from trustq.data.splits import group_folds
from trustq.errors import InputError
from trustq.heads import SharedFeatures, make_head
from trustq.heads.feature_cache import one_blas_thread
from trustq.heads.out_of_fold import OutOfFold, TrainingRows, accept_out_of_fold, fit_folds
from trustq.metrics.probabilities import log_softmax
from trustq.scoring import LABEL_BLIND, SCORES, feature_quality
from trustq.scoring.confident import FILTERS
from trustq.scoring.dynamics import DYNAMICS
from trustq.statistics.paired import share_interval

REPLICATES = 200
_FOLDS = 5
# Of probabilities and labels; the seven filters are orders of these with rows left out.
OF_PROBABILITIES = tuple(name for name in SCORES if name not in (*LABEL_BLIND, *FILTERS))


@dataclass(frozen=True)
class BoardRow:
    """One score on one set: means over seeds; intervals are of 95 %, paired ones by rows.

    `missed` is the share of wrong labels that are not among the lowest as many (false negatives at
    a budget of the noise rate, lower is better); `precision_5` and `precision_10` are shares wrong
    among the lowest 5 and 10 %; `over` is the mean average precision less self-confidence's.
    `list_precision` is the share wrong of the list that an audit makes by default, as many rows as
    most methods flag, and `list_over` that less the share in as many of lowest self-confidence.
    """

    set: str
    score: str
    saw: str  # what the probabilities saw
    n: int
    n_seeds: int
    noise_rate: float
    missed: float
    missed_low: float
    missed_high: float
    average_precision: float
    precision_5: float
    precision_10: float
    over: float
    over_low: float
    over_high: float
    n_listed: float
    list_precision: float
    list_over: float
    list_over_low: float
    list_over_high: float


@dataclass(frozen=True)
class _Draw:
    """One draw of labels: which are wrong, each score's qualities, and what an audit would list."""

    wrong: np.ndarray
    quality: dict[str, tuple[str, np.ndarray]]
    candidates: np.ndarray  # rows that an audit may list
    n_listed: int


def board(
    sources: Sequence[Path],
    *,
    noise: Sequence[str] = ("symmetric:0.2",),
    seeds: int = 3,
    names: dict[str, str] | None = None,
    normalize: str | None = None,
    rows: str = "unseen",
    scores: Sequence[str] = (),
) -> list[BoardRow]:
    """Rank the labels of each set by every score and say how many wrong ones each finds.

    A source with observed and reference labels is taken as it is, once; of one with labels alone
    these are taken for the truth, `noise` is put on them (`symmetric:RATE`, `pair:RATE`,
    `instance:RATE`, `reference`), `seeds` draws a kind, and linear heads are fitted out of fold and
    along a path of penalties; where it has probabilities instead of features they are ranked as
    they are, by a model that saw none of the noise. `scores` names those to compare (default: all;
    "default" is the one that an audit takes;
    the path is fitted only where one of its scores is among them). Of a cache whose network saw
    labels only the rows that it did not see are used, unless `rows` is "all". Raises `TrustqError`
    for a source that has no truth, for bad noise and for unknown scores.
    """
    if seeds < 1:
        raise InputError(f"`seeds={seeds}`: expected 1 or more.", where="seeds", found=seeds)
    wanted = tuple(dict.fromkeys((*scores, "self_confidence"))) if scores else ()
    found: list[BoardRow] = []
    for path in sources:
        source = open_source(Path(path), names=names, normalize=normalize)
        title = Path(path).stem
        if (source.reference >= 0).all() and (source.reference != source.observed).any():
            found += _rows(title, [_given(source, wanted)], source.training.groups, wanted)
            continue
        kept = np.ones(len(source.observed), dtype=bool)
        if rows == "unseen" and source.features is not None:
            kept = source.cache.honest_for_any_noise[source.training.rows]
        for spec in noise:
            draws = [_drawn(source, kept, spec, seed, wanted) for seed in range(seeds)]
            found += _rows(f"{title}, {spec}", draws, source.training.groups[kept], wanted)
    return found


def _given(source: AuditSource, wanted: Sequence[str]) -> _Draw:
    """A set with labels by people, or a network's noise: its own probabilities and epochs."""
    labels, truth = source.observed, source.reference
    made = source.out_of_fold
    quality = _of_probs(labels, made.probs, f"{made.source}, out of fold")
    if "epochs/logits" in source.cache.extra:
        logits = source.cache.epoch_logits[:, source.training.rows]
        for name, score in DYNAMICS.items():
            quality[f"{name} (epochs)"] = "epochs, in-sample", score(labels, logits)
    return _as_audited(source, quality, truth != labels, wanted)


def _as_audited(
    source: AuditSource,
    quality: dict[str, tuple[str, np.ndarray]],
    wrong: np.ndarray,
    wanted: Sequence[str],
) -> _Draw:
    """With the neighbours' score, the default one, and how long an audit's own list is."""
    if source.features is not None and (not wanted or "knn_agreement" in wanted):
        agree = feature_quality(
            "knn_agreement",
            labels=source.observed,
            features=np.asarray(source.features),
            training=source.training,
        )
        quality["knn_agreement"] = "features, other groups", agree
    taken = default_score([source])[0]
    quality["default"] = f"{quality[taken][0]}: {taken}", quality[taken][1]
    audit = audit_labels([source], score="self_confidence")
    return _Draw(wrong, quality, audit.rank > 0, len(audit.order))


def _drawn(
    source: AuditSource, kept: np.ndarray, spec: str, seed: int, wanted: Sequence[str]
) -> _Draw:
    """Noise on labels taken for the truth, and scores by heads that are fitted on it."""
    cache, rows = source.cache, source.training.rows[kept]
    truth = source.observed[kept]
    groups = np.unique(source.training.groups[kept], return_inverse=True)[1]
    features = None if source.features is None else source.features[kept]
    labels = _noisy(spec, truth, source, kept, seed)
    if features is None:
        probs = source.out_of_fold.probs[kept]
        training = TrainingRows(cache, rows, groups, np.full(len(rows), -1))
        drawn = replace(
            source,
            training=training,
            observed=labels,
            out_of_fold=accept_out_of_fold(training, probs, labels),
        )
        quality = _of_probs(labels, probs, "file, saw no noise")
        return _as_audited(drawn, quality, labels != truth, wanted)
    fold = group_folds(labels, groups, n_folds=_FOLDS, seed=seed)
    training = TrainingRows(cache, rows, groups, fold)
    along: dict[str, tuple[str, np.ndarray]] = {}
    if not wanted or any("(path" in name for name in wanted):
        best, along = _path(training, features, labels)
    else:
        best = fitted_out_of_fold(training, features, labels, "linear")[0]
    drawn = replace(source, training=training, observed=labels, out_of_fold=best, features=features)
    quality = _of_probs(labels, best.probs, "heads, out of fold") | along
    return _as_audited(drawn, quality, labels != truth, wanted)


def _noisy(
    spec: str, truth: np.ndarray, source: AuditSource, kept: np.ndarray, seed: int
) -> np.ndarray:
    """Labels with noise of a kind, (n,)."""
    features = np.empty((len(truth), 0)) if source.features is None else source.features[kept]
    if not features.shape[1] and depends_on_row(spec):
        raise InputError(
            f"Noise {spec!r} looks at features, and {source.cache.name} has probabilities alone: "
            "leave it out, e.g. `noise=symmetric:0.2,pair:0.2`.",
            where="noise",
            found=spec,
        )
    return observe_labels(
        spec,
        truth,
        classes=source.cache.classes,
        seed=seed,
        features=features,
        sample_ids=source.sample_ids[kept],
    ).labels


def _path(
    training: TrainingRows, features: np.ndarray, labels: np.ndarray
) -> tuple[OutOfFold, dict[str, tuple[str, np.ndarray]]]:
    """The best head of a path of penalties, and scores of dynamics over the path."""
    k = len(training.cache.classes)
    with one_blas_thread():
        fits = fit_folds(
            training,
            SharedFeatures(features),
            np.tile(labels, (len(PENALTIES), 1)),
            make=[partial(make_head, "linear", n_classes=k, C=c) for c in PENALTIES],
            whole=True,
        )
    apart: list[Any] = [fit.out_of_fold for fit in fits]
    known = apart[0].scorable
    losses = [
        -log_softmax(one.logits[known])[np.arange(int(known.sum())), labels[known]].mean()
        for one in apart
    ]
    inside = np.stack([fit.head.predict_logits(features) for fit in fits if fit.head])
    outside = np.stack([one.logits for one in apart])
    quality = {}
    for name, score in DYNAMICS.items():
        if name != "forgetting":  # penalties are no moments that follow one another
            quality[f"{name} (path)"] = "path of penalties, in-sample", score(labels, inside)
            own = score(labels, outside)
            quality[f"{name} (path, out of fold)"] = "path of penalties, out of fold", own
    return apart[int(np.argmin(losses))], quality


def _of_probs(labels: np.ndarray, probs: np.ndarray, saw: str) -> dict[str, tuple[str, np.ndarray]]:
    return {name: (saw, SCORES[name](labels, probs)) for name in OF_PROBABILITIES}


def _rows(
    title: str, draws: list[_Draw], groups: np.ndarray, wanted: Sequence[str]
) -> list[BoardRow]:
    """Every score's figures over the draws of one set."""
    rate = float(np.mean([draw.wrong.mean() for draw in draws]))
    if not rate:
        return []
    known = draws[0].quality
    if strange := [name for name in wanted if name not in known]:
        raise InputError(
            f"`scores`: {title} has no {strange[0]}; it has {', '.join(known)}.",
            where="scores",
            found=strange[0],
            expected=tuple(known),
        )
    rows = []
    base = _places(draws, "self_confidence")
    for name in wanted or known:
        own = _places(draws, name)
        hits = [draw.wrong[o] for draw, (o, _) in zip(draws, own, strict=True)]
        n_wrong = sum(int(h.sum()) for h in hits)
        n_missed = sum(int(h[int(h.sum()) :].sum()) for h in hits)
        low, high = share_interval(n_missed, n_wrong)
        at = [[h[: max(1, round(s * len(h)))].mean() for h in hits] for s in (0.05, 0.1)]
        shares = [
            _list_precision(draw, o, np.ones(len(draw.wrong)))
            for draw, (_, o) in zip(draws, own, strict=True)
        ]
        same = name == "self_confidence"
        rows.append(
            BoardRow(
                title, name, known[name][0], len(hits[0]), len(draws), rate,
                n_missed / n_wrong, low, high,
                float(np.mean([_average_precision(h) for h in hits])),
                float(np.mean(at[0])), float(np.mean(at[1])),
                *((0.0, 0.0, 0.0) if same else _lifted(draws, own, base, groups, _of_order)),
                float(np.mean([draw.n_listed for draw in draws])), float(np.nanmean(shares)),
                *((0.0, 0.0, 0.0) if same else _lifted(draws, own, base, groups, _of_list)),
            )
        )  # fmt: skip
    return rows


_Places = list[tuple[np.ndarray, np.ndarray]]  # of each draw: all rows, and an audit's candidates


def _places(draws: list[_Draw], name: str) -> _Places:
    """Rows of each draw by suspicion, and those of them that an audit may list."""
    found = []
    for draw in draws:
        order = _order(draw.quality[name][1])
        found.append((order, order[draw.candidates[order]]))
    return found


def _of_order(draw: _Draw, places: tuple[np.ndarray, np.ndarray], weight: np.ndarray) -> float:
    return _average_precision(draw.wrong[places[0]], weight[places[0]])


def _of_list(draw: _Draw, places: tuple[np.ndarray, np.ndarray], weight: np.ndarray) -> float:
    return _list_precision(draw, places[1], weight)


def _list_precision(draw: _Draw, order: np.ndarray, weight: np.ndarray) -> float:
    """Share wrong among the first rows, as many by weight as an audit lists; NaN for no list."""
    own = weight[order]
    inside = own * (np.cumsum(own) <= draw.n_listed)
    total = float(inside.sum())
    return float((inside * draw.wrong[order]).sum()) / total if total else float("nan")


def _order(quality: np.ndarray) -> np.ndarray:
    """Rows by suspicion; those without a score last; ties in a random order that is fixed."""
    shuffled = generator(0, "board ties").permutation(len(quality))
    values = np.where(np.isnan(quality), np.inf, quality)[shuffled]
    return np.asarray(shuffled[np.argsort(values, kind="stable")])


def _average_precision(hits: np.ndarray, weight: np.ndarray | None = None) -> float:
    weight = np.ones(len(hits)) if weight is None else weight
    found = np.cumsum(hits * weight)
    looked = np.maximum(np.cumsum(weight), 1e-12)
    return float((found / looked * hits * weight).sum() / max(found[-1], 1e-12))


def _lifted(
    draws: list[_Draw],
    own: _Places,
    base: _Places,
    groups: np.ndarray,
    of: Callable[[_Draw, tuple[np.ndarray, np.ndarray], np.ndarray], float],
) -> tuple[float, float, float]:
    """A figure over self-confidence's, with a paired interval over groups of rows.

    The same groups are drawn for both scores and for every draw of noise.
    """
    rng = generator(0, "board intervals")
    members = np.unique(groups, return_inverse=True)[1]
    n_groups = int(members.max()) + 1

    def difference(weight: np.ndarray) -> float:
        apart = [
            of(draw, a, weight) - of(draw, b, weight)
            for draw, a, b in zip(draws, own, base, strict=True)
        ]
        known = [one for one in apart if not np.isnan(one)]
        return float(np.mean(known)) if known else float("nan")

    replicates = [
        difference(np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)[members])
        for _ in range(REPLICATES)
    ]
    low, high = np.nanquantile(replicates, (0.025, 0.975))
    return difference(np.ones(len(members))), float(low), float(high)
