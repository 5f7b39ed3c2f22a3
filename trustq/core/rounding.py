"""Numbers that the last digit of a sum does not move."""

import numpy as np


def steady(values: np.ndarray) -> np.ndarray:
    """Numbers of float64 as float32 holds them, 7 digits: equal input gives equal bytes.

    Sums of float64 may differ in their last digit from run to run, as threads and memory fall; of
    a million numbers that differ so, less than one is rounded to another.

    >>> bool((steady(np.array([0.1 + 0.2])) == steady(np.array([0.3]))).all())
    True
    """
    return np.asarray(values, dtype=np.float32).astype(np.float64)
