"""What an audit reads: the labels of one cache or file with their out-of-fold probabilities."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.class_names import ClassPosition, same_classes
from trustq.core.counts import counted, verb
from trustq.core.digest import digest_bytes, digest_file, digest_json
from trustq.core.foreign_files import ForeignFile, is_array_file, read_foreign
from trustq.core.foreign_rows import images_among, open_rows, rows_of
from trustq.core.generators import generator
from trustq.core.leaks import in_sample_signs
from trustq.core.sample_ids import find_ids, nearly
from trustq.core.words import is_blank
from trustq.data.splits import group_folds, thin_classes
from trustq.errors import InputError
from trustq.evaluation.predictions import Predictions, read_predictions
from trustq.heads import (
    Head,
    SharedFeatures,
    choose_penalty,
    fit_heads,
    make_head,
    text_file,
    text_settings,
)
from trustq.heads.feature_cache import one_blas_thread, row_blocks
from trustq.heads.linear import LinearHead
from trustq.heads.out_of_fold import (
    FoldFit,
    OutOfFold,
    TrainingRows,
    accept_out_of_fold,
    averaged,
    fit_folds,
    predict_rows,
    read_crossfit,
)
from trustq.heads.standardise import Standardised, require_finite, scale_of, taken
from trustq.metrics.probabilities import log_softmax
from trustq.store import Cache, crossfit_signs, import_cache, in_order_of, is_foreign, open_cache

Progress = Callable[[str, str, int, int], None]  # stage, its unit, how much, of how much
HEAD, FOLDS = "linear", 5  # that are fitted where nobody says otherwise
SOURCES = ("auto", "head", "crossfit", "file")
# Rows by whose losses penalties are left out; those near the best are then compared by all rows.
# Of a loss .8 % above the best the standard error is then .3 %, of one 3 % above .5 %, on six sets.
CHOSEN_BY = 3500
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # of a linear head; the lowest out-of-fold log loss is taken
# By chance of which rows share a fold, the share wrong of the first tenth of 9,286 rows moves by up
# to .017. So few rows are divided several times.
MANY_REPEATS = 4
REPEATED_ROWS = 40_000  # at most, over all divisions
MOST_REPEATS = 100


@dataclass(frozen=True)
class AuditSource:
    """The rows of one cache or file whose labels are audited.

    `reference` holds labels that are known to be right, -1 where there is none; the audit is judged
    by them and never made from them. `features`, standardised, are None where the file has none.
    """

    training: TrainingRows
    observed: np.ndarray  # (n,) the labels under audit
    out_of_fold: OutOfFold
    features: np.ndarray | Standardised | None  # (n, d)
    reference: np.ndarray  # (n,)
    head: str  # what the probabilities are of, for people
    head_settings: dict[str, Any]  # of fitted heads: the penalty chosen
    settings: dict[str, Any]  # what `open_source` was asked, to open the same again
    notes: tuple[str, ...] = ()

    @property
    def cache(self) -> Cache:
        """Where the rows are from."""
        return self.training.cache

    @property
    def sample_ids(self) -> np.ndarray:
        """Ids of the audited rows, (n,)."""
        return np.asarray(self.cache.sample_id[self.training.rows])

    @property
    def trusted(self) -> np.ndarray:
        """Rows whose label was clean by purchase, (n,); they are learned from and never listed."""
        return np.asarray(self.cache.trusted[self.training.rows])

    def standardise(self, features: np.ndarray) -> np.ndarray:
        """Other rows' features, (m, d), on the scale of the audited rows, as float32."""
        require_finite(features)
        return scale_of(self.cache.features, self.training.rows).standardise(features)

    @property
    def seen(self) -> np.ndarray:
        """Rows whose label the backbone was trained on, (n,)."""
        return np.asarray(self.cache.seen_labels[self.training.rows])


@dataclass(frozen=True)
class KnownLabels:
    """Labels that are trusted, by sample id: what people answered, or None for the given label.

    `where` says for people where they are from.
    """

    labels: Mapping[str, str | None]
    where: str

    @property
    def digest(self) -> str:
        """Digest of the labels."""
        return digest_json(sorted((k, v or "") for k, v in self.labels.items()))


@dataclass
class _Rows:
    """A cache, the positions to audit, and their labels."""

    cache: Cache
    rows: np.ndarray
    observed: np.ndarray
    reference: np.ndarray
    probs: np.ndarray | None = None  # of a file, in the order of `rows`
    notes: list[str] = field(default_factory=list)
    beside: np.ndarray | None = None  # features of the file, of which no head is fitted

    def take(self, kept: np.ndarray) -> "_Rows":
        """Some of the rows of a cache."""
        return _Rows(self.cache, self.rows[kept], self.observed[kept], self.reference[kept])


def open_source(
    path: Path,
    *,
    source: str = "auto",
    head: str = HEAD,
    folds: int = FOLDS,
    repeats: int | None = None,
    seed: int = 0,
    names: dict[str, str] | None = None,
    exposure: str | None = None,
    normalize: str | None = None,
    known: KnownLabels | None = None,
    beside: AuditSource | None = None,
    progress: Progress | None = None,
) -> AuditSource:
    """Read a cache, a file of embeddings, or out-of-fold probabilities (npz, CSV, Parquet).

    The audited labels are the observed ones; where there are none, `labels` are taken for them.
    `source` says whose probabilities: of `head`s fitted out of fold on the features, of the cache's
    `crossfit` logits, or of the `file`, which are then out of fold as the caller states; `auto`
    takes the second where it is stored, else the first where there are features. Rows are divided
    into `folds` as often as `repeats` says, and probabilities are means over these divisions; of
    linear heads, where it is None, up to `MANY_REPEATS` times on few rows. `names` gives
    other names of arrays, `exposure` what a backbone of plain features has seen. Labels that are
    `known` stand in the place of the given ones and are trusted. Classes are put in the order of
    a source that it is audited `beside`. `progress` is told what is done, its unit, how much and of
    how much. Raises `TrustqError` for what is missing or does not fit.
    """
    path, names = Path(path), dict(names or {})
    if source not in SOURCES:
        raise InputError(
            f"`source={source}`: expected one of {', '.join(SOURCES)}.",
            where="source",
            found=source,
            expected=SOURCES,
        )
    asked = {
        "source": source,
        "head": head,
        "folds": folds,
        "seed": seed,
        "names": names,
        "exposure": exposure,
        "normalize": normalize,
    }
    _require_repeats(repeats)
    if (texts := text_file(head)) is not None and texts.is_file():
        asked["texts"] = digest_bytes(texts.read_bytes())  # a file may change under its name
    own = _read(path, source, names, exposure, normalize)
    if beside is not None:
        own = _in_order_of(own, beside.cache.classes)
    if known is not None:
        own = _with_known(own, known)
        asked["known"] = known.digest
    cache = own.cache
    # Those of a file that was not verified are refused, so they are used only where asked for.
    has_logits = own.probs is None and "crossfit_logits" in cache.extra
    stored = has_logits and (source == "crossfit" or (source == "auto" and bool(cache.digest)))
    if stored and "fold" in cache.extra:
        own = own.take(cache.extra["fold"][own.rows] >= 0)  # rows that some fold left out
    rows, observed = own.rows, own.observed
    if not len(rows):
        raise InputError(f"{cache.name} has no labels to audit: neither observed nor others.")
    if (observed == observed[0]).all():
        raise InputError(
            f"{cache.name}: all {counted(len(rows), 'label')} to audit are of class "
            f"{cache.classes[observed[0]]}, so there is nothing to tell them from."
        )
    if (repeats or 1) > 1 and (own.probs is not None or stored or texts is not None):
        raise InputError(
            f"`repeats={repeats}` is how often heads are fitted, and here none are: leave it out.",
            where="repeats",
            found=repeats,
        )
    groups = np.unique(cache.group_id[rows], return_inverse=True)[1]
    features = None
    if cache.features.shape[1]:
        features = Standardised(cache.features, rows, scale_of(cache.features, rows))
    fitted: dict[str, Any] = {}
    if own.probs is not None:
        training = TrainingRows(cache, rows, groups, np.full(len(rows), -1))
        made = accept_out_of_fold(training, own.probs, observed)
        title = "probabilities of the file"
        own.notes.append(
            "the probabilities are taken for out of fold; in-sample ones would hide "
            "the labels that the model memorised"
        )
        own.notes += in_sample_signs(
            own.probs,
            own.observed,
            reference=own.reference,
            features=own.beside,
            groups=groups,
            called="probabilities",
        )
    elif stored or source == "crossfit":
        training = TrainingRows(cache, rows, groups, np.full(len(rows), -1))
        made, title = read_crossfit(training, observed), "cross-fitted backbone"
        own.notes += crossfit_signs(cache)
        if cache.seen_labels[rows].any():
            own.notes.append(
                "neighbours and outliers are by features whose backbone was trained on these labels"
            )
    else:
        fold = group_folds(observed, groups, n_folds=folds, seed=seed)
        if len(groups) == groups.max() + 1:
            own.notes.append("every row is its own group: a relative in another fold hides errors")
        training = TrainingRows(cache, rows, groups, fold)
        for c, n_groups in thin_classes(observed, groups, n_folds=folds).items():
            own.notes.append(
                f"class {cache.classes[c]} has {counted(n_groups, 'group')} for {folds} folds"
            )
        if features is None:
            raise InputError(f"{cache.name} has no column of features, so no head can be fitted.")
        n_divisions = _n_divisions(repeats, head, len(rows))
        if n_divisions > 1:
            asked["repeats"] = n_divisions
        others = [
            partial(group_folds, observed, groups, n_folds=folds, seed=_seed_of(seed, division))
            for division in range(1, n_divisions)
        ]
        tell = None
        if progress is not None:
            tell = partial(progress, "Fitting heads", "fits")
        made, fitted = fitted_out_of_fold(
            training, features, observed, head, others=others, progress=tell
        )
        times = f"{n_divisions} times " if n_divisions > 1 else ""
        title = ", ".join([f"{head} heads", *(f"{k} = {v:g}" for k, v in fitted.items())])
        title += f", {times}{folds} folds by group"
        if texts is not None:
            title = f"zero-shot head of {texts.name}, which no label changes"
    return AuditSource(
        training=training,
        observed=observed,
        out_of_fold=made,
        features=features,
        reference=own.reference.astype(np.int64),
        head=title,
        head_settings=fitted,
        settings=asked,
        notes=tuple(own.notes),
    )


def refuse_unused(source: AuditSource, *, head: str, folds: int, seed: int) -> None:
    """Raise `TrustqError` for settings of heads where none was fitted: they would be ignored."""
    made = source.out_of_fold.source
    if made == "head":
        return
    given = {"head": (head, HEAD), "folds": (folds, FOLDS), "seed": (seed, 0)}
    for name, (value, usual) in given.items():
        if value != usual:
            what = "the crossfit logits of the cache" if made == "crossfit" else "a file's scores"
            raise InputError(
                f"`{name}={value}` is of heads that are fitted here, and {what} are audited: leave "
                "it out, or choose `source=head` where there are features.",
                where=name,
                found=value,
            )


def of_source(progress: Progress | None, index: int, n_sources: int) -> Progress | None:
    """The same, told with each stage which of several sources it is of."""
    if progress is None or n_sources == 1:
        return progress
    which = f" ({index + 1} of {n_sources})"
    return lambda stage, unit, done, total: progress(stage + which, unit, done, total)


def _in_order_of(own: _Rows, classes: tuple[str, ...]) -> _Rows:
    """The same rows with their classes in another order; as they are for other classes."""
    cache = in_order_of(own.cache, classes)
    if cache is own.cache:
        return own
    places = same_classes(own.cache.classes, classes) or []
    place = np.array([*places, -1])
    return dataclasses.replace(
        own,
        cache=cache,
        observed=place[own.observed],
        reference=place[own.reference],
        probs=None if own.probs is None else own.probs[:, np.argsort(places)],
    )


def _with_known(own: _Rows, known: KnownLabels) -> _Rows:
    """The same rows with the known labels in their place, trusted."""
    cache, classes = own.cache, own.cache.classes
    ids = cache.sample_id[own.rows]
    observed, trusted = own.observed.copy(), cache.trusted.copy()
    find, strangers = ClassPosition(classes), []
    answered: dict[int, int] = {}
    places = find_ids(list(known.labels), ids, source=known.where)
    for (sample_id, label), i in zip(known.labels.items(), places, strict=True):
        if i is None:
            strangers.append(sample_id)
            continue
        if label is not None:
            position = find(label)
            if position is None and is_blank(label):
                continue
            if position is None:
                raise InputError(
                    f"{known.where}: unknown class {label!r} of {sample_id!r}; expected one of "
                    f"{', '.join(classes)}.",
                    expected=classes,
                    found=label,
                )
            if answered.setdefault(i, position) != position:
                raise InputError(f"{known.where}: {str(ids[i])!r} is answered in two ways.")
            observed[i] = position
        trusted[own.rows[i]] = True
    found = len(known.labels) - len(strangers)
    if not found:
        raise InputError(
            f"{known.where}: no row of {cache.name} is among its "
            f"{counted(len(known.labels), 'id')}{nearly(strangers, ids)}. Is it of another data "
            "set?"
        )
    if bool(trusted[own.rows].all()):
        raise InputError(f"Every label of {cache.name} is trusted, so there is none to audit.")
    changed = int((observed != own.observed).sum())
    labels = cache.observed.copy()
    labels[own.rows] = observed
    note = f"{counted(found, 'label')} {verb(found, 'is', 'are')} trusted by {known.where}"
    note += f", {changed} of them in the place of the given ones" if changed else ""
    # A table of everything has rows of other splits too; what is nearly spelt alike is a slip.
    if near := nearly(strangers, ids):
        n = len(strangers)
        note += f"; {counted(n, 'other id')} {verb(n, 'is no row', 'are no rows')} of it{near}"
    # The digest says what these rows are now; crossfit logits were made from the labels as given.
    digest = digest_json([cache.content_digest, known.digest])
    return dataclasses.replace(
        own,
        cache=dataclasses.replace(cache, observed=labels, trusted=trusted, content_digest=digest),
        observed=observed,
        notes=[*own.notes, note],
    )


def _read(
    path: Path, source: str, names: dict[str, str], exposure: str | None, normalize: str | None
) -> _Rows:
    if not is_foreign(path):
        if source == "file":
            raise InputError(
                f"{path} is a cache, whose logits are of a network that saw these rows or none of "
                "the labels: use `source=head` or `source=crossfit`."
            )
        if exposure is not None:
            raise InputError(
                f"{path} is a cache, which says what its backbone has seen: leave out `exposure`."
            )
        return _of_cache(open_cache(path, names=names, normalize=normalize))
    file = read_foreign(path, wanted=lambda name: False)  # of a table every column all the same
    if source != "file" and _has_features(file, names):
        cache = import_cache(path, exposure=exposure, names=names, normalize=normalize)
        return _of_cache(cache)
    if source in ("head", "crossfit"):
        what = "features to fit a head on" if source == "head" else "crossfit logits"
        raise InputError(
            f"{path} holds no {what}; audit its probabilities with `source=file`.", path=path
        )
    return _of_predictions(file, names, normalize, asked=source == "file")


def _of_cache(cache: Cache) -> _Rows:
    there = cache.observed >= 0
    if there.any():
        rows = np.flatnonzero(there)
        return _Rows(cache, rows, cache.observed[rows].astype(np.int64), cache.label[rows])
    rows = np.flatnonzero(cache.label >= 0)
    nothing = np.full(len(rows), -1)
    return _Rows(cache, rows, cache.label[rows].astype(np.int64), nothing)


def _of_predictions(
    file: ForeignFile, names: dict[str, str], normalize: str | None, *, asked: bool
) -> _Rows:
    path = file.path
    known = {name: value for name, value in names.items() if name not in ("observed", "features")}
    is_open = file.is_table and not any(is_array_file(str(name)) for name in names.values())
    rows = rows_of(file, names=names) if is_open else open_rows(path, names=names)
    if not (asked or rows.has_scores() or images_among(rows)):
        raise InputError(
            f"{path} has nothing that is features, probabilities or logits by its name; it has "
            f"{rows.there()}. Name the features that heads are fitted on (`features`), or scores "
            "out of fold (`probs`, `logits`).",
            path=path,
        )
    audited = rows.name_of("observed") if rows.find("observed") is not None else None
    if audited is None:
        found = read_predictions(path, names=known, normalize=normalize)
        reference = np.full(len(found), -1)
    else:
        found = read_predictions(path, names=known | {"labels": audited}, normalize=normalize)
        reference = np.full(len(found), -1)
        if rows.name_of("labels") is not None:
            # In the class order of the audited labels, which may name fewer or others.
            given = rows.labels("observed", classes=found.classes).indices
            reference = rows.labels(classes=found.classes).indices[given >= 0]
    features = np.zeros((len(found), 0), dtype=np.float32)
    cache = _in_memory(path, found, features, reference, names)
    notes = [note for note in found.notes if "group" not in note]
    labels = found.labels.astype(np.int64)
    own = _Rows(cache, np.arange(len(found)), labels, reference, found.of_rows(), notes)
    if _has_features(file, names):
        beside = rows.matrix("features")
        # Rows without a label have been left out; then which feature is whose is not known here.
        own.beside = beside if beside is not None and len(beside) == len(found) else None
    return own


def _in_memory(
    path: Path,
    found: Predictions,
    features: np.ndarray,
    reference: np.ndarray,
    names: dict[str, str],
) -> Cache:
    n = len(found)
    return Cache(
        dataset=path.stem,
        classes=found.classes,
        exposure="unknown",
        sample_id=found.sample_ids,
        split=found.split if found.split is not None else np.full(n, "train"),
        group_id=found.groups if found.groups is not None else found.sample_ids,
        label=reference.astype(np.int16),
        observed=found.labels.astype(np.int16),
        trusted=np.zeros(n, dtype=bool),
        seen=np.zeros(n, dtype=np.uint8),
        features=features,
        path=path,
        content_digest=digest_json([digest_file(path), names]),
    )


def _has_features(file: ForeignFile, names: dict[str, str]) -> bool:
    if names.get("features") is not None:
        return True
    there = [name.lower() for name in file.there]
    own = {re.split(r"[_/]", name)[-1] for name in there}
    if "features" in own or any(name.startswith("feature_") for name in there):
        return True
    # Files of features by their kind, if not of scores; whoever reads them says what is wrong.
    scores = [names.get(kind, kind) for kind in ("probs", "logits")]
    of_features = file.path.name.lower().endswith((".npy", ".safetensors"))
    return of_features and not any(name in own or name in file.there for name in scores)


def fitted_out_of_fold(
    training: TrainingRows,
    features: np.ndarray | Standardised,
    observed: np.ndarray,
    head: str,
    *,
    others: Sequence[Callable[[], np.ndarray]] = (),
    progress: Callable[[int, int], None] | None = None,
) -> tuple[OutOfFold, dict[str, Any]]:
    """Heads fitted out of fold, with their settings; a linear one takes the best penalty.

    `features`, (n, d), are standardised, `observed` (n,) the labels to fit; the penalty is that of
    the lowest out-of-fold log loss. With `others`, which make the folds of other divisions, (n,),
    probabilities are means over all. `progress` is told how many fits are done, of how many as far
    as it is known: penalties near the best are fitted again. Raises `TrustqError` where no label
    can be judged.
    """
    tries = len(PENALTIES) if head in ("linear", "balanced") else 0
    count = _Fits(progress, tries + 1, len(others))
    shared = SharedFeatures(features)
    classes = training.cache.classes
    texts: dict[str, Any] = {}
    if text_file(head) is not None:
        # That of the audited rows, by which their features were standardised.
        scale = scale_of(training.cache.features, training.rows)
        texts = text_settings(head, classes=classes, feature_scale=scale)

    def make(settings: dict[str, Any]) -> Head:
        return make_head(head, n_classes=len(classes), **settings, **texts)

    def fit(settings: dict[str, Any], rows: TrainingRows = training) -> FoldFit:
        found = fit_folds(rows, shared, observed[None], make=[lambda: make(settings)])[0]
        count.one_more()
        return _forgetful(found)

    def fit_loosely(settings: dict[str, Any], start: FoldFit | None, tolerance: float) -> FoldFit:
        heads = [make(settings) for _ in left_out]
        fit_heads(
            heads,
            shared,
            np.tile(observed, (len(heads), 1)),
            used=~np.array(left_out),
            start=None if start is None else list(start.fold_heads),
            tolerance=tolerance,
        )
        count.one_more()
        return _forgetful(FoldFit(None, tuple(heads), None))

    def loss(own: FoldFit) -> float:
        if own.out_of_fold is not None:
            found = own.out_of_fold
            return _log_loss(found.logits, found.scorable, observed)
        logits = np.full((len(observed), len(classes)), np.nan)
        scorable = np.zeros(len(observed), dtype=bool)
        for rows, one in zip(left_out, own.fold_heads, strict=True):
            logits[rows] = predict_rows(one, taken(shared.features, np.flatnonzero(rows)))
            scorable[rows] = np.isin(observed[rows], one.seen_classes_)
        return _log_loss(logits, scorable, observed)

    settings: dict[str, Any] = {}
    with one_blas_thread():
        if head in ("linear", "balanced"):
            left_out = _left_out_to_choose(training.fold, observed)
            penalty, found = choose_penalty(
                PENALTIES,
                fit=lambda c, start, tolerance: (
                    fit({"C": c}) if tolerance is None else fit_loosely({"C": c}, start, tolerance)
                ),
                loss=loss,
            )
            settings = {"C": penalty}
        else:
            found = fit({})
        count.chosen()
        made = found.out_of_fold
        assert made is not None  # folds were asked for
        if others:
            # Anew, for every head of another division knows some of the labels left out here.
            again = (fit(settings, dataclasses.replace(training, fold=own())) for own in others)
            made = averaged(training, chain([found], again), observed)
    _require_judged(made.scorable)
    return made, settings


class _Fits:
    """Counts fits: those that choose the penalty, as many as expected or more, and the others."""

    def __init__(self, tell: Callable[[int, int], None] | None, n_choice: int, others: int) -> None:
        self._tell, self._choice, self._others, self._done = tell, n_choice, others, 0
        self._say()

    def one_more(self) -> None:
        self._done += 1
        self._say()

    def chosen(self) -> None:
        self._choice = self._done
        self._say()

    def _say(self) -> None:
        if self._tell is not None:
            self._tell(self._done, max(self._choice + self._others, self._done))


def _require_repeats(asked: int | None) -> None:
    if asked is not None and not 1 <= asked <= MOST_REPEATS:
        raise InputError(
            f"`repeats={asked}`: expected 1 to {MOST_REPEATS} divisions into folds.",
            where="repeats",
            found=asked,
        )


def _n_divisions(asked: int | None, head: str, n_rows: int) -> int:
    """Divisions of rows into folds: as many as asked, or several of few rows for linear heads."""
    if asked is not None or head not in ("linear", "balanced"):
        return asked or 1
    return max(1, min(MANY_REPEATS, REPEATED_ROWS // n_rows))


def _seed_of(seed: int, division: int) -> int:
    return int(generator(seed, "division into folds", division).integers(2**31))


def _left_out_to_choose(fold: np.ndarray, observed: np.ndarray) -> list[np.ndarray]:
    """Which rows the first folds leave out, (n,) each: of as many as leave out enough, or of all.

    Only rows count whose class others than their fold's have too; raises `TrustqError` for none.
    """
    found, n_judged = [], 0
    counts = np.bincount(observed)
    for f in np.unique(fold):
        rows = fold == f
        own = np.bincount(observed[rows], minlength=len(counts))
        found.append(rows)
        n_judged += int(own[own < counts].sum())
        if n_judged >= CHOSEN_BY:
            break
    _require_judged(np.array([n_judged > 0]))
    return found


def _require_judged(scorable: np.ndarray) -> None:
    if not scorable.any():
        raise InputError(
            "No label can be judged, for every class is in one group alone: a model that leaves "
            "the group out does not know the class. Audit with groups that share classes."
        )


def _forgetful(fit: FoldFit) -> FoldFit:
    """The fit without what would quicken another at its own penalty."""
    for own in fit.fold_heads:
        if isinstance(own, LinearHead):
            own.forget()
    return fit


def _log_loss(logits: np.ndarray, scorable: np.ndarray, observed: np.ndarray) -> float:
    rows = np.flatnonzero(scorable)
    of_label = np.empty(len(rows))
    for block in row_blocks(len(rows)):
        own = rows[block]
        of_label[block] = log_softmax(logits[own])[np.arange(len(own)), observed[own]]
    return float(-of_label.mean())
