"""Seeds over the processes of a launcher: each takes its share, on a GPU of its own."""

from collections.abc import Mapping, Sequence

from trustq.errors import InputError


def own_share(seeds: Sequence[int], environment: Mapping[str, str]) -> tuple[list[int], int | None]:
    """The seeds of this process among those that `torchrun` started, and the number of its GPU.

    `torchrun` tells each process its number in `RANK`, their count in `WORLD_SIZE` and its number
    on this machine in `LOCAL_RANK`. Without it all seeds are this process's, on no GPU in
    particular. A process beyond the number of seeds gets none.

    >>> own_share([42, 52, 62], {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"})
    ([52], 1)
    >>> own_share([42, 52], {})
    ([42, 52], None)
    """
    seeds = list(dict.fromkeys(seeds))
    if "WORLD_SIZE" not in environment or "RANK" not in environment:
        return seeds, None
    try:
        rank, n_processes = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local = int(environment.get("LOCAL_RANK", rank))
    except ValueError as error:
        raise InputError(
            f"RANK, WORLD_SIZE and LOCAL_RANK come from a launcher and are whole numbers: {error}."
        ) from error
    return seeds[rank::n_processes], local
