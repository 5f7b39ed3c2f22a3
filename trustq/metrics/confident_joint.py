"""The confident joint (Northcutt et al. 2021): rows counted by given and confidently true class.

The arithmetic is cleanlab's, number for number, without its imports and its processes.
"""

import numpy as np

COMPARISON = 1e-6  # cleanlab's tolerance when it compares probabilities
ABSENT = 2.0  # threshold of a class that no row is given: no probability reaches it


def confident_joint(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Counts of rows by given and confidently true class, (k, k), rows summing to those given.

    A row is confidently of a class when its probability reaches the class's threshold; of several
    such classes the most probable counts. Row = given class, column = true class.

    >>> probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.1, 0.9], [0.9, 0.1]])
    >>> confident_joint(np.array([0, 0, 1, 1, 1]), probs)
    array([[2, 0],
           [1, 2]])
    """
    guess, confident = confident_class(labels, probs)
    k = probs.shape[1]
    # (true, given) turned, as cleanlab has it: a sum in the other order differs in its last bit,
    # which halves in `whole_rows` hang on.
    pairs = np.bincount(guess[confident] * k + labels[confident], minlength=k * k).reshape(k, k).T
    np.fill_diagonal(pairs, np.maximum(pairs.diagonal(), 1))
    given = np.bincount(labels, minlength=k)
    calibrated = (pairs.T / pairs.sum(axis=1) * given).T
    calibrated = calibrated / max(calibrated.sum(), 1e-100) * given.sum()
    return whole_rows(calibrated)


def class_thresholds(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Mean probability of each class over the rows that are given it, (k,); 2 where none is.

    `labels` is (n,) of class indices, `probs` (n, k).

    >>> class_thresholds(np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]))
    array([0.7, 0.8])
    """
    thresholds = [
        probs[labels == c, c].mean() if (labels == c).any() else ABSENT
        for c in range(probs.shape[1])
    ]
    return np.maximum(thresholds, 2 * COMPARISON)


def confident_class(labels: np.ndarray, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The class each row is confidently of, (n,), and whether there is one, (n,) of bool.

    >>> confident_class(np.array([0, 1]), np.array([[0.9, 0.1], [0.6, 0.4]]))
    (array([0, 1]), array([ True,  True]))
    """
    reached = probs >= class_thresholds(labels, probs) - COMPARISON
    n_reached = reached.sum(axis=1)
    return np.where(n_reached > 1, probs.argmax(axis=1), reached.argmax(axis=1)), n_reached > 0


def whole_rows(counts: np.ndarray) -> np.ndarray:
    """Whole numbers whose rows sum to the rounded sums: largest remainders first.

    >>> whole_rows(np.array([[1.4, 1.4, 1.2]])).tolist()
    [[1, 2, 1]]
    """
    whole = np.round(counts)
    for row, exact in zip(whole, np.asarray(counts, dtype=float), strict=True):
        missing = np.round(exact.sum()) - row.sum()
        while abs(missing) > COMPARISON:
            step = -1 if missing < 0 else 1
            row[np.argsort(exact - row)[::-step][: min(int(abs(missing)), len(row))]] += step
            missing = np.round(exact.sum()) - row.sum()
    return whole.astype(int)
