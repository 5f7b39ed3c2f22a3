"""How often each training row is drawn in an epoch, so that rare classes or groups weigh as much.

Only observed labels enter, for the true ones are not known before training.
"""

import numpy as np

from trustq.core.digest import digest_json
from trustq.data.manifest import Manifest
from trustq.data.row_weights import class_balanced, domain_balanced
from trustq.errors import NotFound
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
            raise NotFound(
                f"{key}={column}: the manifest has no such column; it has "
                f"{', '.join(manifest.columns)}.",
                expected=manifest.columns,
            )


def _texts(column: np.ndarray) -> np.ndarray:
    """A column as text, (m,), with "" for what is blank."""
    if isinstance(column, np.ma.MaskedArray):
        return np.where(np.ma.getmaskarray(column), "", column.data.astype(str))
    if column.dtype.kind == "f":
        return np.where(np.isnan(column), "", column.astype(str))
    return np.array(["" if value is None else str(value) for value in column.tolist()])
