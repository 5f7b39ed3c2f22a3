"""Figures of one source on some rows, and of rows drawn again: one definition for both.

Macro figures average the classes of the truth of these rows, so that a figure and its difference
to another condition are of the same classes.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy

from trustq.evaluation.influence import influences
from trustq.evaluation.trust_sources import Outputs, Source
from trustq.metrics.calibration_error import equal_width_bins
from trustq.metrics.classification import ECE_BINS
from trustq.metrics.per_class import sensitivity_at_specificity
from trustq.metrics.selective import (
    augrc_of_steps,
    aurc_of_steps,
    coverage_at_risk,
    oracle_aurc_of_steps,
    risk_at_coverage,
    risk_steps,
)

LEVELS = (0.5, 0.7, 0.9)  # of the thresholds on probability, and of the coverages
RISK = 0.05
SPECIFICITY = 0.95
BLOCK = 1 << 19  # rows times replicates at a time
NARROWEST = 128  # replicates at a time: a loop over blocks of rows costs as much for fewer

# Metric to what it is; of those in `LOWER` less is better, of the rest more, or neither is.
METRICS = {
    "accuracy": "share right",
    "balanced_accuracy": "mean recall of the classes of the truth",
    "macro_f1": "over the classes of the truth",
    "macro_auroc": "one-vs-rest, classes with both outcomes",
    "macro_auprc": "average precision, classes with both outcomes",
    "sens_at_95_spec": "sensitivity for the positive set at specificity .95 on these very rows",
    "sensitivity_clean_threshold": "sensitivity at the threshold that was chosen on clean rows",
    "specificity_clean_threshold": "specificity that this threshold has on these rows",
    "nll": "nats",
    "brier": "0 to 2",
    "ece": "top-label, 15 bins of equal width, L1",
    "aurc": "exact, with ties",
    "e_aurc": "less the finite oracle",
    "augrc": "headline selective figure, 0 to .5",
    "failure_auroc": "how well the confidence tells right from wrong rows",
    f"coverage_at_risk_{RISK:g}": "largest coverage with this risk on these rows",
    **{f"coverage_at_{t:g}": f"share of rows with top probability >= {t:g}" for t in LEVELS},
    **{f"risk_at_{t:g}": f"error rate of rows with top probability >= {t:g}" for t in LEVELS},
    **{f"risk_at_coverage_{q:g}": f"error rate of the surest {q:.0%} of rows" for q in LEVELS},
    **{f"threshold_at_coverage_{q:g}": f"confidence that keeps {q:.0%} of rows" for q in LEVELS},
    "shift_auroc": "how well low confidence tells rows of the condition from clean ones",
}
LOWER: tuple[str, ...] = (
    *("nll", "brier", "ece", "aurc", "e_aurc", "augrc"),
    *(name for name in METRICS if name.startswith("risk_at")),
)
# Of these every replicate draws groups anew; intervals of RANKED come from influences. ECE has
# none: noise lifts that of draws, most where it is small; intervals of differences held 45 %.
REPLICATED = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "sensitivity_clean_threshold",
    "specificity_clean_threshold",
    "nll",
    "brier",
    "aurc",
    "augrc",
    "failure_auroc",
    *(f"coverage_at_{t:g}" for t in LEVELS),
    *(f"risk_at_{t:g}" for t in LEVELS),
)
RANKED = ("macro_auroc", "macro_auprc")


def source_figures(
    source: Source,
    labels: np.ndarray,
    *,
    called: np.ndarray | None = None,
    positive: Sequence[int] = (),
) -> dict[str, float]:
    """Every figure of `METRICS` of one source on some rows, but for `shift_auroc`.

    `labels` is (n,); `called`, (n,), are the rows called positive at the clean threshold, for the
    `positive` classes. NaN where a figure has no rows to be of.

    >>> source = Source(Outputs.of_probs(np.array([[0.9, 0.1], [0.4, 0.6]])), np.array([0.9, 0.6]))
    >>> found = source_figures(source, np.array([0, 0]))
    >>> found["accuracy"], found["augrc"], found["risk_at_0.7"]
    (0.5, 0.125, 0.0)
    """
    outputs = source.outputs
    return outputs_figures(outputs, labels, called=called, positive=positive) | ranking_figures(
        outputs.predicted != labels, source.confidence
    )


def outputs_figures(
    outputs: Outputs,
    labels: np.ndarray,
    *,
    called: np.ndarray | None = None,
    positive: Sequence[int] = (),
) -> dict[str, float]:
    """The figures that depend on the probabilities alone, whatever ranks the rows."""
    n, k = outputs.probs.shape
    right = outputs.predicted == labels
    of_label = np.bincount(labels, minlength=k)
    both = of_label + np.bincount(outputs.predicted, minlength=k)
    hits = np.bincount(labels[right], minlength=k)
    present = of_label > 0
    residuals = outputs.probs.copy()
    residuals[np.arange(n), labels] -= 1
    gaps = np.bincount(
        equal_width_bins(outputs.top), weights=right - outputs.top, minlength=ECE_BINS
    )
    found = {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float((hits[present] / of_label[present]).mean()),
        "macro_f1": float((2 * hits[present] / both[present]).mean()),
        "nll": float(np.abs(outputs.log_probs[np.arange(n), labels].mean())),
        "brier": float(np.vdot(residuals, residuals) / n),
        "ece": float(np.abs(gaps).sum() / n),
    }
    for t in LEVELS:
        kept = outputs.top >= t
        found[f"coverage_at_{t:g}"] = float(kept.mean())
        found[f"risk_at_{t:g}"] = float((~right)[kept].mean()) if kept.any() else math.nan
    if positive:
        truth = np.isin(labels, positive)
        found["sens_at_95_spec"] = math.nan
        if truth.any() and not truth.all():
            score = outputs.probs[:, list(positive)].sum(axis=1)
            found["sens_at_95_spec"] = sensitivity_at_specificity(
                truth,
                score,
                validation_positive=truth,
                validation_score=score,
                specificity=SPECIFICITY,
            ).sensitivity
        if called is not None:
            found["sensitivity_clean_threshold"] = _share(called, truth)
            found["specificity_clean_threshold"] = _share(~called, ~truth)
    return found


def ranking_figures(wrong: np.ndarray, confidence: np.ndarray) -> dict[str, float]:
    """The figures of a confidence that ranks rows, of which some are wrong."""
    steps = risk_steps(wrong, confidence)
    error, augrc, aurc = float(wrong.mean()), augrc_of_steps(steps), aurc_of_steps(steps)
    found = {
        "aurc": aurc,
        "e_aurc": aurc - oracle_aurc_of_steps(steps),
        "augrc": augrc,
        "failure_auroc": float(failure_auroc(np.array(augrc), np.array(error))),
        f"coverage_at_risk_{RISK:g}": coverage_at_risk(wrong, confidence, risk=RISK).coverage,
    }
    for q in LEVELS:
        pick = risk_at_coverage(wrong, confidence, coverage=q)
        found[f"risk_at_coverage_{q:g}"] = pick.risk
        found[f"threshold_at_coverage_{q:g}"] = pick.threshold
    return found


def failure_auroc(augrc: np.ndarray, error: np.ndarray) -> np.ndarray:
    """AUROC of right against wrong rows, from AUGRC and the error rate; NaN where all are alike.

    >>> float(failure_auroc(np.array(0.125), np.array(0.5)))
    1.0
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        area = 1 - (augrc - error**2 / 2) / (error * (1 - error))
    return np.where((error > 0) & (error < 1), area, np.nan)


def shift_auroc(clean: np.ndarray, shifted: np.ndarray) -> tuple[float, np.ndarray]:
    """How well low confidence tells shifted from clean rows, and the influence of each row, (n,).

    `clean` and `shifted` are confidences (n,) of the same rows; .5 is no detection. Ties count one
    half.

    >>> shift_auroc(np.array([0.9, 0.8]), np.array([0.5, 0.8]))[0]
    0.875
    """
    n = len(clean)
    below = np.sort(shifted)
    above = np.sort(clean)
    of_clean = (below.searchsorted(clean, "left") + below.searchsorted(clean, "right")) / (2 * n)
    of_shifted = 1 - (
        (above.searchsorted(shifted, "left") + above.searchsorted(shifted, "right")) / (2 * n)
    )
    value = float(of_clean.mean())
    return value, of_clean + of_shifted - 2 * value


def ranked_influences(outputs: Outputs, labels: np.ndarray) -> dict[str, tuple[float, np.ndarray]]:
    """Macro-AUROC and macro-AUPRC, each with the influence of every row, (n,)."""
    found = influences(
        labels,
        predicted=outputs.predicted,
        probs=outputs.probs,
        log_prob=outputs.log_probs[:, 0],
        class_scores=outputs.scores,
        rank_by=outputs.rank,
        names=RANKED,
        of_truth=True,
    )
    return {name: (own.value, own.rows) for name, own in found.items()}


class DrawnRows:
    """Rows of a slice, drawn again by whole groups: the same draws for every source.

    `codes`, (n,), number the groups of these rows, `counts`, (groups, r), say how often each
    replicate drew them.
    """

    def __init__(
        self, labels: np.ndarray, codes: np.ndarray, counts: np.ndarray, truth: np.ndarray, k: int
    ) -> None:
        n, self.n_groups = len(labels), len(counts)
        self.labels, self.codes, self.counts, self.k = labels, codes, counts, k
        self.by_group = scipy.sparse.csr_matrix(
            (np.ones(n), (codes, np.arange(n))), shape=(self.n_groups, n)
        )
        self.truth = truth
        of_rows = np.column_stack([np.ones(n), truth, np.eye(k)[labels]])
        sums = (self.by_group @ of_rows).T @ counts
        self.n, self.positives, self.of_label = sums[0], sums[1], sums[2:]
        self.present = np.flatnonzero(np.bincount(labels, minlength=k))

    def linear(self, outputs: Outputs, called: np.ndarray | None) -> np.ndarray:
        """What the figures of probabilities are sums of, by group, (groups, m)."""
        n, k = len(self.labels), self.k
        rows = np.arange(n)
        right = outputs.predicted == self.labels
        residuals = outputs.probs.copy()
        residuals[rows, self.labels] -= 1
        kept = outputs.top[:, None] >= np.array(LEVELS)
        parts = np.zeros((n, 5 + 2 * len(LEVELS) + 2 * k))
        parts[:, 0] = right
        parts[:, 1] = outputs.log_probs[rows, self.labels]
        parts[:, 2] = np.einsum("ij,ij->i", residuals, residuals)
        if called is not None:
            parts[:, 3] = called & self.truth
            parts[:, 4] = ~called & ~self.truth
        start = 5
        parts[:, start : start + len(LEVELS)] = kept
        parts[:, start + len(LEVELS) : start + 2 * len(LEVELS)] = kept & ~right[:, None]
        start += 2 * len(LEVELS)
        parts[rows, start + self.labels] = right
        parts[rows, start + k + outputs.predicted] = 1
        return np.asarray(self.by_group @ parts)

    def of_probabilities(self, sums: np.ndarray, *, with_called: bool) -> dict[str, np.ndarray]:
        """Figures (r,) of drawn sums (m, r) of `linear`."""
        levels, k = len(LEVELS), self.k
        with np.errstate(invalid="ignore", divide="ignore"):
            found = {
                "accuracy": sums[0] / self.n,
                "nll": np.abs(sums[1]) / self.n,
                "brier": sums[2] / self.n,
            }
            if with_called:
                found["sensitivity_clean_threshold"] = sums[3] / self.positives
                found["specificity_clean_threshold"] = sums[4] / (self.n - self.positives)
            for i, t in enumerate(LEVELS):
                kept, errors = sums[5 + i], sums[5 + levels + i]
                found[f"coverage_at_{t:g}"] = kept / self.n
                found[f"risk_at_{t:g}"] = errors / kept
        start = 5 + 2 * levels
        hits = sums[start + self.present]
        of_label, said = self.of_label[self.present], sums[start + k + self.present]
        found["balanced_accuracy"] = (hits / np.maximum(of_label, 1)).mean(axis=0)
        found["macro_f1"] = (2 * hits / np.maximum(of_label + said, 1)).mean(axis=0)
        return found

    def of_ranking(self, source: Source) -> dict[str, np.ndarray]:
        """Figures (r,) of the order of a source's confidence."""
        wrong = source.outputs.predicted != self.labels
        if not wrong.any():
            nothing = np.zeros(self.counts.shape[1])
            return {"aurc": nothing, "augrc": nothing, "failure_auroc": nothing + np.nan}
        areas = DrawnAreas(wrong, source.confidence, self.codes, self.n_groups)
        found = np.concatenate([areas.figures(block) for block in self.blocks], axis=1)
        aurc, augrc, error = found
        return {"aurc": aurc, "augrc": augrc, "failure_auroc": failure_auroc(augrc, error)}

    @functools.cached_property
    def blocks(self) -> list[np.ndarray]:
        """The counts as whole numbers in narrow blocks, which stay in a processor's cache."""
        # Half as wide where twice the rows of a draw fit.
        narrow = 2 * float(self.n.max(initial=0)) < 2**31
        whole = self.counts.astype(np.int32 if narrow else np.int64)
        width = max(BLOCK // max(len(self.labels), 1), NARROWEST)
        return [
            np.ascontiguousarray(whole[:, start : start + width])
            for start in range(0, whole.shape[1], width)
        ]


class DrawnAreas:
    """AURC and AUGRC of drawn rows, as `trustq.evaluation.bootstrap_sums.AreaSums` in integers.

    A stretch is the rows from one block of equal confidence that holds a wrong row to the next;
    only where stretches end and how large these blocks are enters the areas.
    """

    def __init__(
        self, wrong: np.ndarray, confidence: np.ndarray, codes: np.ndarray, n_groups: int
    ) -> None:
        order = np.argsort(-confidence, kind="stable")
        confidence, wrong, group = confidence[order], wrong[order], codes[order]
        block = np.append(0, np.cumsum(confidence[1:] != confidence[:-1]))
        has_wrong = np.bincount(block, weights=wrong) > 0
        # A block ends its own stretch.
        place: np.ndarray = np.cumsum(has_wrong) - has_wrong
        m = self.n_blocks = int(has_wrong.sum())
        inside = has_wrong[block]  # rows of blocks with a wrong row
        # Few blocks also hold a right row; the errors of all others are their rows.
        is_mixed = has_wrong & (np.bincount(block, weights=~wrong) > 0)
        self.mixed: np.ndarray = place[is_mixed]
        wrong_of_mixed = wrong & is_mixed[block]
        place_of_mixed: np.ndarray = np.cumsum(is_mixed) - is_mixed
        stretch: np.ndarray = place[block]
        of_mixed: np.ndarray = place_of_mixed[block[wrong_of_mixed]]
        row = np.concatenate([stretch, m + 1 + stretch[inside], 2 * m + 1 + of_mixed])
        column = np.concatenate([group, group[inside], group[wrong_of_mixed]])
        self.matrix = scipy.sparse.csr_matrix(
            (np.ones(len(row), dtype=np.int32), (row, column)),
            shape=(2 * m + 1 + len(self.mixed), n_groups),
        )

    def figures(self, counts: np.ndarray) -> np.ndarray:
        """AURC, AUGRC and error rate, (3, b), of whole counts (groups, b)."""
        sums = self.matrix @ counts
        m = self.n_blocks
        kept = sums[: m + 1]
        for i in range(1, m + 1):  # sums of what came before; numpy's cumsum takes twice as long
            kept[i] += kept[i - 1]
        n, end, size = kept[-1].astype(np.int64), kept[:m], sums[m + 1 : 2 * m + 1]
        harmonic, summed = _harmonic_tables(int(n.max(initial=0)))
        start = end - size
        passed = summed.take(end)
        passed -= summed.take(start)
        errors, of_mixed = size, sums[2 * m + 1 :]
        passed[self.mixed] *= of_mixed / np.maximum(size[self.mixed], 1)
        errors[self.mixed] = of_mixed
        total = errors.sum(axis=0)
        aurc = total * harmonic.take(n) - passed.sum(axis=0)
        start += end
        twice = 2 * total * n - np.einsum("ij,ij->j", errors, start, dtype=np.int64)
        with np.errstate(invalid="ignore", divide="ignore"):  # nothing was drawn: NaN
            return np.stack([aurc / n, twice / (2 * n * n), total / n])


@functools.lru_cache(maxsize=8)
def _tables(top: int) -> tuple[np.ndarray, np.ndarray]:
    kept = np.arange(top + 1)
    harmonic = np.append(0.0, np.cumsum(1 / kept[1:]))
    return harmonic, kept * harmonic - kept  # sum of H_0 to H_{m-1}


def _harmonic_tables(most: int) -> tuple[np.ndarray, np.ndarray]:
    return _tables(1 << max(most, 1).bit_length())  # a few sizes serve all draws


def _share(hits: np.ndarray, among: np.ndarray) -> float:
    return float(hits[among].mean()) if among.any() else math.nan


def metric_list(found: dict[str, Any]) -> list[str]:
    """Names of the figures that are there, in the order of `METRICS`."""
    return [name for name in METRICS if name in found]
