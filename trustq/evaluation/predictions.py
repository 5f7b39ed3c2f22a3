"""Predictions from anywhere: npz arrays, CSV or Parquet columns, or a cache, as one object."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.columns import read_table
from trustq.core.sample_ids import ID_COLUMNS, find_rows, id_keys
from trustq.errors import DamagedFile, InputError, NotFound, TrustqError
from trustq.metrics.per_class import UNKNOWN, slice_name
from trustq.metrics.probabilities import (
    NORMALISATIONS,
    _log_softmax,
    checked_labels,
    checked_logits,
    checked_probs,
    normalised,
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
        return np.exp(_log_softmax(self.logits))

    def judged(self) -> np.ndarray:
        """Which rows a model is judged on, (n,): split `test` or `external`, all without a split.

        Raises `TrustqError` where there is a split and no such row.
        """
        if self.split is None:
            return np.ones(len(self), dtype=bool)
        tested: np.ndarray = np.isin(self.split, ("test", "external"))
        if not tested.any():
            found = ", ".join(sorted(set(self.split.tolist())))
            raise InputError(f"{self.source} has no rows of split test, only {found}.")
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


def read_predictions(
    path: Path,
    *,
    names: dict[str, str] | None = None,
    columns: Sequence[str] = (),
    meta: Sequence[Path] = (),
    conditions: Sequence[str] = (),
    normalise: str | None = None,
    target: str | None = None,
) -> Predictions:
    """Predictions of an npz, CSV or Parquet file, or of a cache (.h5, or exported .safetensors).

    Arrays, or table columns, are `labels`, `logits` or `probs` (in tables `logit_<class>`,
    `prob_<class>`), and if there are any `sample_ids`, `groups`, `split`, `classes`; `names` maps
    these to other names in the file, for probabilities of a table a list separated by commas.
    `columns` are further ones to keep. Tables in `meta` are joined by id, with or without the
    ending of an image file, and may bring any of these. `conditions` names more arrays of
    probabilities in an npz (`["all"]`: every one of that shape), or views of a cache. `normalise`
    is l1 or softmax. `target` names the column that labels are from, of the file or of `meta`; rows
    without a value are left out, and values that are no class are refused. No ids: row numbers. No
    groups: every row its own. Errors: a file of another kind, what is named and not there, ids
    twice, rows that do not sum to 1, labels of no class.
    """
    path, names = Path(path), dict(names or {})
    if normalise is not None and normalise not in NORMALISATIONS:
        raise InputError(
            f"--normalize {normalise}: expected {' or '.join(NORMALISATIONS)}.",
            where="normalize",
            found=normalise,
            expected=NORMALISATIONS,
        )
    is_cache = path.suffix in (".h5", ".hdf5", ".safetensors")
    is_table = not is_cache and path.suffix != ".npz"
    notes: list[str] = []
    if is_cache:
        raw, exposure = _of_cache(path, conditions)
        notes.append(f"exposure {exposure}")
    else:
        raw = dict(read_table(path)) if is_table else _npz(path)
    ids = _find(raw, names.get("sample_ids"), ID_COLUMNS, path, "sample_ids")
    for table in meta:
        if ids is None:
            raise InputError(
                f"{path} has no ids to join {table} by: name them (--sample-ids).", path=path
            )
        raw |= _joined(Path(table), id_keys(ids), names, [*raw])
    if target is not None:
        raw, left_out = _with_target(path, raw, target, names.get("classes", "classes"))
        names["labels"] = target
        ids = _find(raw, names.get("sample_ids"), ID_COLUMNS, path, "sample_ids")
        notes += [f"{left_out} rows without {target} were left out"] if left_out else []
    kind, scores, titles = _scores(path, raw, names, is_table)
    classes = _class_names(raw, names, titles)
    if target is not None:
        _require_classes(path, target, raw[target], classes)
    k = scores.shape[1]
    if classes is not None and len(classes) != k:
        raise InputError(f"{path} has {k} columns of {kind} and {len(classes)} classes.", path=path)
    labels, classes = _labels(path, raw, names, classes, k)
    if normalise is not None:
        scores, kind = normalised(scores, normalise), "probs"
        notes.append(f"rows were normalised ({normalise})")
    scores = checked_logits(scores) if kind == "logits" else _checked_probs_of(path, scores)
    labels = checked_labels(labels, len(scores), k, beside=kind)
    groups = _find(raw, names.get("groups"), ("groups", "group_id", "lesion_id"), path, "groups")
    split = _find(raw, names.get("split"), ("split",), path, "split")
    kept = {name: _column(path, raw, name) for name in columns}
    used = {names.get(name, name) for name in ("probs", "logits")}
    more = _conditions(path, raw, conditions, scores.shape, used)
    for name, array in {"groups": groups, "split": split, **kept, **more}.items():
        if array is not None and len(array) != len(labels):
            raise InputError(
                f"{path}: {name} has {len(array)} rows, labels {len(labels)}.", path=path
            )
    if groups is None:
        notes.append("no groups: every row counts as independent, so intervals may be too narrow")
    if ids is None:
        notes.append("no ids: rows are named by their number")
    return Predictions(
        source=path.name,
        classes=classes,
        labels=labels,
        logits=scores if kind == "logits" else None,
        probs=scores if kind == "probs" else None,
        sample_ids=_unique_ids(path, ids, len(labels)),
        has_ids=ids is not None,
        groups=None if groups is None else _group_names(groups, ids),
        split=None if split is None else np.array(_texts(split)),
        columns=kept,
        conditions=more,
        notes=tuple(notes),
    )


def _of_cache(path: Path, conditions: Sequence[str]) -> tuple[dict[str, np.ndarray], str]:
    """Arrays of a cache's labelled rows by their exported names, and its exposure.

    Views that `conditions` names, or all, are there as their probabilities.
    """
    from trustq.store import open_cache

    cache = open_cache(path)
    if cache.logits is None:
        raise InputError(
            f"{path} holds features and no logits: "
            "fit a head with trustq repair, or import logits.",
            path=path,
        )
    arrays = {
        "sample_ids": cache.sample_id,
        "labels": cache.label,
        "logits": cache.logits,
        "groups": cache.group_id,
        "split": cache.split,
    }
    for name in cache.views if list(conditions) == ["all"] else conditions:
        logits = cache.view(name).logits
        assert logits is not None  # a view has what the clean pass has
        arrays[name] = np.exp(_log_softmax(checked_logits(logits)))
    labelled = np.flatnonzero(cache.label >= 0)
    raw = {name: array[labelled] for name, array in arrays.items()}
    return raw | {"classes": np.array(cache.classes)}, cache.exposure


def _npz(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise NotFound(f"{path}: no such file.", path=path)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, AttributeError) as error:
        raise DamagedFile(
            f"{path} could not be read as npz arrays ({error}). Pickled objects are not loaded.",
            path=path,
        ) from error


def _find(
    raw: dict[str, np.ndarray],
    asked: str | None,
    usual: Sequence[str],
    path: Path,
    what: str,
) -> np.ndarray | None:
    if asked is not None:
        return _column(path, raw, asked, what)
    return next((raw[name] for name in usual if name in raw), None)


def _column(path: Path, raw: dict[str, np.ndarray], name: str, what: str = "") -> np.ndarray:
    if name not in raw:
        wanted = f"{name} for {what}" if what else name
        raise NotFound(f"{path} has no {wanted}; it has {', '.join(raw)}.", path=path, expected=raw)
    return raw[name]


def _joined(
    table: Path, keys: list[str], names: dict[str, str], taken: Sequence[str]
) -> dict[str, np.ndarray]:
    """Columns of a metadata table in the order of `keys`; None where it lacks the id."""
    columns, rows = find_rows(table, keys, by=names.get("sample_ids"))
    if all(row is None for row in rows):
        raise InputError(
            f"{table} shares no id with the predictions, e.g. {keys[0]!r}.", path=table
        )
    return {
        name: np.array([None if r is None else column[r] for r in rows], dtype=object)
        for name, column in columns.items()
        if name not in taken
    }


def _with_target(
    path: Path, raw: dict[str, np.ndarray], target: str, classes: str
) -> tuple[dict[str, np.ndarray], int]:
    """The rows that have a value of the target, and how many have none."""
    column = _column(path, raw, target, "the target")
    there = np.array([slice_name(value) != UNKNOWN for value in column.tolist()])
    if not there.any():
        raise InputError(f"{path}: {target} has no value in any row.", path=path)
    kept = {
        name: array if name == classes or len(array) != len(there) else array[there]
        for name, array in raw.items()
    }
    return kept, int((~there).sum())


def _require_classes(
    path: Path, target: str, column: np.ndarray, classes: tuple[str, ...] | None
) -> None:
    found = sorted({slice_name(value) for value in column.tolist()})
    if classes is None:
        raise InputError(
            f"{path} does not name the classes of its probabilities, so which of them "
            f"{', '.join(found[:5])} of {target} are is not known: name them in their order "
            "(--classes a,b,c).",
            path=path,
        )
    known = {name.lower() for name in classes}
    if strange := [name for name in found if name.lower() not in known]:
        raise InputError(
            f"{path}: {target} is {', '.join(strange[:5])}, and the probabilities are of "
            f"{', '.join(classes)}. A target needs a model of its classes: label a manifest by it "
            f"(trustq data target M.parquet --column {target} --out T.parquet), extract that and "
            "evaluate its cache.",
            path=path,
        )


def _scores(
    path: Path, raw: dict[str, np.ndarray], names: dict[str, str], is_table: bool
) -> tuple[str, np.ndarray, list[str] | None]:
    """`logits` or `probs`, the (n, k) array, and the classes that its columns name."""
    for kind, prefix in (("logits", "logit_"), ("probs", "prob_")):
        if is_table:
            if kind in names:
                chosen = [name.strip() for name in names[kind].split(",")]
                titles = [name.removeprefix(prefix) for name in chosen]
            else:
                chosen = [name for name in raw if name.startswith(prefix)]
                titles = [name.removeprefix(prefix) for name in chosen]
            if chosen:
                parts = [_numbers(path, _column(path, raw, name), name) for name in chosen]
                return kind, np.stack(parts, axis=1), titles
        elif (name := names.get(kind, kind)) in raw or kind in names:
            return kind, _column(path, raw, name, kind), None
    wanted = "columns prob_<class> or logit_<class>" if is_table else "array probs or logits"
    raise NotFound(
        f"{path} has no {wanted}; it has {', '.join(raw)}. Name them with --probs.",
        path=path,
        expected=raw,
    )


def _numbers(path: Path, column: np.ndarray, name: str) -> np.ndarray:
    try:
        return np.array([float(value) for value in column.tolist()])
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}: {name} holds something that is no number ({error}).", path=path
        ) from error


def _class_names(
    raw: dict[str, np.ndarray], names: dict[str, str], titles: list[str] | None
) -> tuple[str, ...] | None:
    if titles is not None:
        return tuple(titles)
    given = names.get("classes", "classes")
    if given in raw:
        return tuple(_texts(raw[given]))
    return tuple(part.strip() for part in given.split(",")) if "," in given else None


def _labels(
    path: Path,
    raw: dict[str, np.ndarray],
    names: dict[str, str],
    classes: tuple[str, ...] | None,
    k: int,
) -> tuple[np.ndarray, tuple[str, ...]]:
    column = _column(path, raw, names.get("labels", "labels"), "labels")
    if column.ndim != 1:
        raise InputError(f"{path}: labels has shape {column.shape}, expected (n,).", path=path)
    if column.dtype.kind in "iu":
        return column.astype(np.intp), classes or tuple(map(str, range(k)))
    texts = [slice_name(value) for value in column.tolist()]
    if classes is None or not set(texts) & {*classes, *(c.upper() for c in classes)}:
        # A CSV holds class indices as text.
        if all(text.isdigit() for text in texts):
            return np.array(texts, dtype=np.intp), classes or tuple(map(str, range(k)))
        if classes is None:
            classes = tuple(sorted(set(texts)))
            if len(classes) != k:
                raise InputError(
                    f"{path}: labels name {len(classes)} classes and there are {k} columns: "
                    "give the class order (classes, or --classes a,b,c).",
                    path=path,
                )
    # Names may differ in case between two files that are joined.
    position = {name.lower(): index for index, name in enumerate(classes)}
    strange = sorted({text for text in texts if text.lower() not in position})
    if strange:
        raise InputError(
            f"{path}: {', '.join(strange[:5])} among the labels; the classes are "
            f"{', '.join(classes)}. Leave out rows without a label.",
            path=path,
        )
    return np.array([position[text.lower()] for text in texts], dtype=np.intp), classes


def _checked_probs_of(path: Path, scores: np.ndarray) -> np.ndarray:
    try:
        return checked_probs(scores)
    except TrustqError as error:
        raise InputError(
            f"{path}: {error} For scores of another kind: --normalize l1, --normalize softmax, or "
            "--logits NAME.",
            path=path,
        ) from error


def _conditions(
    path: Path,
    raw: dict[str, np.ndarray],
    wanted: Sequence[str],
    shape: tuple[int, ...],
    used: set[str],
) -> dict[str, np.ndarray]:
    if list(wanted) == ["all"]:
        wanted = [name for name, array in raw.items() if array.shape == shape and name not in used]
    found = {}
    for name in wanted:
        found[name] = _checked_probs_of(path, _column(path, raw, name))
        if found[name].shape != shape:
            raise InputError(
                f"{path}: {name} has shape {found[name].shape}, expected {shape}.", path=path
            )
    return found


def _unique_ids(path: Path, ids: np.ndarray | None, n: int) -> np.ndarray:
    if ids is None:
        return np.array([str(row) for row in range(n)])
    texts = _texts(ids)
    if len(texts) != n:
        raise InputError(f"{path}: sample_ids has {len(texts)} rows, labels {n}.", path=path)
    if len(set(texts)) != n:
        repeated = next(text for text in texts if texts.count(text) > 1)
        raise InputError(
            f"{path}: sample_ids must be unique; {n - len(set(texts))} are repeated, "
            f"e.g. {repeated!r}.",
            path=path,
        )
    return np.array(texts)


def _group_names(groups: np.ndarray, ids: np.ndarray | None) -> np.ndarray:
    """Names of groups; a row without one is a group of its own."""
    names = [slice_name(group) for group in groups.tolist()]
    own = _texts(ids) if ids is not None else [str(row) for row in range(len(names))]
    return np.array([f"row {i}" if g == "unknown" else g for g, i in zip(names, own, strict=True)])


def _texts(array: np.ndarray) -> list[str]:
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    return [str(value) for value in array.tolist()]
