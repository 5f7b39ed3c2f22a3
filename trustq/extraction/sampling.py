"""How often each training row is drawn in an epoch, so that rare classes or groups weigh as much.

Only observed labels enter, for the true ones are not known before training.
"""

import numpy as np

from trustq.digest import digest_json
from trustq.errors import TrustqError
from trustq.manifest import Manifest
from trustq.recipes import ExtractRecipe


def sampling_weights(
    manifest: Manifest, rows: np.ndarray, observed: np.ndarray, *, recipe: ExtractRecipe
) -> np.ndarray | None:
    """Probability of each training row at each draw, (m,), summing to 1; None = each row once.

    `rows`, (m,), are positions of training rows in the manifest and `observed`, (m,), their labels.
    Raises `TrustqError` where the manifest lacks a column that the recipe names.
    """
    if recipe.sampling == "none":
        return None
    if recipe.sampling == "class_balanced":
        return class_balanced(observed)
    require_columns(manifest, recipe=recipe)
    domains = _texts(manifest.columns[recipe.sampling_domain][rows])
    groups = None
    if recipe.sampling_group:
        groups = _texts(manifest.columns[recipe.sampling_group][rows])
    return domain_balanced(observed, domains, groups)


def class_balanced(labels: np.ndarray) -> np.ndarray:
    """Probabilities, (m,), that give each class present in `labels`, (m,), the same share.

    >>> class_balanced(np.array([0, 0, 0, 1])).round(4).tolist()
    [0.1667, 0.1667, 0.1667, 0.5]
    """
    weights = _inverse_frequency(labels)
    return weights / weights.sum()


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
    weights = np.ones(len(labels))
    for domain in np.unique(domains):
        inside = np.flatnonzero(domains == domain)
        if groups is None:
            weights[inside] = _inverse_frequency(labels[inside])
        elif (annotated := inside[groups[inside] != ""]).size:
            names, group = np.unique(groups[annotated], return_inverse=True)
            cells = labels[annotated].astype(np.int64) * len(names) + group
            weights[inside] = np.median(_inverse_frequency(cells))
            weights[annotated] = _inverse_frequency(cells)
        weights[inside] /= weights[inside].sum()
    return weights / weights.sum()


def columns_digest(manifest: Manifest, rows: np.ndarray, *, recipe: ExtractRecipe) -> str:
    """Digest of the columns that the drawing of training `rows` depends on; "" where of none."""
    names = (recipe.sampling_domain, recipe.sampling_group)
    if recipe.sampling != "domain_balanced":
        return ""
    texts = [_texts(manifest.columns[name][rows]).tolist() for name in names if name]
    return digest_json(texts)


def require_columns(manifest: Manifest, *, recipe: ExtractRecipe) -> None:
    """Raise `TrustqError` where the manifest lacks a column that domain-balanced sampling names."""
    for key in ("sampling_domain", "sampling_group"):
        column = getattr(recipe, key)
        if column and column not in manifest.columns:
            raise TrustqError(
                f"{key}={column}: the manifest has no such column; it has "
                f"{', '.join(manifest.columns)}."
            )


def _inverse_frequency(codes: np.ndarray) -> np.ndarray:
    _, cell, counts = np.unique(codes, return_inverse=True, return_counts=True)
    return 1 / counts[cell]


def _texts(column: np.ndarray) -> np.ndarray:
    """A column as text, (m,), with "" for what is blank."""
    if isinstance(column, np.ma.MaskedArray):
        return np.where(np.ma.getmaskarray(column), "", column.data.astype(str))
    if column.dtype.kind == "f":
        return np.where(np.isnan(column), "", column.astype(str))
    return np.array(["" if value is None else str(value) for value in column.tolist()])
