"""Groups of rows that must stay together: a lesion, a patient, or the row itself."""

import numpy as np

from trustq.core.words import is_no_group


def own_where_blank(groups: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Groups, (n,), a row without one being a group of its own, named by its id.

    A word for a blank (NA, unknown, null) is never a group.

    >>> own_where_blank(np.array(["g", None, "NA"], object), np.array(["a", "b", "c"], object))
    array(['g', 'b', 'c'], dtype=object)
    """
    own = [i if is_no_group(g) else g for g, i in zip(groups.tolist(), ids.tolist(), strict=True)]
    return np.array([*own, None], dtype=object)[:-1]
