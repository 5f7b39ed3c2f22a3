"""What columns are called: usual names, found in any case."""

from collections.abc import Collection, Iterable, Sequence

# What a column of ids may be called, the first that is there.
ID_COLUMNS = ("sample_ids", "sample_id", "image_id", "image", "isic_id", "id")


def called(columns: Collection[str], name: str) -> str | None:
    """The column of that name, else the only one of it without case and outer blanks; or None.

    >>> called([" DX", "Age"], "dx"), called(["DX", "dx "], "Dx")
    (' DX', None)
    """
    if name in columns:
        return name
    alike = alike_names(columns, name)
    return alike[0] if len(alike) == 1 else None


def alike_names(columns: Iterable[str], name: str) -> list[str]:
    """The columns that a name may mean without case and outer blanks.

    >>> alike_names(["Label", "dx", "LABEL "], "label")
    ['Label', 'LABEL ']
    """
    return [there for there in columns if there.strip().casefold() == name.casefold()]


def first_called(columns: Collection[str], names: Sequence[str]) -> str | None:
    """The first of several usual names of one column that is there, see `called`; None for none.

    What is spelt as a usual name goes before what differs from one in case.

    >>> first_called(["ID", "image"], ["id", "image"]), first_called(["ID"], ["id", "image"])
    ('image', 'ID')
    """
    exact = next((name for name in names if name in columns), None)
    found = (called(columns, name) for name in names)
    return exact or next((name for name in found if name is not None), None)


def begins(name: str, prefix: str) -> bool:
    """Whether a name begins with a prefix in any case.

    >>> begins("PROB_nv", "prob_"), begins("problem", "prob_")
    (True, False)
    """
    return name[: len(prefix)].casefold() == prefix.casefold()
