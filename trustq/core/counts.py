"""Counts in prose."""


def counted(n: int, what: str) -> str:
    """A number of things, in the singular of one.

    >>> counted(1, "backbone"), counted(1200, "row"), counted(2, "class")
    ('1 backbone', '1,200 rows', '2 classes')
    """
    return f"{n:,} {what}" + ("" if n == 1 else "es" if what.endswith("s") else "s")


def duration(seconds: float) -> str:
    """A time that something takes, to about two digits.

    >>> duration(42), duration(400), duration(9000)
    ('42 s', '7 minutes', '2.5 hours')
    """
    if seconds < 300:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def verb(n: int, of_one: str, of_more: str) -> str:
    """The form of a verb that goes with a number of things.

    >>> [f"{counted(n, 'id')} {verb(n, 'differs', 'differ')}" for n in (1, 2)]
    ['1 id differs', '2 ids differ']
    """
    return of_one if n == 1 else of_more
