"""Predictions from any file or cache as one object; what a file means is `ForeignRows`."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.class_names import ClassPosition, Labels, read_labels, same_classes
from trustq.core.counts import counted, verb
from trustq.core.foreign_files import ForeignFile, matrix
from trustq.core.foreign_rows import (
    ForeignRows,
    Names,
    Scores,
    alike_but_in_case,
    open_rows,
    rows_of,
)
from trustq.core.words import is_blank, plain_texts
from trustq.errors import InputError, TrustqError
from trustq.metrics.probabilities import (
    NORMALIZATIONS,
    PROBABILITY_FLOOR,
    checked_labels,
    checked_logits,
    checked_probs,
    log_softmax_of_rows,
    normalized,
)


@dataclass(frozen=True)
class Predictions:
    """Labels and predictions of n rows; `logits` or `probs`, whichever was stored.

    `columns` holds metadata by name, blanks as None; `conditions` other probabilities of the same
    rows (corruptions, other models); `notes` says what was missing and what stands in for it.
    """

    source: str
    classes: tuple[str, ...]
    labels: np.ndarray
    logits: np.ndarray | None
    probs: np.ndarray | None
    sample_ids: np.ndarray
    has_ids: bool
    groups: np.ndarray | None = None
    split: np.ndarray | None = None
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    conditions: dict[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def given(self) -> dict[str, np.ndarray]:
        """`logits` or `probs`, as keyword for the functions that take either."""
        return {"logits": self.logits} if self.logits is not None else {"probs": self.of_rows()}

    def of_rows(self) -> np.ndarray:
        """Probabilities, (n, k)."""
        if self.probs is not None:
            return self.probs
        assert self.logits is not None
        return np.asarray(np.exp(log_softmax_of_rows(self.logits)))

    def floor_notes(self) -> list[str]:
        """A note where labels have a probability that NLL takes for a larger one."""
        if self.probs is None:
            return []
        own = self.probs[np.arange(len(self)), self.labels]
        n = int(np.count_nonzero(own < PROBABILITY_FLOOR))
        if not n:
            return []
        return [
            f"the label has a probability below {PROBABILITY_FLOOR:g} in {counted(n, 'row')} of "
            f"{self.source}, which count as {PROBABILITY_FLOOR:g} in NLL: logits would give a "
            "larger one"
        ]

    def judged(self) -> np.ndarray:
        """Which rows a model is judged on, (n,): split `test` or `external`, all without a split.

        Raises `TrustqError` where there is a split and no such row.
        """
        if self.split is None:
            return np.ones(len(self), dtype=bool)
        tested: np.ndarray = np.isin(self.split, ("test", "external"))
        if not tested.any():
            found = ", ".join(word or "blank" for word in sorted(set(self.split.tolist())))
            raise InputError(
                f"{self.source} has no rows of split test, only {found}: call the "
                "rows to judge test, or leave the column of splits out."
            )
        return tested

    def take(self, rows: np.ndarray) -> "Predictions":
        """The same predictions of some rows, by position."""

        def of(array: np.ndarray | None) -> Any:
            return None if array is None else array[rows]

        return replace(
            self,
            labels=self.labels[rows],
            logits=of(self.logits),
            probs=of(self.probs),
            sample_ids=self.sample_ids[rows],
            groups=of(self.groups),
            split=of(self.split),
            columns={name: column[rows] for name, column in self.columns.items()},
            conditions={name: probs[rows] for name, probs in self.conditions.items()},
        )

    def in_order_of(self, classes: Sequence[str]) -> "Predictions":
        """The same predictions with their classes in another order; as they are for other classes.

        Files of one model may list its classes in several orders, tables by their columns, and in
        another case, which is then that of `classes`.
        """
        places = None if self.classes == tuple(classes) else same_classes(self.classes, classes)
        if places is None:
            return self
        order = np.argsort(places)

        def of(scores: np.ndarray | None) -> Any:
            return None if scores is None else scores[:, order]

        return replace(
            self,
            classes=tuple(classes),
            labels=np.array(places)[self.labels],
            logits=of(self.logits),
            probs=of(self.probs),
            conditions={name: of(probs) for name, probs in self.conditions.items()},
        )

    def with_classes_of(
        self, other: "Predictions", way_out: str, *, called: Sequence[str] = ()
    ) -> "Predictions":
        """The same predictions with the classes of others; raises `TrustqError` where they differ.

        The message ends in the way out; both are `called` by their sources unless names are given.
        """
        rows = self.in_order_of(other.classes)
        if rows.classes == other.classes:
            return rows
        own, its = called or (self.source, other.source)
        alike = len(self.classes) == len(other.classes)
        hint = ", or name them alike (`classes`) if they are the same in this order"
        raise InputError(
            f"{own} has the classes {', '.join(self.classes)} and {its} "
            f"{', '.join(other.classes)}: {way_out}{hint if alike else ''}."
        )


def read_predictions(
    path: Path,
    *,
    names: Names | None = None,
    columns: Sequence[str] = (),
    meta: Sequence[Path] = (),
    conditions: Sequence[str] = (),
    normalize: str | None = None,
    target: str | None = None,
) -> Predictions:
    """Predictions of any file that `read_foreign` reads, or of a cache.

    Arrays, or table columns, are `labels`, `logits` or `probs` (in tables `logit_<class>`,
    `prob_<class>`), and if there are any `sample_ids`, `groups`, `split`, `classes`; `names` maps
    these to other names in the file, for probabilities of a table a list, which as a text is
    separated by commas. What labels and the rest mean is `ForeignRows`. `columns` are further ones
    to keep. Tables in `meta` are joined by id, with or without the ending of an image file, and may
    bring any of these. `conditions` names more arrays of probabilities in an npz (`["all"]`: every
    one of that shape), or views of a cache. `normalize` is l1 or softmax. `target` names the column
    that labels are from, of the file or of `meta`; values that are no class are refused. Rows
    without a label are left out, which a note says. No ids: row numbers. No groups: every row its
    own. Errors: a file of another kind, what is named and not there, ids twice, rows that do not
    sum to 1, labels of no class, names whose order is not stated.
    """
    path, asked = Path(path), dict(names or {})
    if normalize is not None and normalize not in NORMALIZATIONS:
        raise InputError(
            f"`normalize={normalize}`: expected {' or '.join(NORMALIZATIONS)}.",
            where="normalize",
            found=normalize,
            expected=NORMALIZATIONS,
        )
    rows = _open(path, asked, columns, meta, conditions, target)
    scores = rows.scores()
    labels = _labels(rows, scores, target)
    n, kind = len(scores.array), scores.kind
    if len(labels.indices) != n:
        checked_labels(np.zeros(len(labels.indices), dtype=int), n, 1, beside=kind)
    kept = np.flatnonzero(labels.indices >= 0)
    if not len(kept):
        raise InputError(f"{path} has no row with a label: predictions are judged by labels.")
    array = scores.array if len(kept) == n else scores.array[kept]
    if normalize is not None:
        array, kind = normalized(array, normalize), "probs"
        rows.note(f"rows were normalized ({normalize})")
    numbers = kept + 1  # rows of the file, of which those without a label are left out here
    array = _checked(path, kind, array, numbers)
    if len(kept) >= 50 and (array.argmax(axis=1) == labels.indices[kept]).all():
        rows.note(
            "the label has the largest score in every row: if labels are what a model predicted "
            "and not the truth, name the column of the truth (`labels`)"
        )
    ids = rows.sample_ids(n)
    groups = rows.groups(n, ids)
    split, unknown = rows.split(n)
    if unknown:
        counts = ", ".join(f"{w or 'blank'} {np.count_nonzero(split == w)}" for w in unknown)
        rows.note(f"rows of no known split ({counts}) are neither judged nor calibrated on")
    more = {name: rows.column(name) for name in columns}
    for name, own in more.items():
        if own.dtype.kind in "OUS" and (two := alike_but_in_case(plain_texts(own))):
            rows.note(
                f"{two[0]!r} and {two[1]!r} of {name} differ in case alone and are taken for two: "
                "spell them alike if they are one"
            )
    others = _conditions(rows, conditions, scores)
    for name, own in {**more, **others}.items():
        if len(own) != n:
            raise InputError(
                f"{path}: {name} has {counted(len(own), 'row')}, labels {n:,}.", path=path
            )
    if groups is None:
        rows.note("no groups: every row counts as independent, so intervals may be too narrow")
    if ids is None:
        rows.note("no ids: rows are named by their number")

    def of(own: np.ndarray) -> np.ndarray:
        return own if len(kept) == n else own[kept]

    return Predictions(
        source=path.name,
        classes=labels.classes,
        labels=of(labels.indices).astype(np.intp, copy=False),
        logits=array if kind == "logits" else None,
        probs=array if kind == "probs" else None,
        sample_ids=of(np.array(ids if ids is not None else list(map(str, range(n))))),
        has_ids=ids is not None,
        groups=None if groups is None else of(groups),
        split=None if split is None else of(split),
        columns={name: of(own) for name, own in more.items()},
        conditions={
            name: _checked(path, "probs", of(own), numbers, called=name)
            for name, own in others.items()
        },
        notes=tuple(rows.notes),
    )


def _open(
    path: Path,
    names: dict[str, str | Sequence[str]],
    columns: Sequence[str],
    meta: Sequence[Path],
    conditions: Sequence[str],
    target: str | None,
) -> ForeignRows:
    from trustq.store import is_cache

    if target is not None:
        names["labels"] = target
    if is_cache(path):
        file, exposure = _of_cache(path, conditions)
        rows = rows_of(file, names=names, meta=meta)
        rows.note(f"exposure {exposure}")
        return rows
    every = list(conditions) == ["all"]
    wanted = [*columns, *conditions]
    return open_rows(path, names=names, meta=meta, columns=wanted, everything=every)


def _of_cache(path: Path, conditions: Sequence[str]) -> tuple[ForeignFile, str]:
    """Arrays of a cache's labelled rows by their exported names, and its exposure.

    Labels are the names of their classes. Views that `conditions` names, or all, are there as
    their probabilities.
    """
    from trustq.store import open_cache

    cache = open_cache(path)
    if cache.logits is None:
        raise InputError(
            f"{path} holds features and no logits: "
            "fit a head (`head=linear`, or with `trustq trust` and `trustq repair`), or import "
            "logits.",
            path=path,
        )
    labelled = np.flatnonzero(cache.label >= 0)
    classes = np.array(cache.classes, dtype=object)
    arrays = {
        "sample_ids": cache.sample_id[labelled],
        "labels": classes[cache.label[labelled]],
        "logits": cache.logits[labelled],
        "groups": cache.group_id[labelled],
        "split": cache.split[labelled],
    }
    for name in cache.views if list(conditions) == ["all"] else conditions:
        logits = cache.view(name).logits
        assert logits is not None  # a view has what the clean pass has
        arrays[name] = np.exp(log_softmax_of_rows(checked_logits(logits[labelled])))
    arrays["classes"] = classes
    return ForeignFile(path, arrays, False, list(arrays)), cache.exposure


def _labels(rows: ForeignRows, scores: Scores, target: str | None) -> Labels:
    width = scores.array.shape[1]
    if target is None:
        return rows.labels(classes=scores.classes, width=width)
    column = rows.column(target, "the target")
    texts = {text for text in plain_texts(column) if not is_blank(text)}
    if not texts:
        raise InputError(f"{rows.path}: {target} has no value in any row.", path=rows.path)
    if scores.classes is None:
        raise InputError(
            f"{rows.path} does not name the classes of its probabilities, so which of them "
            f"{', '.join(sorted(texts)[:5])} of {target} are is not known: name them in their "
            "order (`classes=a,b,c`).",
            path=rows.path,
        )
    find = ClassPosition(scores.classes)
    strange = sorted(text for text in texts if find(text) is None)
    if strange:
        raise InputError(
            f"{rows.path}: {target} is {', '.join(strange[:5])}, and the probabilities are of "
            f"{', '.join(scores.classes)}. A target needs a model of its classes: label a manifest "
            f"by it (`trustq data target` with `column={target}`), extract that "
            "and evaluate its cache.",
            path=rows.path,
        )
    found = read_labels(column, source=rows.source, classes=scores.classes, name=target)
    left_out = int((found.indices < 0).sum())
    if left_out:
        rows.note(
            f"{counted(left_out, 'row')} without {target} {verb(left_out, 'was', 'were')} left out"
        )
    return found


def _checked(
    path: Path, kind: str, scores: np.ndarray, numbers: np.ndarray, *, called: str = ""
) -> np.ndarray:
    try:
        if kind == "logits":
            return checked_logits(scores, numbers=numbers)
        return checked_probs(scores, numbers=numbers)
    except TrustqError as error:
        said = str(error).replace(kind, called or kind, 1)
        if kind == "probs":
            said += (
                " For scores of another kind: `normalize=l1`, `normalize=softmax`, or "
                "`logits=NAME`."
            )
        raise InputError(f"{path}: {said}", path=path) from error


def _conditions(
    rows: ForeignRows,
    wanted: Sequence[str],
    scores: Scores,
) -> dict[str, np.ndarray]:
    used = [rows.name_of(kind) for kind in ("probs", "logits")]
    shape = scores.array.shape
    if list(wanted) == ["all"]:
        arrays = rows.file.arrays
        wanted = [name for name, own in arrays.items() if own.shape == shape and name not in used]
    found = {}
    for name in wanted:
        found[name] = matrix(rows.column(name), source=rows.source, name=name)
        if found[name].shape != shape:
            raise InputError(
                f"{rows.path}: {name} has shape {found[name].shape}, expected {shape}.",
                path=rows.path,
            )
    return found
