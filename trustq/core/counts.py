"""Counts in prose."""


def counted(n: int, what: str) -> str:
    """A number of things, in the singular of one.

    >>> counted(1, "backbone"), counted(1200, "row"), counted(2, "class")
    ('1 backbone', '1,200 rows', '2 classes')
    """
    return f"{n:,} {what}" + ("" if n == 1 else "es" if what.endswith("s") else "s")


def verb(n: int, of_one: str, of_more: str) -> str:
    """The form of a verb that goes with a number of things.

    >>> [f"{counted(n, 'id')} {verb(n, 'differs', 'differ')}" for n in (1, 2)]
    ['1 id differs', '2 ids differ']
    """
    return of_one if n == 1 else of_more
