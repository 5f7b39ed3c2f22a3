"""What a trust table judges, opened from files: caches of networks, or predictions."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.counts import counted
from trustq.core.sample_ids import id_keys, read_joinable
from trustq.core.words import n_others
from trustq.errors import InputError, NotFound
from trustq.evaluation.conditions import CLEAN
from trustq.evaluation.predictions import Predictions, read_predictions
from trustq.experiments.trust import (
    Judged,
    judged_caches,
    judged_predictions,
    positions_in,
)
from trustq.heads import text_file
from trustq.metrics.probabilities import softmax
from trustq.recipes import SweepRecipe
from trustq.repair.settings import require_sound
from trustq.store import Cache, find_caches, in_order_of, is_cache, open_cache
from trustq.store.concat import stand_side_by_side

BACKBONE = "backbone"
BUDGET = "5%"  # of an arm that is judged


def open_judged(
    files: Sequence[str],
    *,
    names: dict[str, str] | None = None,
    columns: Sequence[str] = (),
    meta: Sequence[Path] = (),
    conditions: Sequence[str] = ("all",),
    views: Sequence[str] = (),
    head: str | None = None,
    noise: str = "none",
    draws: int = 1,
    arm: str = "none",
    budget: str = BUDGET,
    concat: str = "none",
    calibrate_on: Path | None = None,
    normalize: str | None = None,
    allow_leak: bool = False,
) -> Judged:
    """Open caches or one file of predictions, with what is asked of heads on the former.

    Raises `TrustqError` for files of both kinds, several files of predictions, options of the one
    kind beside files of the other, and all that the readers refuse.
    """
    if arm == "none" and budget != BUDGET:
        raise InputError(
            f"`budget={budget}` is what an arm buys, and no arm is judged: name one, e.g. "
            "`arm=self_confidence`, or leave `budget` out."
        )
    paths = _paths(files)
    are_caches = [is_cache(path) for path in paths]
    if all(are_caches):
        if calibrate_on is not None or names or normalize is not None:
            raise InputError(
                "Caches say which rows are held out and what is what in them: leave out "
                "`calibrate_on`, `normalize` and the names of columns."
            )
        caches = [open_cache(path) for path in paths]
        companions = [open_cache(path) for path in find_caches(views)] if views else []
        first, *others = caches
        caches = [first, *(in_order_of(one, first.classes) for one in others)]
        companions = [in_order_of(one, first.classes) for one in companions]
        caches, companions = stand_side_by_side(caches, companions, how=concat)
        sweep = _sweep(caches, head, noise, draws, arm, budget)
        judged = judged_caches(
            caches,
            companions=companions,
            sweep=sweep,
            conditions=conditions,
            allow_leak=allow_leak,
        )
        return _joined(judged, columns, meta) if columns else judged
    if any(are_caches) or len(paths) > 1:
        raise InputError(
            f"{len(paths)} files, {sum(are_caches)} of them caches: give caches alone, or one file "
            "of predictions whose further arrays are the conditions."
        )
    of_heads = (noise, concat, arm) != ("none",) * 3 or draws != 1 or head not in (None, BACKBONE)
    if of_heads or views:
        raise InputError(
            f"{paths[0]} holds predictions, on which no head can be fitted: leave out `head`, "
            "`noise`, `draws`, `arm`, `concat` and `views`, or give a cache."
        )
    return _of_file(paths[0], names or {}, columns, meta, conditions, calibrate_on, normalize)


def head_predictions(
    path: Path,
    *,
    head: str,
    conditions: Sequence[str] = (),
    columns: Sequence[str] = (),
    meta: Sequence[Path] = (),
) -> Predictions:
    """Predictions of a head fitted on a cache's clean training labels, with its views.

    They are of the test rows, for `trustq.evaluation.evaluate`, and of the clean validation rows,
    which calibrate there; `columns` and views are of test rows. Raises `TrustqError` for a file
    that is no cache, and as `judged_caches` does.
    """
    if not is_cache(path):
        raise InputError(f"{path} is no cache, so there are no features to fit `head={head}` on.")
    cache = open_cache(path)
    judged = judged_caches(
        [cache], sweep=_sweep([cache], head, "none", 1, "none", BUDGET), conditions=conditions
    )
    if columns:
        judged = _joined(judged, columns, meta)
    tested = judged.members[0].logits
    logits, labels, ids = tested[CLEAN], judged.labels, judged.sample_ids
    if judged.held_out:
        assert judged.validation_labels is not None and judged.validation_ids is not None
        logits = np.concatenate([logits, judged.held_out[0].logits[CLEAN]])
        labels = np.concatenate([labels, judged.validation_labels])
        ids = np.concatenate([ids, judged.validation_ids])
    n = len(judged.labels)

    def padded(values: np.ndarray, nothing: Any) -> np.ndarray:
        """Values of test rows, with nothing for validation rows."""
        none = np.full((len(ids) - n, *values.shape[1:]), nothing, dtype=values.dtype)
        return np.concatenate([values, none])

    return Predictions(
        source=Path(path).name,
        classes=judged.classes,
        labels=labels,
        logits=logits,
        probs=None,
        sample_ids=ids,
        has_ids=True,
        groups=cache.group_id[positions_in(cache, ids)],
        split=np.repeat(["test", "val"], [n, len(ids) - n]),
        columns={name: padded(own.astype(object), None) for name, own in judged.columns.items()},
        conditions={
            name: padded(softmax(own), np.nan) for name, own in tested.items() if name != CLEAN
        },
        notes=(*judged.notes, _about(head)),
    )


def _about(head: str) -> str:
    texts = text_file(head)
    if texts is not None:
        return f"a zero-shot head of {texts.name}, which learns from no label"
    return f"a {head} head, fitted on clean training labels"


def parse_folds(text: str) -> int:
    """Folds of `cv:K`; raises `TrustqError` for another form.

    >>> parse_folds("cv:5")
    5
    """
    kind, _, number = text.partition(":")
    if kind != "cv" or not number.isdigit() or int(number) < 2:
        raise InputError(
            f"`calibrate={text}`: expected cv:K with K folds, e.g. cv:5.",
            where="calibrate",
            found=text,
        )
    return int(number)


def _of_file(
    path: Path,
    names: dict[str, str],
    columns: Sequence[str],
    meta: Sequence[Path],
    conditions: Sequence[str],
    calibrate_on: Path | None,
    normalize: str | None,
) -> Judged:
    predictions = read_predictions(
        path,
        names=names,
        columns=columns,
        meta=meta,
        conditions=conditions,
        normalize=normalize,
    )
    validation = None
    if calibrate_on is not None:
        validation = read_predictions(calibrate_on, names=names, meta=meta, normalize=normalize)
        if validation.split is not None and (validation.split == "val").any():
            validation = validation.take(np.flatnonzero(validation.split == "val"))
    return judged_predictions(predictions, validation=validation)


def _paths(files: Sequence[str]) -> list[Path]:
    found: list[Path] = []
    for text in files:
        path = Path(text)
        found += [path] if path.is_file() else [Path(one) for one in find_caches([text])]
    return list(dict.fromkeys(found))


def _sweep(
    caches: Sequence[Cache], head: str | None, noise: str, draws: int, arm: str, budget: str
) -> SweepRecipe:
    has_logits = all(cache.logits is not None for cache in caches)
    name = head or (BACKBONE if has_logits else "linear")
    if name == BACKBONE and (noise != "none" or draws != 1 or arm != "none"):
        raise InputError(
            "The network's own logits were fitted once, so `noise`, `draws` and `arm` change "
            "nothing of them: leave these out, or fit a head, e.g. `head=linear`."
        )
    sweep = SweepRecipe(
        head=name, noise=noise, draws=draws, arms=(arm,), budgets=(budget,), references=False
    )
    if name != BACKBONE:
        require_sound(sweep)
    return sweep


def _joined(judged: Judged, columns: Sequence[str], meta: Sequence[Path]) -> Judged:
    """The same with columns of the tables for the judged rows, None where no table has the row."""
    if not meta:
        raise InputError(
            f"Slices by {', '.join(columns)} need a table that holds them, for caches hold none: "
            "name the manifest, or another table with sample_id (`meta=FILE`)."
        )
    tables = [read_joinable(Path(path)) for path in meta]
    ids, notes = judged.sample_ids, list(judged.notes)
    found = {}
    for name in columns:
        owners = [table for table in tables if name in table.columns]
        if not owners:
            known = list(dict.fromkeys(c for table in tables for c in table.columns))
            raise NotFound(
                f"No table has the column {name!r}; there are {', '.join(known)}.",
                expected=known,
                found=name,
            )
        values = np.full(len(ids), None, dtype=object)
        n_found = 0
        for table in owners:
            column = np.ma.asarray(table.columns[name]).tolist()
            places = table.rows(ids)
            own = np.array([None if row is None else column[row] for row in places], dtype=object)
            if n := n_others(values, own):
                notes.append(
                    f"{name} is read from the first table that has it; that of another differs in "
                    f"{counted(n, 'row')}"
                )
            n_found += sum(row is not None for row in places)
            blank = np.array([value is None for value in values.tolist()])
            values[blank] = own[blank]
        if not n_found:
            raise InputError(
                f"No table with {name!r} has any of the judged rows, e.g. {id_keys(ids)[0]!r}: "
                "name the manifest that the cache was extracted from, or a table like it."
            )
        found[name] = values
    return replace(judged, columns=judged.columns | found, notes=tuple(notes))
