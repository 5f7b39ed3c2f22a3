"""Tables of text that fit a terminal: which columns stand beside each other."""

from collections.abc import Sequence


def column_blocks(widths: Sequence[int], repeated: int, width: int) -> list[list[int]] | None:
    """Columns of each block of a table that fits; None where a column does not fit in any.

    Columns are two blanks apart. The first `repeated` ones say what a row is and stand in every
    block.

    >>> column_blocks([4, 3, 3, 3], 1, 14), column_blocks([4, 9], 1, 10)
    ([[0, 1, 2], [0, 3]], None)
    """
    every = list(range(len(widths)))
    if sum(widths) + 2 * (len(widths) - 1) <= width:
        return [every]
    room = width - sum(widths[j] + 2 for j in every[:repeated])
    blocks: list[list[int]] = []
    left = 0
    for j in every[repeated:]:
        if widths[j] > room:
            return None
        if not blocks or widths[j] > left:
            blocks.append(every[:repeated])
            left = room
        blocks[-1].append(j)
        left -= widths[j] + 2
    return blocks or None
