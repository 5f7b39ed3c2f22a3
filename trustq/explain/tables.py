"""Stability of maps and trust cells as rows of a results folder, for SQL."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.digest import digest_json
from trustq.explain.summaries import FIGURES, TrustReport, every_variants, of_rows, split_rows
from trustq.explain.variants import Variants
from trustq.metrics.probabilities import softmax
from trustq.results import new_part, table_columns, write_part
from trustq.results.query import has_key
from trustq.store import Cache


def record_stability(
    caches: Sequence[Cache],
    results: Path,
    *,
    method: str = "auto",
    explain: str = "predicted",
    split: str = "test",
) -> bool:
    """Write each row's figures over passes, views and other networks to `stability`.

    Every cache is measured against its own clean maps. Returns whether rows were written, which
    they are not where this very measurement is there. Raises `TrustqError` where a cache holds
    nothing to compare.
    """
    digests = [cache.content_digest for cache in caches]
    key = digest_json(["stability", digests, method, explain, split])
    if has_key(results, "stability", key):
        return False
    rows: list[dict[str, Any]] = []
    for cache in caches:
        others = [other for other in caches if other is not cache]
        found = every_variants([cache, *others], method=method, explain=explain)[0]
        own = {"explain_key": key, "explained": explain, "split": split} | _of_cache(cache)
        taken = split_rows(cache, split)
        for one in found:
            rows += [own | row for row in _of_variants(cache, one, taken)]
    write_part(results, {"stability": table_columns("stability", rows)}, part=new_part("explain"))
    return True


def record_cells(caches: Sequence[Cache], found: TrustReport, results: Path) -> bool:
    """Write the eight cells of each network to `trust_cells`, and the answer over all of them.

    Returns whether rows were written, which they are not where they are there.
    """
    made_of = [cache.content_digest for cache in caches]
    record = found.record
    networks = record["networks"]
    asked = [[one["over"], one["cuts"]] for one in networks]
    key = digest_json(["trust cells", made_of, record["split"], asked, record["added"]])
    if has_key(results, "trust_cells", key):
        return False
    common = {"explain_key": key, "dataset": record["dataset"], "split": record["split"]}
    common["made_of"] = ",".join(made_of)
    cells = [
        common
        | {"cache": str(cache.path or ""), "backbone_seed": one["seed"], "over": one["over"]}
        | {f"{name}_cut": one["cuts"][name] for name in ("confidence", "stability")}
        | cell
        for cache, one in zip(caches, networks, strict=True)
        for cell in one["cells"]
    ]
    added = found.added
    p = {} if added.sign_flip is None else added.sign_flip._asdict()
    answer = common | {
        "n_networks": len(caches),
        "n_groups": added.n_groups,
        "coverage": added.coverage,
        "risk_stable": added.risk_stable,
        "risk_matched": added.risk_matched,
        "difference": added.difference,
        "lower": added.interval.lower,
        "upper": added.interval.upper,
        "p": p.get("p_value"),
        "p_floor": p.get("floor"),
        "answer": found.verdict,
    }
    tables = {"trust_cells": cells, "trust_cell_answers": [answer]}
    written = {name: table_columns(name, rows) for name, rows in tables.items()}
    write_part(results, written, part=new_part("explain"))
    return True


def _of_cache(cache: Cache) -> dict[str, Any]:
    return {
        "dataset": cache.dataset,
        "cache": str(cache.path or ""),
        "cache_digest": cache.content_digest,
        "cache_recipe": str(cache.recipe.get("name", "")),
        "backbone": cache.backbone,
        "backbone_seed": cache.backbone_seed,
    }


def _of_variants(cache: Cache, one: Variants, taken: np.ndarray) -> list[dict[str, Any]]:
    """A row for each of the taken rows of a cache."""
    figures = of_rows(one, taken)
    names = np.array([*cache.classes, None], dtype=object)
    predicted: list[Any] = [None] * len(taken)
    confidence: list[Any] = [None] * len(taken)
    if cache.logits is not None:
        probs = softmax(cache.logits[taken])
        predicted = names[probs.argmax(axis=1)].tolist()
        confidence = probs.max(axis=1).tolist()
    columns = {
        "sample_id": cache.sample_id[taken].tolist(),
        "group_id": cache.group_id[taken].tolist(),
        "label": names[cache.label[taken]].tolist(),
        "predicted": predicted,
        "confidence": confidence,
        **{name: figures[name].tolist() for name in FIGURES},
    }
    shared = {"method": one.method, "kind": one.kind, "over": one.name, "n_maps": len(one.others)}
    return [
        shared | dict(zip(columns, values, strict=True))
        for values in zip(*columns.values(), strict=True)
    ]
