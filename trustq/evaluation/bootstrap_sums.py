"""Figures as functions of sums over rows, so that a resampled figure is one matrix product.

The sums of a draw of groups are a sparse matrix (sums x groups) times how often each group was
drawn. AURC and AUGRC need one sort, and then only how many rows precede each wrong one.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import scipy

from trustq.metrics.classification import ECE_BINS
from trustq.metrics.probabilities import PROBABILITY_FLOOR, log_odds_of_rows, log_softmax_of_rows


class FigureSums(ABC):
    """What is summed over rows, as a sparse matrix (sums, groups), and the figures of the sums."""

    matrix: "scipy.sparse.csr_matrix"
    n_figures: int

    @abstractmethod
    def figures(self, sums: np.ndarray) -> np.ndarray:
        """Figures (n_figures, b) of sums (sums, b), one column per draw of groups."""


class AreaSums(FigureSums):
    """AURC and AUGRC: a wrong row at position p of N adds (H_N - H_{p-1})/N and (N - p + .5)/N^2.

    So rows count only as cells: blocks of equal confidence that hold a wrong row, and the runs of
    right rows between them. Inside a block its wrong rows lie anywhere with equal chance, which
    averages the two terms over the block's positions.
    """

    n_figures = 2

    def __init__(
        self, wrong: np.ndarray, confidence: np.ndarray, codes: np.ndarray, n_groups: int
    ) -> None:
        order = np.argsort(-confidence, kind="stable")
        confidence, wrong, group = confidence[order], wrong[order], codes[order]
        block = np.append(0, np.cumsum(confidence[1:] != confidence[:-1]))
        has_wrong = np.bincount(block, weights=wrong) > 0
        # A new cell starts at a block with wrong rows and after one; other blocks join.
        starts = has_wrong | np.append(True, has_wrong[:-1])
        cell_of_block = np.cumsum(starts) - 1
        cell = cell_of_block[block]
        self.n_cells = int(cell_of_block[-1]) + 1
        self.wrong_cells = cell_of_block[has_wrong]
        row = np.concatenate([cell, self.n_cells + (np.cumsum(has_wrong) - 1)[block[wrong]]])
        column = np.concatenate([group, group[wrong]])
        shape = (self.n_cells + len(self.wrong_cells), n_groups)
        self.matrix = scipy.sparse.csr_matrix((np.ones(len(row)), (row, column)), shape=shape)
        self._tabulate(2 * len(codes))

    def _tabulate(self, top: int) -> None:
        kept = np.arange(top + 1)
        self.harmonic = np.append(0.0, np.cumsum(1 / kept[1:]))
        # Sum of H_0 to H_{m-1}, so that a block's average is a difference of two.
        self.summed = kept * self.harmonic - kept

    def figures(self, sums: np.ndarray) -> np.ndarray:
        kept = np.cumsum(sums[: self.n_cells], axis=0)
        n = kept[-1]
        if n.max() >= len(self.harmonic):  # a large group was drawn often
            self._tabulate(2 * int(n.max()))
        end = kept[self.wrong_cells]
        size = sums[self.wrong_cells]
        errors = sums[self.n_cells :]
        start = end - size
        share = errors / np.maximum(size, 1)
        passed = self.summed[end.astype(np.intp)] - self.summed[start.astype(np.intp)]
        total_errors = errors.sum(axis=0)
        aurc = total_errors * self.harmonic[n.astype(np.intp)] - np.einsum(
            "ij,ij->j", share, passed
        )
        augrc = total_errors * n - np.einsum("ij,ij->j", errors, start + size / 2)
        return np.stack([aurc / n, augrc / (n * n)])


class PredictionSums(FigureSums):
    """The figures of one set of predictions."""

    def __init__(
        self,
        labels: np.ndarray,
        logits: np.ndarray | None,
        probs: np.ndarray | None,
        codes: np.ndarray,
        n_groups: int,
        names: Sequence[str],
    ) -> None:
        self.names, self.n_figures = names, len(names)
        confidence, rank_by, log_prob, probs = sums_of_rows(labels, logits, probs)
        rows, k = np.arange(len(labels)), probs.shape[1]
        predicted = probs.argmax(axis=1) if logits is None else logits.argmax(axis=1)
        right = predicted == labels
        self.present = np.flatnonzero(np.bincount(labels, minlength=k))
        bins = (np.arange(1, ECE_BINS) / ECE_BINS).searchsorted(confidence, "left")
        residuals = probs.copy()
        residuals[rows, labels] -= 1
        once = np.ones(len(labels))
        # Each part: how many sums, which of them a row adds to, and how much.
        parts = {
            "n": (1, 0 * rows, once),
            "right": (1, 0 * rows, right.astype(float)),
            "log_prob": (1, 0 * rows, log_prob),
            "brier": (1, 0 * rows, np.einsum("ij,ij->i", residuals, residuals)),
            "gap": (ECE_BINS, bins, right - confidence),
            "hit": (k, labels, right.astype(float)),
            "label": (k, labels, once),
            "predicted": (k, predicted, once),
        }
        self.slices, height = {}, 0
        where = []
        for part, (n_sums, row, _) in parts.items():
            self.slices[part] = slice(height, height + n_sums)
            where.append(row + height)
            height += n_sums
        # One matrix of all parts: with one each a comparison of ten seeds took twice as long.
        entries = np.concatenate([weight for _, _, weight in parts.values()])
        columns = np.tile(codes, len(parts))
        self.matrix = scipy.sparse.csr_matrix(
            (entries, (np.concatenate(where), columns)), shape=(height, n_groups)
        )
        self.n_linear = height
        self.areas = None
        if {"aurc", "augrc"} & set(names):
            self.areas = AreaSums(~right, rank_by, codes, n_groups)
            self.matrix = scipy.sparse.vstack([self.matrix, self.areas.matrix], format="csr")

    def figures(self, sums: np.ndarray) -> np.ndarray:
        part = {name: sums[where] for name, where in self.slices.items()}
        n = part["n"][0]
        both = (part["label"] + part["predicted"])[self.present]
        hits = part["hit"][self.present]
        found = {
            "accuracy": part["right"][0] / n,
            "macro_f1": (2 * hits / np.maximum(both, 1)).mean(axis=0),
            "nll": np.abs(part["log_prob"][0]) / n,
            "brier": part["brier"][0] / n,
            "ece": np.abs(part["gap"]).sum(axis=0) / n,
        }
        if self.areas is not None:
            found["aurc"], found["augrc"] = self.areas.figures(sums[self.n_linear :])
        return np.stack([found[name] for name in self.names])


def sums_of_rows(
    labels: np.ndarray, logits: np.ndarray | None, probs: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, what ranks rows, log-probability of the label, and probabilities."""
    rows = np.arange(len(labels))
    if logits is not None:
        log_probs, log_odds = log_softmax_of_rows(logits), log_odds_of_rows(logits)
        return 1 / (1 + np.exp(-log_odds)), log_odds, log_probs[rows, labels], np.exp(log_probs)
    assert probs is not None
    confidence = probs.max(axis=1)
    log_prob = np.log(np.maximum(probs[rows, labels], PROBABILITY_FLOOR))
    return confidence, confidence, log_prob, probs
