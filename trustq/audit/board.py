"""The board: which score finds wrong labels where, over sets whose truth is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trustq.audit.source import PENALTIES, AuditSource, open_source
from trustq.core.generators import generator
from trustq.data.noise import observe_labels
from trustq.data.splits import group_folds
from trustq.errors import InputError
from trustq.heads import SharedFeatures, make_head
from trustq.heads.feature_cache import one_blas_thread
from trustq.heads.out_of_fold import TrainingRows, fit_folds
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


@dataclass(frozen=True)
class _Draw:
    """One draw of labels: which are wrong, and each score's qualities with what it saw."""

    wrong: np.ndarray
    quality: dict[str, tuple[str, np.ndarray]]


def board(
    sources: Sequence[Path],
    *,
    noise: Sequence[str] = ("symmetric:0.2",),
    seeds: int = 3,
    names: dict[str, str] | None = None,
    normalize: str | None = None,
    rows: str = "unseen",
) -> list[BoardRow]:
    """Rank the labels of each set by every score and say how many wrong ones each finds.

    A source with observed and reference labels is taken as it is, once; of one with features and
    labels alone the labels are taken for the truth, `noise` is put on them (`symmetric:RATE`,
    `pair:RATE`, `instance:RATE`, `reference`), `seeds` draws a kind, and linear heads are fitted
    out of fold and along a path of penalties. Of a cache whose network saw labels only the rows
    that it did not see are used, unless `rows` is "all". Raises `TrustqError` for a source that has
    no truth, and for bad noise.
    """
    if seeds < 1:
        raise InputError(f"`seeds={seeds}`: expected 1 or more.", where="seeds", found=seeds)
    found: list[BoardRow] = []
    for path in sources:
        source = open_source(Path(path), names=names, normalize=normalize)
        title = Path(path).stem
        if (source.reference >= 0).all() and (source.reference != source.observed).any():
            found += _rows(title, [_given(source)], source.training.groups)
            continue
        if source.features is None:
            raise InputError(
                f"{path} has neither reference labels beside observed ones, nor features to fit "
                "heads on, so nothing can be compared there.",
                path=Path(path),
            )
        kept = np.ones(len(source.observed), dtype=bool)
        if rows == "unseen":
            kept = source.cache.honest_for_any_noise[source.training.rows]
        for spec in noise:
            draws = [_drawn(source, kept, spec, seed) for seed in range(seeds)]
            found += _rows(f"{title}, {spec}", draws, source.training.groups[kept])
    return found


def _given(source: AuditSource) -> _Draw:
    """A set with labels by people, or a network's noise: its own probabilities and epochs."""
    labels, truth = source.observed, source.reference
    made = source.out_of_fold
    quality = _of_probs(labels, made.probs, f"{made.source}, out of fold")
    if "epochs/logits" in source.cache.extra:
        logits = source.cache.epoch_logits[:, source.training.rows]
        for name, score in DYNAMICS.items():
            quality[f"{name} (epochs)"] = "epochs, in-sample", score(labels, logits)
    if source.features is not None:
        quality |= _neighbours(source, labels, source.training)
    return _Draw(truth != labels, quality)


def _drawn(source: AuditSource, kept: np.ndarray, spec: str, seed: int) -> _Draw:
    """Noise on labels taken for the truth, and scores by heads that are fitted on it."""
    cache, rows = source.cache, source.training.rows[kept]
    truth = source.observed[kept]
    groups = np.unique(source.training.groups[kept], return_inverse=True)[1]
    assert source.features is not None
    features = source.features[kept]
    k = len(cache.classes)
    labels = observe_labels(
        spec,
        truth,
        classes=cache.classes,
        seed=seed,
        features=features,
        sample_ids=cache.sample_id[rows],
    ).labels
    training = TrainingRows(
        cache, rows, groups, group_folds(labels, groups, n_folds=_FOLDS, seed=seed)
    )
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
    best = apart[int(np.argmin(losses))]
    quality = _of_probs(labels, best.probs, "heads, out of fold")
    inside = np.stack([fit.head.predict_logits(features) for fit in fits if fit.head])
    outside = np.stack([one.logits for one in apart])
    for name, score in DYNAMICS.items():
        if name != "forgetting":  # penalties are no moments that follow one another
            quality[f"{name} (path)"] = "path of penalties, in-sample", score(labels, inside)
            own = score(labels, outside)
            quality[f"{name} (path, out of fold)"] = "path of penalties, out of fold", own
    quality |= _neighbours(source, labels, training, features)
    quality["mean rank of three"] = "out of fold", _mean_rank(quality)
    return _Draw(labels != truth, quality)


def _of_probs(labels: np.ndarray, probs: np.ndarray, saw: str) -> dict[str, tuple[str, np.ndarray]]:
    return {name: (saw, SCORES[name](labels, probs)) for name in OF_PROBABILITIES}


def _neighbours(
    source: AuditSource,
    labels: np.ndarray,
    training: TrainingRows,
    features: np.ndarray | None = None,
) -> dict[str, tuple[str, np.ndarray]]:
    own = source.features if features is None else features
    assert own is not None
    agree = feature_quality("knn_agreement", labels=labels, features=own, training=training)
    return {"knn_agreement": ("features, other groups", agree)}


def _mean_rank(quality: dict[str, tuple[str, np.ndarray]]) -> np.ndarray:
    """Mean place of a row by three scores of different reasoning, in [0, 1]."""
    from scipy.stats import rankdata

    names = ("noise_posterior", "normalized_margin", "knn_agreement")
    ranks = [rankdata(np.nan_to_num(quality[name][1], nan=1.0)) for name in names]
    return np.asarray(np.mean(ranks, axis=0) / len(ranks[0]))


def _rows(title: str, draws: list[_Draw], groups: np.ndarray) -> list[BoardRow]:
    """Every score's figures over the draws of one set."""
    rate = float(np.mean([draw.wrong.mean() for draw in draws]))
    if not rate:
        return []
    lifted = {name: _lifted(draws, name, groups) for name in draws[0].quality}
    rows = []
    for name, (saw, _) in draws[0].quality.items():
        order = [_order(draw.quality[name][1]) for draw in draws]
        hits = [draw.wrong[o] for draw, o in zip(draws, order, strict=True)]
        n_wrong = sum(int(h.sum()) for h in hits)
        n_missed = sum(int(h[int(h.sum()) :].sum()) for h in hits)
        low, high = share_interval(n_missed, n_wrong)
        at = [[h[: max(1, round(s * len(h)))].mean() for h in hits] for s in (0.05, 0.1)]
        over, over_low, over_high = lifted[name]
        rows.append(
            BoardRow(
                title, name, saw, len(hits[0]), len(draws), rate, n_missed / n_wrong, low, high,
                float(np.mean([_average_precision(h) for h in hits])),
                float(np.mean(at[0])), float(np.mean(at[1])), over, over_low, over_high,
            )
        )  # fmt: skip
    return rows


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


def _lifted(draws: list[_Draw], name: str, groups: np.ndarray) -> tuple[float, float, float]:
    """Average precision over self-confidence's, with a paired interval over groups of rows.

    The same groups are drawn for both scores and for every draw of noise.
    """
    rng = generator(0, "board intervals")
    members = np.unique(groups, return_inverse=True)[1]
    n_groups = int(members.max()) + 1
    orders = [[_order(draw.quality[one][1]) for one in (name, "self_confidence")] for draw in draws]

    def difference(weight: np.ndarray) -> float:
        apart = [
            _average_precision(draw.wrong[a], weight[a])
            - _average_precision(draw.wrong[b], weight[b])
            for draw, (a, b) in zip(draws, orders, strict=True)
        ]
        return float(np.mean(apart))

    replicates = [
        difference(np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)[members])
        for _ in range(REPLICATES if name != "self_confidence" else 1)
    ]
    low, high = np.quantile(replicates, (0.025, 0.975))
    return difference(np.ones(len(members))), float(low), float(high)
