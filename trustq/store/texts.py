"""Columns of text of a cache as whole arrays: a Python string for each took half of a read."""

import numpy as np


def decoded_texts(array: np.ndarray) -> np.ndarray:
    """Fixed-length UTF-8 as text; other arrays as they are.

    >>> decoded_texts(np.array([b"a", "é".encode()])).tolist()
    ['a', 'é']
    """
    width = array.dtype.itemsize
    if array.dtype.kind != "S" or not array.size:
        return array.astype("U") if array.dtype.kind == "S" else array
    codes = np.ascontiguousarray(array).view(np.uint8)
    if codes.max() < 128:  # plain ASCII: a byte a character
        return codes.astype(np.uint32).view(f"U{width}").reshape(array.shape)
    return np.char.decode(array, "utf-8")


def any_repeat(texts: np.ndarray) -> bool:
    """Whether two of a column of texts, (n,), are equal.

    >>> any_repeat(np.array(["a", "b", "a"])), any_repeat(np.array(["a", "ab"]))
    (True, False)
    """
    if texts.dtype.kind != "U" or not texts.size:
        return len(set(texts.tolist())) < len(texts)
    characters = np.ascontiguousarray(texts).view(np.uint32).reshape(len(texts), -1)
    kind = np.uint8 if characters.max() < 256 else np.uint32
    words = np.zeros((len(texts), -(-characters.shape[1] * kind().itemsize // 8)), np.uint64)
    words.view(kind)[:, : characters.shape[1]] = characters
    mixed = words[:, 0].copy()
    for column in words.T[1:]:
        mixed ^= mixed >> np.uint64(29)
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + column
    mixed.sort()
    # Texts that differ hardly ever mix to one number; where some do, texts are compared.
    return bool((mixed[1:] == mixed[:-1]).any()) and len(set(texts.tolist())) < len(texts)
