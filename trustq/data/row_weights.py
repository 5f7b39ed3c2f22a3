"""How much rows count so that rare classes, or domains and groups, weigh as much as others.

Only observed labels enter, for the true ones are not known before training.
"""

from dataclasses import dataclass

import numpy as np

BLANK = -1  # code of a row without a group


def class_balanced(labels: np.ndarray) -> np.ndarray:
    """Probabilities, (m,), that give each class present in `labels`, (m,), the same share.

    >>> class_balanced(np.array([0, 0, 0, 1])).round(4).tolist()
    [0.1667, 0.1667, 0.1667, 0.5]
    """
    weights = _inverse_frequency(labels)
    return np.asarray(weights / weights.sum())


def domain_balanced(
    labels: np.ndarray, domains: np.ndarray, groups: np.ndarray | None = None
) -> np.ndarray:
    """Probabilities, (m,), that give domains equal shares, and in each its (group, label) cells.

    All are (m,); blanks of `domains` and `groups` are "". Every domain has the same share. In it a
    row weighs the inverse of the rows of its cell, so all cells have the same share; a row without
    a group weighs the median of those with one. A domain without any group weighs its rows alike.

    >>> domains = np.array(["a", "a", "a", "b"])
    >>> domain_balanced(np.array([0, 0, 1, 0]), domains).tolist()
    [0.125, 0.125, 0.25, 0.5]
    """
    weights = _domain_balanced(labels, _codes(domains), None if groups is None else _codes(groups))
    return np.asarray(weights / weights.sum())


@dataclass(frozen=True)
class DomainBalance:
    """Domains and groups of n rows, to weigh any part of them by any labels.

    `domains` and `groups` are (n,) of codes, `BLANK` for a row without a group; `groups` is None
    where the labels alone make the cells.
    """

    domains: np.ndarray
    groups: np.ndarray | None

    def weights(self, labels: np.ndarray, used: np.ndarray) -> np.ndarray:
        """Weights, (n,), of the rows `used`, (n,) of bool, mean 1 over them; 0 for the others.

        `labels`, (n,), are observed ones; those of rows that are not used change nothing.

        >>> balance = make_balance(np.array(["a", "a", "a", "b", "b"]))
        >>> used = np.array([True, True, True, True, False])
        >>> balance.weights(np.array([0, 0, 1, 0, 1]), used).tolist()
        [0.5, 0.5, 1.0, 2.0, 0.0]
        """
        rows = np.flatnonzero(used)
        groups = None if self.groups is None else self.groups[rows]
        own = _domain_balanced(labels[rows], self.domains[rows], groups)
        weights = np.zeros(len(labels))
        weights[rows] = own * (len(rows) / own.sum())
        return weights


def make_balance(domains: np.ndarray, groups: np.ndarray | None = None) -> DomainBalance:
    """A balance of rows whose domains and groups are texts, (n,), "" where blank."""
    return DomainBalance(_codes(domains), None if groups is None else _codes(groups))


def _codes(texts: np.ndarray) -> np.ndarray:
    names, codes = np.unique(texts, return_inverse=True)
    return np.where(names == "", BLANK, np.arange(len(names)))[codes]


def _domain_balanced(
    labels: np.ndarray, domains: np.ndarray, groups: np.ndarray | None
) -> np.ndarray:
    weights = np.ones(len(labels))
    for domain in np.unique(domains):
        inside = np.flatnonzero(domains == domain)
        if groups is None:
            weights[inside] = _inverse_frequency(labels[inside])
        elif (annotated := inside[groups[inside] != BLANK]).size:
            group = groups[annotated]
            cells = labels[annotated].astype(np.int64) * (int(groups.max()) + 1) + group
            weights[inside] = np.median(_inverse_frequency(cells))
            weights[annotated] = _inverse_frequency(cells)
        weights[inside] /= weights[inside].sum()
    return weights


def _inverse_frequency(codes: np.ndarray) -> np.ndarray:
    _, cell, counts = np.unique(codes, return_inverse=True, return_counts=True)
    return 1 / counts[cell]
