"""A backbone that was trained again on repaired labels, as the arm that repaired them."""

from typing import Any

from trustq.data.purchase_origin import Origin, training_digest
from trustq.store import Cache


def training_columns(cache: Cache) -> dict[str, Any]:
    """Columns of a cell about its network: how it learnt, and the cache whose labels it has."""
    return {"training": training_digest(cache.recipe), "origin_digest": cache.content_digest}


def as_arm(row: dict[str, Any], cache: Cache) -> tuple[dict[str, Any], str | None]:
    """A cell's row, with the purchase whose labels the backbone was trained on, and a note.

    Only where nothing more was bought from the stored labels, and where the network learnt as the
    one did whose labels were repaired: with other epochs, say, its figures differ by more than the
    arm, so the row stays as it is and the note says why.
    """
    found = cache.noise.get("origin")
    if found is None or row["score"] != "none" or not row["noise"].startswith("stored"):
        return row, None
    origin = Origin.of(found, where=cache.name)
    if origin.cell["training"] != row["training"]:
        return row, (
            f"{cache.name} was trained on labels that {origin.cell['arm']} bought, but with other "
            "settings than the network whose labels they were: it is no arm beside that one."
        )
    bought = {name: value for name, value in origin.cell.items() if name != "cache_digest"}
    # What either did dishonestly the row did.
    flags = {name: row[name] or bought[name] for name in ("leaky", "in_sample")}
    taken = bought | flags | {"origin_digest": origin.cell["cache_digest"]}
    return row | taken | {"refit": "backbone" if row["head"] == "backbone" else "both"}, None
