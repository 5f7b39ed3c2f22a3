"""Skin tone as three groups of Fitzpatrick types, which every annotated data set can give."""

import numpy as np

from trustq.datasets.rows import named_rows
from trustq.errors import InputError

GROUPS = ("I-II", "III-IV", "V-VI")
DDI = {"12": "I-II", "34": "III-IV", "56": "V-VI"}  # DDI gives the groups themselves


def group_of_type(fitzpatrick: np.ndarray, *, ids: np.ndarray, source: str) -> np.ndarray:
    """Group of each Fitzpatrick type, (n,); a masked type has none.

    Raises `TrustqError` that names the rows with another number than 1 to 6.

    >>> types = np.ma.array([1.0, 6.0, 0.0], mask=[False, False, True])
    >>> group_of_type(types, ids=np.array(["a", "b", "c"]), source="t.csv").tolist()
    ['I-II', 'V-VI', None]
    """
    types = np.ma.asarray(fitzpatrick)
    bad = [
        row
        for row, value in enumerate(types.tolist())
        if value is not None and value not in (1, 2, 3, 4, 5, 6)
    ]
    if bad:
        raise InputError(
            f"{source}: the Fitzpatrick type is {types[bad[0]]:g} in "
            f"{named_rows(bad, ids.tolist())}; expected 1 to 6, or a blank.",
            path=source,
        )
    groups = [None if value is None else GROUPS[(int(value) - 1) // 2] for value in types.tolist()]
    return np.array([*groups, None], dtype=object)[:-1]
