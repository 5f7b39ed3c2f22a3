"""Counts in prose."""


def counted(n: int, what: str) -> str:
    """A number of things, in the singular of one.

    >>> counted(1, "backbone"), counted(1200, "row"), counted(2, "class")
    ('1 backbone', '1,200 rows', '2 classes')
    """
    return f"{n:,} {what}" + ("" if n == 1 else "es" if what.endswith("s") else "s")
