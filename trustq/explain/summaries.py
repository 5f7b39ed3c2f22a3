"""What the explanation commands answer with, from caches: stability, trust cells, audit inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trustq.calibration.temperature import TemperatureScaling
from trustq.core.sample_ids import find_rows
from trustq.core.words import is_blank, plain_text
from trustq.data.image_files import find_images
from trustq.errors import InputError, TrustqError
from trustq.explain.failure_audit import AuditInput
from trustq.explain.stability import Stability, stability
from trustq.explain.trust_cells import (
    AddedValue,
    Cuts,
    TrustRows,
    added_value,
    choose_cuts,
    require_both,
    trust_cells,
    verdict,
)
from trustq.explain.variants import (
    KINDS,
    RowMaps,
    Variants,
    pass_variants,
    require_same_rows,
    row_maps,
    seed_variants,
    view_variants,
)
from trustq.metrics.per_class import class_positions
from trustq.metrics.selective import log_odds_confidence
from trustq.store import Cache

BY_CONDITION = "by condition, first network: stable against the clean map"
FIGURES = ("overlap", "rank_correlation", "shift", "max_sensitivity")


@dataclass(frozen=True)
class StabilityTable:
    """Mean figures of each kind of variants, and the figures of every row."""

    method: str
    rows: np.ndarray  # positions in the first cache
    sample_ids: np.ndarray
    means: list[dict[str, Any]]
    per_row: list[dict[str, np.ndarray]]
    over: list[str]
    notes: list[str]


def stability_table(
    caches: Sequence[Cache], *, method: str = "auto", explain: str = "predicted", split: str
) -> StabilityTable:
    """Stability over everything that the caches hold: passes, each view, seeds.

    Raises `TrustqError` where they hold nothing to compare, and no rows of the split.
    """
    rows = split_rows(caches[0], split)
    found, notes = every_variants(caches, method=method, explain=explain)
    means, per_row, over = [], [], []
    for one in found:
        figures = of_rows(one, rows)
        row: dict[str, Any] = {"over": one.name, "maps": len(one.others)}
        for name in FIGURES:
            known = figures[name][~np.isnan(figures[name])]
            row[name] = float(known.mean()) if len(known) else None
        means.append(row)
        per_row.append(figures)
        over.append(one.name)
    return StabilityTable(
        found[0].method, rows, caches[0].sample_id[rows], means, per_row, over, notes
    )


def stability_rows(found: StabilityTable) -> list[dict[str, Any]]:
    """One dict for each row and kind of variants, for a table."""
    return [
        {"sample_id": str(sample_id), "over": over}
        | {name: _or_none(figures[name][place]) for name in FIGURES}
        for over, figures in zip(found.over, found.per_row, strict=True)
        for place, sample_id in enumerate(found.sample_ids.tolist())
    ]


def of_rows(variants: Variants, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The four figures of some rows, means over the variants."""
    found: Stability = stability(variants.reference[rows], variants.others[:, rows])
    return found.of_rows


def every_variants(
    caches: Sequence[Cache], *, method: str = "auto", explain: str = "predicted"
) -> tuple[list[Variants], list[str]]:
    """All variants that caches of the same rows hold, and notes on what was left out.

    Raises `TrustqError` where there are none.
    """
    clean = row_maps(caches[0], method=method, explain=explain)
    found, notes = [], []
    problem: InputError | None = None
    try:
        found += pass_variants(caches[0], clean)
    except InputError as error:
        problem = error
    views, left_out = view_variants(caches[0], clean)
    found += views
    notes += [f"View {text}" for text in left_out]
    if len(caches) > 1:
        found.append(seed_variants(caches, clean))
    if not found:
        raise problem or InputError(
            f"{caches[0].name} holds one map of each row and nothing to compare it with. Add "
            "passes that move maps, views or caches of other seeds: `trustq extract`, "
            "`with=CACHE`, `passes=20`, `pass_drop=path:0.1`, `views=flips`, `maps` and "
            "`name=NAME`."
        )
    if problem is not None:
        notes.append(str(problem).partition(". ")[0])
    return found, notes


def variants_over(
    caches: Sequence[Cache], clean: RowMaps, over: str, *, among: Sequence[Cache] = ()
) -> tuple[str, np.ndarray, np.ndarray]:
    """One kind of variants of a cache as one stack: its name, the reference and (t, n, h, w).

    `over` is passes, views or seeds; auto takes the first that there is. `among` are the caches of
    other seeds. Raises `TrustqError` where there is no such kind.
    """
    cache = caches[0]
    if over not in ("auto", *KINDS):
        raise InputError(f"`over={over}`: expected auto, {', '.join(KINDS)}.", where="over")
    for kind in KINDS if over == "auto" else (over,):
        found: list[Variants] = []
        if kind == "passes":
            try:
                found = pass_variants(cache, clean)
            except InputError:
                if over == kind:
                    raise
        elif kind == "views":
            found = view_variants(cache, clean)[0]
        elif among:
            found = [seed_variants([cache, *among], clean)]
        if found:
            names = ", ".join(one.name for one in found)
            name = names if kind != "views" else f"views {names}"
            return name, clean.maps, np.concatenate([one.others for one in found])
    raise InputError(
        f"{cache.name} holds no {'variants' if over == 'auto' else over} with maps to compare. Add "
        "them with `trustq extract`, `with=CACHE`, `passes=20`, `pass_drop=path:0.1`, "
        "`views=flips`, `maps` and `name=NAME`."
    )


@dataclass(frozen=True)
class TrustReport:
    """Tables for people, the paired answer, and all of it as a record."""

    tables: dict[str, list[dict[str, Any]]]
    added: AddedValue
    verdict: str
    record: dict[str, Any]
    notes: list[str]


def trust_report(
    caches: Sequence[Cache],
    *,
    over: str = "auto",
    method: str = "auto",
    split: str = "test",
    columns: Mapping[str, Any] | None = None,
    confidence_cut: float | None = None,
    stability_cut: float | None = None,
    seed: int = 0,
) -> TrustReport:
    """Trust cells of each network and the paired answer over all of them.

    `columns` names a table (`path`) and columns of it (`names`) to tabulate cells by. Raises
    `TrustqError` for caches of other rows, without validation or test rows, or without maps.
    """
    first = caches[0]
    for cache in caches[1:]:
        require_same_rows(first, cache)
    test = split_rows(first, split)
    networks, cuts, notes = [], [], []
    tables: dict[str, list[dict[str, Any]]] = {}
    record: dict[str, Any] = {"dataset": first.dataset, "split": split, "networks": []}
    for cache in caches:
        others = [one for one in caches if one is not cache]
        rows, cut, name = _trust_rows(
            cache, others, over, method, confidence_cut=confidence_cut, stability_cut=stability_cut
        )
        networks.append(_taken(rows, test))
        cuts.append(cut)
        title = f"seed {cache.backbone_seed}: stability over {name}; cuts on {cut.n:,} rows of val"
        cells = cell_rows(networks[-1], cut)
        tables[title] = cells
        blank = int(np.isnan(networks[-1].stability).sum())
        if blank:
            notes.append(f"seed {cache.backbone_seed}: {blank:,} rows have a blank map: not stable")
        record["networks"].append(
            {"seed": cache.backbone_seed, "over": name, "cuts": dict(vars(cut)), "cells": cells}
        )
    labels = np.array(first.classes, dtype=object)[first.label[test]]
    tables["by class, first network"] = _by(networks[0], cuts[0], labels)
    by_condition, left_out = condition_cells(first, method=method, split=split)
    notes += left_out
    if by_condition:
        tables[BY_CONDITION] = by_condition
    for name, values in _read_columns(columns, first).items():
        tables[f"by {name}, first network"] = _by(networks[0], cuts[0], values[test])
    found = added_value(networks, cuts, seed=seed)
    said = verdict(found)
    record |= {"added": _plain_added(found), "answer": said, "tables": tables}
    return TrustReport(tables, found, said, record, notes)


def condition_cells(
    cache: Cache, *, method: str = "auto", split: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """Cells of each view with maps, right and confident as the view shows the rows; and notes.

    Stable is a map that overlaps with the clean one. Confidence has the temperature and the cut of
    clean validation rows, as in use; stability the cut of the view's own validation rows, for
    conditions move maps by more or less. A view without such a cut is noted and left out.
    """
    clean = row_maps(cache, method=method)
    views = view_variants(cache, clean)[0]
    if not views or cache.logits is None:
        return [], []
    validation, test = split_rows(cache, "val"), split_rows(cache, split)
    scaler = _scaler(cache, validation)
    right = cache.logits.argmax(axis=1) == cache.label
    confidence = log_odds_confidence(scaler.transform(cache.logits))
    found, notes = [], []
    for one in views:
        seen = cache.view(one.name).logits
        assert seen is not None
        rows = TrustRows(
            correct=seen.argmax(axis=1) == cache.label,
            confidence=log_odds_confidence(scaler.transform(seen)),
            stability=of_rows(one, np.arange(len(cache)))["overlap"],
            groups=cache.group_id,
        )
        own = _taken(rows, validation)
        on_clean = TrustRows(right[validation], confidence[validation], own.stability, own.groups)
        try:
            confident, stable = choose_cuts(on_clean).confidence, choose_cuts(own).stability
        except InputError as error:
            notes.append(f"Condition {one.name}: {str(error).partition('. ')[0]}")
            continue
        cuts = Cuts(confident, stable, len(validation))
        found += _by(_taken(rows, test), cuts, np.full(len(test), one.name, dtype=object))
    return found, notes


def _scaler(cache: Cache, validation: np.ndarray) -> TemperatureScaling:
    assert cache.logits is not None
    labels = cache.label[validation].astype(np.int64)
    return TemperatureScaling().fit(cache.logits[validation], labels)


def cell_rows(rows: TrustRows, cuts: Cuts) -> list[dict[str, Any]]:
    """The eight cells as dicts."""
    return [
        {
            "correct": cell.correct,
            "confident": cell.confident,
            "stable": cell.stable,
            "n": cell.n,
            "share": cell.share,
            "lower": cell.interval.lower,
            "upper": cell.interval.upper,
        }
        for cell in trust_cells(rows, cuts)
    ]


def failure_input(
    caches: Sequence[Cache],
    *,
    manifest: Path | None = None,
    root: Path | None = None,
    training: Path | None = None,
    audit: Path | None = None,
    columns: Sequence[str] = (),
    positive: Sequence[str] = (),
    over: str = "auto",
    method: str = "auto",
) -> tuple[AuditInput, dict[str, Path] | None]:
    """What a failure audit reads beside caches, and the image files by sample id.

    Raises `TrustqError` for a manifest or audit of other rows, an unknown column or class.
    """
    from trustq.store import read_cache

    first = caches[0]
    ids = [str(value) for value in first.sample_id.tolist()]
    images = None
    if manifest is not None or root is not None:
        images = find_images(ids, manifest=manifest, root=root)
    metadata: dict[str, np.ndarray] = {}
    if columns:
        metadata = _read_columns({"path": manifest, "names": columns}, first)
    moved, stability_of = None, ""
    if over != "none":
        clean = row_maps(first, method=method)
        try:
            stability_of, reference, others = variants_over(caches, clean, over, among=caches[1:])
        except InputError:
            if over != "auto":
                raise
        else:
            moved = stability(reference, others).of_rows["overlap"]
    given = AuditInput(
        measures=None if images is None else _measuring(ids, images),
        stability=moved,
        stability_of=stability_of,
        listed=None if audit is None else _listed_rows(audit, first),
        training=None if training is None else read_cache(training),
        metadata=metadata,
        positive=class_positions(first.classes, positive) if positive else (),
    )
    return given, images


def split_rows(cache: Cache, split: str) -> np.ndarray:
    """Positions of the labelled rows of a split; raises `TrustqError` where there are none."""
    rows = np.flatnonzero((cache.split == split) & (cache.label >= 0))
    if not len(rows):
        has = ", ".join(sorted(set(cache.split.tolist())))
        raise InputError(
            f"{cache.name} has no labelled rows of split {split!r}; it has {has}. Extract maps of "
            f"those rows too with `trustq extract` and `only=val,{split}`, or choose another split."
        )
    return rows


def _trust_rows(
    cache: Cache,
    others: Sequence[Cache],
    over: str,
    method: str,
    *,
    confidence_cut: float | None,
    stability_cut: float | None,
) -> tuple[TrustRows, Cuts, str]:
    clean = row_maps(cache, method=method)
    name, reference, moved = variants_over([cache], clean, over, among=others)
    overlap = stability(reference, moved).of_rows["overlap"]
    assert cache.logits is not None
    validation = split_rows(cache, "val")
    correct = cache.logits.argmax(axis=1) == cache.label
    stated = confidence_cut is not None and stability_cut is not None
    if not stated:
        require_both(correct[validation])
    logits = _scaler(cache, validation).transform(cache.logits)
    rows = TrustRows(
        correct=correct,
        confidence=log_odds_confidence(logits),
        stability=overlap,
        groups=cache.group_id,
    )
    cut = Cuts(0.0, 0.0, 0) if stated else choose_cuts(_taken(rows, validation))
    if confidence_cut is not None:
        if not 0 < confidence_cut < 1:
            raise InputError(
                f"confidence_cut is {confidence_cut:g}, expected a probability between 0 and 1."
            )
        cut = Cuts(float(np.log(confidence_cut / (1 - confidence_cut))), cut.stability, cut.n)
    if stability_cut is not None:
        cut = Cuts(cut.confidence, stability_cut, cut.n)
    return rows, cut, name


def _taken(rows: TrustRows, places: np.ndarray) -> TrustRows:
    return TrustRows(
        rows.correct[places], rows.confidence[places], rows.stability[places], rows.groups[places]
    )


def _by(rows: TrustRows, cuts: Cuts, values: np.ndarray) -> list[dict[str, Any]]:
    """Cells of each value of a column: rows, accuracy, and shares of what can and cannot be met."""
    table = []
    for value in sorted(set(values.tolist())):
        own = _taken(rows, np.flatnonzero(values == value))
        cells = {(c.correct, c.confident, c.stable): c for c in trust_cells(own, cuts)}
        silent = cells[False, True, True]
        table.append(
            {
                "value": value,
                "n": len(own.correct),
                "right_confident_stable": cells[True, True, True].n,
                "right_confident_unstable": cells[True, True, False].n,
                "right_uncertain": cells[True, False, True].n + cells[True, False, False].n,
                "wrong_confident_stable": silent.n,
                "wrong_confident_unstable": cells[False, True, False].n,
                "wrong_uncertain": cells[False, False, True].n + cells[False, False, False].n,
                "share_wrong_confident_stable": silent.share,
                "lower": silent.interval.lower,
                "upper": silent.interval.upper,
            }
        )
    return table


def _plain_added(found: AddedValue) -> dict[str, Any]:
    values = dict(vars(found))
    values["interval"] = list(found.interval)
    values["sign_flip"] = None if found.sign_flip is None else found.sign_flip._asdict()
    return values | {"adds": found.adds}


def _read_columns(columns: Mapping[str, Any] | None, cache: Cache) -> dict[str, np.ndarray]:
    if columns is None or not columns["names"]:
        return {}
    if columns["path"] is None:
        raise InputError(
            f"The columns {', '.join(columns['names'])} are of a table: name it, e.g. "
            "`manifest=FILE`."
        )
    found, places = find_rows(columns["path"], cache.sample_id)
    read = {}
    for name in columns["names"]:
        if name not in found:
            raise InputError(
                f"{columns['path']} has no column {name!r}; it has {', '.join(found)}.",
                found=name,
                expected=found,
            )
        own = found[name]
        values = [
            "unknown" if place is None or is_blank(own[place]) else plain_text(own[place])
            for place in places
        ]
        read[name] = np.array([*values, None], dtype=object)[:-1]
    return read


def _measuring(ids: Sequence[str], images: Mapping[str, Path]) -> Any:
    """Measures of images of some positions, NaN for one that is not there or cannot be read."""

    def of(positions: np.ndarray) -> dict[str, np.ndarray]:
        from concurrent.futures import ThreadPoolExecutor

        names = ("edge_strength", "mean_grey", "contrast")
        # Threads, for Pillow decodes without the interpreter's lock.
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda row: _measured(images.get(ids[row])), positions.tolist()))
        return {name: np.array([one.get(name, np.nan) for one in found]) for name in names}

    return of


def _measured(path: Path | None) -> dict[str, float]:
    from trustq.data.image_measures import image_measures
    from trustq.data.pillow_rgb import read_rgb

    if path is None:
        return {}
    try:
        return image_measures(np.asarray(read_rgb(path)))
    except TrustqError:
        return {}


def _listed_rows(folder: Path, cache: Cache) -> np.ndarray:
    from trustq.audit.folder import read_audit_folder

    found = read_audit_folder(folder)
    audited = set(found.sample_ids.astype(str).tolist())
    if not audited & set(cache.sample_id.astype(str).tolist()):
        raise InputError(
            f"The audit in {folder} has none of the rows of {cache.name}. Audit the labels of "
            "these rows with `trustq audit labels`."
        )
    listed = set(found.sample_ids[found.listed].astype(str).tolist())
    return np.isin(cache.sample_id.astype(str), sorted(listed))


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
