"""The failure audit: which rows to look at, what may be behind each, and how causes are spread."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trustq.audit.neighbours import nearest
from trustq.calibration.temperature import TemperatureScaling
from trustq.core.counts import counted
from trustq.core.generators import generator
from trustq.errors import InputError
from trustq.explain.causes import NAMES, RuleTest, Signs, causes_of, centred_share, rule_tests
from trustq.explain.variants import RowMaps, require_same_rows, row_maps
from trustq.metrics.probabilities import softmax
from trustq.metrics.selective import log_odds_confidence
from trustq.store import Cache

KINDS = {
    "confident error": "wrong, with the highest confidence",
    "uncertain correct": "right, with the lowest confidence",
    "unstable": "maps that move most between passes, views or seeds",
    "disagreement": "networks of different seeds predict different classes",
    "random": "a random sample, for comparison",
}
NEIGHBOURS = 5
TOP = 3


@dataclass(frozen=True)
class Neighbour:
    """A training row near a case: its id, label, and distance in feature space."""

    sample_id: str
    label: str
    distance: float


@dataclass(frozen=True)
class Case:
    """One row to look at, and all that is known of it."""

    kind: str
    row: int
    sample_id: str
    group: str
    label: str  # empty where there is none
    predicted: str
    top: tuple[tuple[str, float], ...]  # classes and calibrated probabilities
    confidence_before: float  # before temperature
    confidence_after: float
    stability: float | None
    cause: str  # empty where the prediction is right
    signs: dict[str, float | None]
    neighbours: tuple[Neighbour, ...]
    metadata: dict[str, Any]
    by_seed: tuple[str, ...]  # classes predicted by each network


@dataclass(frozen=True)
class FailureAudit:
    """All cases by kind, the causes of all errors and where they occur, and the rules' test."""

    dataset: str
    split: str
    classes: tuple[str, ...]
    n_rows: int
    n_errors: int
    temperature: float
    n_validation: int
    method: str
    stability_of: str  # what the maps were compared over; empty where they were not
    cases: tuple[Case, ...]
    counts: dict[str, list[dict[str, Any]]]  # tables of causes: by class, domain, tone, direction
    rules: tuple[RuleTest, ...]
    maps: np.ndarray = field(repr=False)  # (n, h, w) of the audited rows
    rows: np.ndarray = field(repr=False)  # their positions in the cache
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class AuditInput:
    """What the audit may use besides the caches; all but `measures` by position in the first one.

    `measures` gives arrays of `edge_strength`, `mean_grey` and `contrast` for positions;
    `stability` is (n,), higher is more stable; `listed` (n,) of flags of a label audit.
    """

    measures: Callable[[np.ndarray], Mapping[str, np.ndarray]] | None = None
    stability: np.ndarray | None = None
    stability_of: str = ""
    listed: np.ndarray | None = None
    training: Cache | None = None  # rows to look for neighbours among; None: the first cache's own
    metadata: Mapping[str, np.ndarray] = field(default_factory=dict)
    positive: tuple[int, ...] = ()  # classes that count as one, for false negatives


def audit_failures(
    caches: Sequence[Cache],
    *,
    given: AuditInput | None = None,
    split: str = "test",
    k: int = 12,
    method: str = "auto",
    seed: int = 0,
) -> FailureAudit:
    """Audit the errors of a split by the first network; others tell where seeds disagree.

    The temperature is fitted on the validation rows of the first cache, and where there are none
    confidence is as the network gives it. Raises `TrustqError` for a split without labelled rows,
    caches without logits or maps, and caches of other rows.

    Where all rows are right there are no errors to audit, which the notes say; the other kinds are
    listed still.
    """
    given = given or AuditInput()
    first = caches[0]
    for cache in caches[1:]:
        require_same_rows(first, cache)
    if first.logits is None:
        raise InputError(
            f"{first.name} has no logits, so nothing is predicted that could fail. Use a network "
            "with a classifier."
        )
    rows = np.flatnonzero((first.split == split) & (first.label >= 0))
    if not len(rows):
        has = ", ".join(sorted(set(first.split.tolist())))
        raise InputError(
            f"{first.name} has no labelled rows of split {split!r}; it has {has}.", where="split"
        )
    maps = row_maps(first, method=method)
    scaler, n_validation, notes = _temperature(first)
    logits = first.logits if scaler is None else scaler.transform(first.logits)
    found = _Rows(
        first,
        rows,
        maps,
        softmax(logits),
        softmax(first.logits),
        log_odds_confidence(logits),
        np.stack([_predicted(cache) for cache in caches]),
    )
    signs = _signs(found, given)
    errors = found.predicted[rows] != first.label[rows]
    causes = causes_of(signs)
    if not errors.any():
        notes.append(
            f"Of {counted(len(rows), 'row')} of {split} none is wrong: there is no error to explain"
        )
    if given.listed is None:
        notes.append("No label audit was given, so no error is called a suspected label error")
    if given.measures is None:
        notes.append("No images were given, so blur and light are not measured")
    absent = [n for j, n in enumerate(first.classes) if not (first.label[rows] == j).any()]
    if absent:
        notes.append(f"No row of {split} has the label {', '.join(absent)}")
    chosen = _chosen(found, given, errors, k=k, seed=seed)
    near = _Neighbours(given.training or first, first)
    cases = [
        _case(kind, place, found, given, signs, causes, errors, near)
        for kind, places in chosen.items()
        for place in places
    ]
    tests = rule_tests(signs, errors, first.group_id[rows], seed=seed) if errors.any() else []
    return FailureAudit(
        dataset=first.dataset,
        split=split,
        classes=first.classes,
        n_rows=len(rows),
        n_errors=int(errors.sum()),
        temperature=1.0 if scaler is None else float(scaler.temperature_),
        n_validation=n_validation,
        method=maps.method,
        stability_of=given.stability_of,
        cases=tuple(cases),
        counts=_counts(found, given, errors, causes),
        rules=tuple(tests),
        maps=maps.maps[rows],
        rows=rows,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Rows:
    """The first network's rows and outputs; `rows` are the audited positions."""

    cache: Cache
    rows: np.ndarray
    maps: RowMaps
    probs: np.ndarray  # (n, k), calibrated
    raw: np.ndarray  # (n, k), before temperature
    ranking: np.ndarray  # (n,) log-odds
    by_seed: np.ndarray  # (s, n)

    @property
    def predicted(self) -> np.ndarray:
        return np.asarray(self.by_seed[0])


def _predicted(cache: Cache) -> np.ndarray:
    if cache.logits is None:
        raise InputError(f"{cache.name} has no logits, so its network predicts nothing.")
    return np.asarray(cache.logits.argmax(axis=1))


def _temperature(cache: Cache) -> tuple[TemperatureScaling | None, int, list[str]]:
    assert cache.logits is not None
    rows = np.flatnonzero((cache.split == "val") & (cache.label >= 0))
    if not len(rows):
        note = (
            "The cache holds no labelled validation rows, so confidence is as the network gives it"
        )
        return None, 0, [note]
    labels = cache.label[rows].astype(np.int64)
    if (cache.logits[rows].argmax(axis=1) == labels).all():
        return None, 0, ["All validation rows are right, so no temperature was fitted"]
    return TemperatureScaling().fit(cache.logits[rows], labels), len(rows), []


def _signs(found: _Rows, given: AuditInput) -> Signs:
    n = len(found.rows)
    unknown = np.full(n, np.nan)
    measured: Mapping[str, np.ndarray] = given.measures(found.rows) if given.measures else {}
    return Signs(
        edge_strength=np.asarray(measured.get("edge_strength", unknown)),
        brightness=np.asarray(measured.get("mean_grey", unknown)) / 255,
        contrast=np.asarray(measured.get("contrast", unknown)) / 255,
        centred=centred_share(found.maps.maps[found.rows]),
        is_listed=None if given.listed is None else given.listed[found.rows],
    )


def _chosen(
    found: _Rows, given: AuditInput, errors: np.ndarray, *, k: int, seed: int
) -> dict[str, list[int]]:
    """Places among the audited rows of each kind, at most k; ties by sample id."""
    rows = found.rows
    ids = found.cache.sample_id[rows]
    ranking = found.ranking[rows]

    def first(order: np.ndarray, among: np.ndarray) -> list[int]:
        places = np.flatnonzero(among)
        return [int(p) for p in places[np.lexsort((ids[places], order[places]))][:k]]

    chosen = {
        "confident error": first(-ranking, errors),
        "uncertain correct": first(ranking, ~errors),
    }
    if given.stability is not None:
        stability = given.stability[rows]
        chosen["unstable"] = first(stability, ~np.isnan(stability))
    if len(found.by_seed) > 1:
        own = found.by_seed[:, rows]
        chosen["disagreement"] = first(-ranking, (own != own[0]).any(axis=0))
    drawn = generator(seed, "random cases").permutation(len(rows))[:k]
    chosen["random"] = sorted(drawn.tolist())
    return chosen


class _Neighbours:
    """Training rows near others, by the standardised features of one network."""

    def __init__(self, training: Cache, cache: Cache) -> None:
        self._training = training
        rows = np.flatnonzero((training.split == "train") & (training.label >= 0))
        fits = training.features.shape[1] == cache.features.shape[1]
        self._rows = rows if fits and training.weights_digest == cache.weights_digest else rows[:0]
        if len(self._rows):
            own = training.features[self._rows]
            self._mean, self._spread = own.mean(axis=0), own.std(axis=0) + 1e-6
            self._own = ((own - self._mean) / self._spread).astype(np.float32)
            names = training.group_id[self._rows].astype(str)
            known, codes = np.unique(names, return_inverse=True)
            self._codes = {name: code for code, name in enumerate(known.tolist())}
            self._groups = codes.ravel()
        self._cache = cache

    def of(self, row: int) -> tuple[Neighbour, ...]:
        """The nearest training rows of other groups; none where there are no such features."""
        if len(self._rows) <= NEIGHBOURS:
            return ()
        point = ((self._cache.features[row] - self._mean) / self._spread).astype(np.float32)
        own = self._codes.get(str(self._cache.group_id[row]), len(self._codes))
        groups = np.append(self._groups, own)
        features = np.vstack([self._own, point[None]])
        found = nearest(features, groups, rows=np.array([len(self._own)]), k=NEIGHBOURS)
        training = self._training
        return tuple(
            Neighbour(
                str(training.sample_id[self._rows[near]]),
                training.classes[training.label[self._rows[near]]],
                float(distance),
            )
            for near, distance in zip(found.rows[0], found.distances[0], strict=True)
        )


def _case(
    kind: str,
    place: int,
    found: _Rows,
    given: AuditInput,
    signs: Signs,
    causes: np.ndarray,
    errors: np.ndarray,
    near: _Neighbours,
) -> Case:
    row = int(found.rows[place])
    cache, probs = found.cache, found.probs[row]
    top = np.argsort(-probs, kind="stable")[:TOP]
    names = {
        "edge_strength": signs.edge_strength,
        "brightness": signs.brightness,
        "contrast": signs.contrast,
        "centred": signs.centred,
    }
    predicted = int(found.predicted[row])
    stability = None if given.stability is None else _known(given.stability[row])
    return Case(
        kind=kind,
        row=row,
        sample_id=str(cache.sample_id[row]),
        group=str(cache.group_id[row]),
        label=cache.classes[cache.label[row]],
        predicted=cache.classes[predicted],
        top=tuple((cache.classes[j], float(probs[j])) for j in top),
        confidence_before=float(found.raw[row, predicted]),
        confidence_after=float(probs[predicted]),
        stability=stability,
        cause=str(causes[place]) if errors[place] else "",
        signs={name: _known(values[place]) for name, values in names.items()},
        neighbours=near.of(row),
        metadata={name: _plain(values[row]) for name, values in given.metadata.items()},
        by_seed=tuple(cache.classes[j] for j in found.by_seed[:, row]),
    )


def _counts(
    found: _Rows, given: AuditInput, errors: np.ndarray, causes: np.ndarray
) -> dict[str, list[dict[str, Any]]]:
    """Tables of causes over all errors; false negatives and false positives apart."""
    cache, rows = found.cache, found.rows
    label, predicted = cache.label[rows], found.predicted[rows]
    names = np.array(cache.classes, dtype=object)
    counts = {
        "label (false negatives)": _table(names[label], errors, causes),
        "predicted class (false positives)": _table(names[predicted], errors, causes),
    }
    if given.positive:
        is_positive, said = np.isin(label, given.positive), np.isin(predicted, given.positive)
        way = np.full(len(rows), "within one side", dtype=object)
        way[is_positive & ~said] = "false negative"
        way[~is_positive & said] = "false positive"
        title = f"direction ({', '.join(cache.classes[j] for j in given.positive)} positive)"
        counts[title] = _table(way, errors, causes)
    for name, values in given.metadata.items():
        own = np.array([_plain(value) for value in values[rows]], dtype=object)
        shown = np.array(["unknown" if v in (None, "") else str(v) for v in own], dtype=object)
        if len(set(shown.tolist())) <= 20:
            counts[name] = _table(shown, errors, causes)
    return counts


def _table(values: np.ndarray, errors: np.ndarray, causes: np.ndarray) -> list[dict[str, Any]]:
    table = []
    for value in sorted(set(values.tolist())):
        own = values == value
        row: dict[str, Any] = {"value": value, "rows": int(own.sum())}
        row["errors"] = int((own & errors).sum())
        row |= {name: int((own & errors & (causes == name)).sum()) for name in NAMES}
        table.append(row)
    return table


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and np.isnan(value):
        return None
    return value
