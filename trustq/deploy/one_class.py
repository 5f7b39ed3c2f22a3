"""Whether a network gives one answer to everything, which accuracy may hide."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trustq.core.counts import counted

BLIND = 0.95  # of the rows of all other classes; a network that has learned calls far fewer so


def one_class(
    predicted: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> dict[str, Any] | None:
    """The class that nearly every row is given, whatever its label; None where there is none.

    `predicted` and `labels` are (n,) of class indices. It goes by rows of the other classes: where
    nine in ten labels are of one class, a good network gives that answer to nearly all rows too.

    >>> found = one_class(np.array([0, 0, 0]), np.array([0, 1, 1]), ["nv", "mel"])
    >>> found["class"], found["n_given"], found["n_others"]
    ('nv', 3, 2)
    >>> one_class(np.array([0, 0, 1]), np.array([0, 1, 1]), ["nv", "mel"]) is None
    True
    """
    if not len(predicted):
        return None
    most = int(np.bincount(predicted, minlength=len(classes)).argmax())
    of_others = labels != most
    n_others = int(of_others.sum())
    n_blind = int((predicted[of_others] == most).sum())
    if not n_others or n_blind < BLIND * n_others:
        return None
    return {
        "class": classes[most],
        "n": len(predicted),
        "n_given": int((predicted == most).sum()),
        "n_others": n_others,
        "n_others_given": n_blind,
    }


def warning_of(found: dict[str, Any] | None) -> str:
    """What `one_class` found as a warning for people; blank for None."""
    if found is None:
        return ""
    return (
        f"The network answers {found['class']} to {found['n_given']:,} of "
        f"{counted(found['n'], 'test row')}, and to {found['n_others_given']:,} of the "
        f"{found['n_others']:,} whose label is another: its likeliest class says nothing of an "
        f"image, and its accuracy is the share of {found['class']}. Train it longer or with other "
        "settings before anyone uses it"
    )
