"""From caches or predictions to the trust table: members, their sources, thresholds, the judging.

Networks are judged by their stored logits; a frozen cache by heads that are fitted as in a repair,
on every draw of noise. Whatever is fitted (temperature, thresholds) is fitted on clean held-out
rows, or cross-fitted by group over the judged ones.
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trustq.calibration.temperature import DegenerateCalibrationWarning, TemperatureScaling
from trustq.core.counts import counted
from trustq.core.digest import digest_json
from trustq.data.splits import group_folds
from trustq.errors import DishonestError, InputError
from trustq.evaluation.conditions import CLEAN, ordered_conditions
from trustq.evaluation.predictions import Predictions
from trustq.evaluation.slices import age_bands, slice_names
from trustq.evaluation.trust_figures import SPECIFICITY
from trustq.evaluation.trust_sources import (
    SOURCES,
    Calibrate,
    Member,
    Outputs,
    Reference,
    Source,
    checked_sources,
    ensemble_sources,
    member_sources,
    require_effect,
)
from trustq.evaluation.trust_table import BASELINE, Cell, TrustRows, TrustTable, trust_table
from trustq.heads.feature_cache import one_blas_thread
from trustq.heads.standardise import scale_of
from trustq.metrics.per_class import class_positions
from trustq.recipes import SweepRecipe
from trustq.repair.arms import parse_arm
from trustq.repair.loop import Loop
from trustq.repair.setup import draw_experiment
from trustq.repair.views import (
    AUGMENTED,
    ViewRows,
    split_companions,
    stored_passes,
    view_names,
    view_positions,
    view_rows,
)
from trustq.store import Cache

EVERY_MEMBER = "all"  # what sources over all networks and heads are of


@dataclass(frozen=True, eq=False)
class Judged:
    """What is judged: members on the same rows, and what these rows are.

    `validation_labels` and `validation_ids` are of the members' held-out clean rows; `columns`
    metadata of the judged rows; `made_of` says what the table came from, for its key.
    """

    members: tuple[Member, ...]
    held_out: tuple[Member, ...]  # the same members on validation rows; empty where there are none
    validation_labels: np.ndarray | None
    labels: np.ndarray
    classes: tuple[str, ...]
    sample_ids: np.ndarray
    groups: np.ndarray | None
    dataset: str
    made_of: tuple[str, ...]
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    validation_ids: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class TrustRun:
    """A trust table with what it is of: `temperatures` by member, `outputs` for the pictures."""

    table: TrustTable
    judged: Judged
    cells: tuple[Cell, ...]
    temperatures: dict[str, float]
    thresholds_from: str
    positive: tuple[str, ...]
    slices: tuple[str, ...]
    replicates: int
    seed: int
    notes: tuple[str, ...]

    @property
    def key(self) -> str:
        """Digest of what was asked and of what; equal tables have equal keys."""
        judged = self.judged
        return digest_json(
            {
                "of": list(judged.made_of),
                "members": [member.name for member in judged.members],
                "conditions": [one.name for one in self.table.conditions],
                "sources": list(self.table.sources),
                "positive": list(self.positive),
                "slices": list(self.slices),
                "thresholds": self.thresholds_from,
                "replicates": self.replicates,
                "seed": self.seed,
            }
        )


def judge(
    judged: Judged,
    *,
    sources: Sequence[str] = tuple(SOURCES),
    positive: Sequence[str] = (),
    slices: Sequence[str] = (),
    ages: str | None = None,
    folds: int | None = None,
    replicates: int = 2000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> TrustRun:
    """Every source of every member under every condition, on all rows and on slices.

    Temperatures and the clean threshold of the `positive` classes come from held-out clean rows;
    with `folds` they are cross-fitted by group over the judged rows. Without either there is no
    temperature, and thresholds are those of the clean judged rows themselves, which a note says.
    `progress` is told how many rows of cells are judged, and of how many.
    Errors: a condition, pass or member that changes nothing, an unknown class or column.
    """
    sources = checked_sources([BASELINE, *sources])
    for member in judged.members:
        require_effect(member)
    chosen = class_positions(judged.classes, positive)
    names = tuple(dict.fromkeys((*slices, *([ages] if ages else []))))
    missing = [name for name in names if name not in judged.columns]
    if missing:
        raise InputError(
            f"There is no column {', '.join(missing)} to slice by: read the predictions with it "
            f"(`columns={','.join(missing)}`)."
        )
    n = len(judged.labels)
    groups = np.arange(n) if judged.groups is None else judged.groups
    fold = None
    if folds is not None:
        fold = group_folds(
            judged.labels,
            np.unique(groups, return_inverse=True)[1].ravel(),
            n_folds=folds,
            seed=seed,
        )
    fitted = _Fitted(judged, fold, chosen)
    cells = list(_cells(judged, fitted, groups, sources))
    rows = TrustRows(
        judged.labels,
        judged.classes,
        judged.groups,
        chosen,
        {
            name: (age_bands if name == ages else slice_names)(judged.columns[name])
            for name in names
        },
    )
    conditions = ordered_conditions(dict.fromkeys(cell.condition for cell in cells))
    table = trust_table(
        rows,
        cells,
        conditions=conditions,
        replicates=replicates,
        seed=seed,
        progress=progress,
    )
    notes = [*judged.notes, *fitted.notes, *_absent(judged, table, sources)]
    if table.left_out:
        notes.append(f"slices of a single group are left out: {', '.join(table.left_out)}")
    return TrustRun(
        table,
        judged,
        tuple(cells),
        fitted.temperatures,
        fitted.origin,
        tuple(judged.classes[c] for c in chosen),
        names,
        replicates,
        seed,
        tuple(notes),
    )


class _Fitted:
    """What is fitted on clean rows: a temperature per member, a threshold per source."""

    def __init__(self, judged: Judged, fold: np.ndarray | None, positive: tuple[int, ...]) -> None:
        self.judged, self.fold, self.positive = judged, fold, positive
        self.notes: list[str] = []
        self.temperatures: dict[str, float] = {}
        self.origin = "held-out clean rows"
        if fold is not None:
            self.origin = f"{counted(int(fold.max()) + 1, 'fold')} by group, cross-fitted"
        elif not judged.held_out:
            self.origin = "the clean judged rows themselves"
            self.notes.append(
                "there are no validation rows: no temperature is fitted, and thresholds are chosen "
                "on the clean rows that they are shown on, which flatters these (`folds=5` "
                "cross-fits both)"
            )

    def calibrate(self, member: Member, held: Member | None) -> Calibrate | None:
        """The temperature of one member, as a map of logits of the judged rows."""
        labels = self.judged.labels
        if self.fold is not None:
            logits = _clean_logits(member)
            fits = [
                self._fit(logits[self.fold != one], labels[self.fold != one], member)
                for one in range(int(self.fold.max()) + 1)
            ]
            scale = np.array(fits)[self.fold][:, None]
            self.temperatures[member.name] = float(np.mean(fits))
            return lambda logits: np.asarray(logits, dtype=np.float64) / scale
        if held is None or self.judged.validation_labels is None:
            return None
        temperature = self._fit(_clean_logits(held), self.judged.validation_labels, member)
        self.temperatures[member.name] = temperature
        return lambda logits: np.asarray(logits, dtype=np.float64) / temperature

    def _fit(self, logits: np.ndarray, labels: np.ndarray, member: Member) -> float:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DegenerateCalibrationWarning)
            scaler = TemperatureScaling().fit(logits, labels)
        for warning in caught:
            note = f"temperature of {member.name}: {warning.message}"
            if note not in self.notes:
                self.notes.append(note)
        return float(scaler.temperature_)

    def threshold(self, clean: Source, held: Source | None) -> np.ndarray | None:
        """Of every judged row, (n,), the threshold of the positive score chosen on clean rows."""
        if not self.positive:
            return None
        judged = self.judged
        truth, score = np.isin(judged.labels, self.positive), self._score(clean.outputs)
        if self.fold is not None:
            of_fold = [
                _threshold(truth[self.fold != one], score[self.fold != one])
                for one in range(int(self.fold.max()) + 1)
            ]
            return np.asarray(np.array(of_fold)[self.fold])
        if held is not None and judged.validation_labels is not None:
            truth = np.isin(judged.validation_labels, self.positive)
            score = self._score(held.outputs)
        return np.full(len(judged.labels), _threshold(truth, score))

    def _score(self, outputs: Outputs) -> np.ndarray:
        return np.asarray(outputs.probs[:, list(self.positive)].sum(axis=1))


def _threshold(truth: np.ndarray, score: np.ndarray) -> float:
    """The smallest score with the specificity wanted, as `sensitivity_at_specificity` takes it."""
    if truth.all() or not truth.any():
        raise InputError(
            f"The positive classes are {'all' if truth.any() else 'none'} of the {len(truth)} rows "
            "that the threshold comes from: sensitivity and specificity need both outcomes."
        )
    negatives = np.sort(score[~truth])
    candidates = np.unique(score)
    reached = negatives.searchsorted(candidates, "left") / len(negatives)
    passing = candidates[reached >= SPECIFICITY - 1e-12]
    return float(passing[0]) if len(passing) else float("inf")


def _cells(judged: Judged, fitted: _Fitted, groups: np.ndarray, wanted: Sequence[str]) -> Any:
    """All cells, those of the clean condition of every source first known for its threshold."""
    conditions = judged.members[0].conditions
    own_wanted = tuple(name for name in wanted)
    for place, member in enumerate(judged.members):
        held = judged.held_out[place] if judged.held_out else None
        calibrate = fitted.calibrate(member, held) if "temperature" in wanted else None
        clean = member_sources(member, CLEAN, calibrate=calibrate, groups=groups, wanted=own_wanted)
        held_sources = _held_sources(held, fitted, member, own_wanted)
        thresholds = _thresholds(fitted, clean, held_sources)
        for condition in conditions:
            found = clean
            if condition != CLEAN:
                found = member_sources(
                    member, condition, calibrate=calibrate, groups=groups, wanted=own_wanted
                )
            for name, source in found.items():
                if name in clean:
                    yield Cell(condition, name, member.name, source, thresholds[name])
    clean = ensemble_sources(judged.members, CLEAN, wanted=own_wanted)
    held_sources = (
        ensemble_sources(judged.held_out, CLEAN, wanted=own_wanted) if judged.held_out else {}
    )
    thresholds = _thresholds(fitted, clean, held_sources)
    for condition in conditions if clean else ():
        for name, source in ensemble_sources(judged.members, condition, wanted=own_wanted).items():
            yield Cell(condition, name, EVERY_MEMBER, source, thresholds[name])


def _held_sources(
    held: Member | None, fitted: _Fitted, member: Member, wanted: Sequence[str]
) -> dict[str, Source]:
    """Sources of held-out rows, for thresholds; those that rank alone share the softmax's."""
    if held is None or not fitted.positive or fitted.fold is not None:
        return {}
    temperature = fitted.temperatures.get(member.name)
    own = [name for name in wanted if name in ("temperature", "passes", "augmentation")]
    return member_sources(
        held,
        CLEAN,
        calibrate=None if temperature is None else lambda logits: logits / temperature,
        groups=np.empty(0),
        wanted=("softmax", *own),
    )


def _thresholds(
    fitted: _Fitted, clean: dict[str, Source], held: dict[str, Source]
) -> dict[str, np.ndarray | None]:
    """One threshold of each outputs, shared by all sources that rank by them."""
    by_outputs: dict[int, np.ndarray | None] = {}
    found: dict[str, np.ndarray | None] = {}
    for name, source in clean.items():
        place = id(source.outputs)
        if place not in by_outputs:
            stem = name.partition("_")[0] if name not in ("ensemble_logits",) else name
            by_outputs[place] = fitted.threshold(source, held.get(stem, held.get("softmax")))
        found[name] = by_outputs[place]
    return found


def _clean_logits(member: Member) -> np.ndarray:
    if member.logits:
        return np.asarray(member.logits[CLEAN], dtype=np.float64)
    return member.outputs(CLEAN).log_probs


def _absent(judged: Judged, table: TrustTable, sources: Sequence[str]) -> list[str]:
    """Notes of sources that were asked for by name and that nothing stored gives."""
    if tuple(sources) == tuple(SOURCES):
        return []
    missing = [name for name in sources if name not in table.sources]
    if not missing:
        return []
    return [
        f"{', '.join(missing)}: nothing that was given has {'it' if len(missing) == 1 else 'them'}"
    ]


# --- from files of predictions --------------------------------------------------------------------


def judged_predictions(
    predictions: Predictions, *, validation: Predictions | None = None
) -> Judged:
    """One member from the predictions of a file: its conditions are the further arrays of it.

    Test rows are judged where there is a split; validation rows are those of `validation`, or of
    the split `val`. Errors: validation rows of other classes.
    """
    test = predictions.take(np.flatnonzero(predictions.judged()))
    held = validation
    if held is None and predictions.split is not None and (predictions.split == "val").any():
        held = predictions.take(np.flatnonzero(predictions.split == "val"))
    if held is not None:
        held = held.with_classes_of(test, "calibrate on the same classes")
    member = _of_predictions(test)
    return Judged(
        members=(member,),
        held_out=()
        if held is None
        else (
            dataclasses.replace(
                _of_predictions(held), probs=_clean_only(_of_predictions(held).probs)
            ),
        ),
        validation_labels=None if held is None else held.labels,
        labels=test.labels,
        classes=test.classes,
        sample_ids=test.sample_ids,
        groups=test.groups,
        dataset=predictions.source,
        made_of=(predictions.source, digest_json([str(x) for x in test.sample_ids.tolist()])),
        columns=test.columns,
        notes=test.notes,
    )


def _of_predictions(rows: Predictions) -> Member:
    if rows.logits is not None and not rows.conditions:
        return Member(rows.source, logits={CLEAN: rows.logits})
    # Conditions of a file are probabilities, so that its clean rows are taken as such as well.
    return Member(rows.source, probs={CLEAN: rows.of_rows()} | rows.conditions)


def _clean_only(probs: Any) -> dict[str, np.ndarray]:
    return {name: own for name, own in probs.items() if name == CLEAN}


# --- from caches ----------------------------------------------------------------------------------


def judged_caches(
    caches: Sequence[Cache],
    *,
    companions: Sequence[Cache] = (),
    sweep: SweepRecipe | None = None,
    conditions: Sequence[str] = ("all",),
    allow_leak: bool = False,
) -> Judged:
    """Members from caches: networks by their logits, or heads on every draw of `sweep`.

    `sweep` says the head (`backbone`: the network itself), its noise, draws and, with one arm and
    budget, the repair whose last round is judged. Test rows of the first cache are judged, and the
    others must hold them. `companions` hold views or passes of these rows. Errors: caches of other
    classes or labels, rows that the network was trained on (unless `allow_leak`), views that are
    not there.
    """
    sweep = sweep or SweepRecipe(head="backbone")
    first = caches[0]
    members: list[Member] = []
    held: list[Member] = []
    notes: list[str] = []
    judged: tuple[np.ndarray, ...] | None = None
    for cache in caches:
        own, _ = split_companions(cache, [one for one in companions if one is not cache])
        _require_same(first, cache)
        found = (
            _network(cache, own, conditions, notes, allow_leak=allow_leak)
            if sweep.head == "backbone"
            else _heads(cache, own, sweep, conditions, notes, allow_leak=allow_leak)
        )
        for member, held_out, ids, validation in found:
            if judged is None:
                judged = (ids, validation)
            elif not (np.array_equal(judged[0], ids) and np.array_equal(judged[1], validation)):
                raise InputError(
                    f"{cache.name} has other test or validation rows than {first.name}, so their "
                    "predictions cannot stand side by side: extract both from one manifest."
                )
            members.append(member)
            if held_out is not None:
                held.append(held_out)
    assert judged is not None
    place = positions_in(first, judged[0])
    labels_of = positions_in(first, judged[1])
    return Judged(
        members=tuple(members),
        held_out=tuple(held),
        validation_labels=first.label[labels_of].astype(np.int64) if held else None,
        labels=first.label[place].astype(np.int64),
        classes=first.classes,
        sample_ids=judged[0],
        groups=first.group_id[place],
        dataset=first.dataset,
        made_of=(
            *(one.content_digest for one in (*caches, *companions)),
            digest_json(dataclasses.asdict(sweep)),
        ),
        notes=tuple(dict.fromkeys(notes)),
        validation_ids=judged[1] if held else None,
    )


_Made = tuple[Member, Member | None, np.ndarray, np.ndarray]


def _network(
    cache: Cache,
    companions: Sequence[Cache],
    conditions: Sequence[str],
    notes: list[str],
    *,
    allow_leak: bool,
) -> list[_Made]:
    """The network of a cache by its stored logits."""
    if cache.logits is None:
        raise InputError(
            f"{cache.name} holds features and no logits, so there is no network to judge: fit a "
            "head on them, e.g. `head=linear`."
        )
    rows = _with_views(cache, _test_rows(cache), companions, notes)
    validation = np.flatnonzero((cache.split == "val") & (cache.label >= 0))
    seen = ~cache.honest_for_any_noise[np.concatenate([rows, validation])]
    if seen.any() and not allow_leak:
        raise DishonestError(
            f"{cache.name}: its backbone was trained on {int(seen.sum())} of the judged and "
            "validation rows, or on others of their groups, so their figures would be in-sample. "
            "`allow_leak` runs it all the same and says so."
        )
    if seen.any():
        notes.append(f"LEAKY: {cache.name} was trained on judged rows or their groups")
    if cache.exposure == "unknown":
        notes.append(f"the exposure of {cache.name} is unknown: figures may be optimistic")
    ids = cache.sample_id[rows]
    wanted = _wanted(cache, companions, conditions)
    views = {name: view_rows(cache, companions, name, ids) for name in wanted}
    train = np.flatnonzero((cache.split == "train") & (cache.label >= 0))
    # Of training rows, without labels; distances are taken on it.
    scale = scale_of(cache.features, train, where=cache.name) if len(train) else None
    features = {CLEAN: cache.features[rows]} | {n: v.features for n, v in views.items()}
    member = Member(
        _member_name(cache),
        logits={CLEAN: cache.logits[rows]}
        | {name: _logits_of(view) for name, view in views.items()},
        passes=_passes(cache, companions, ids, views),
        symmetries=_symmetries(cache, companions, ids),
        augmented=_augmented(cache, companions, ids, lambda view: _logits_of(view)),
        features={} if scale is None else {n: scale.standardise(f) for n, f in features.items()},
        reference=None
        if scale is None
        else Reference(
            scale.standardise(cache.features, train), cache.label[train], cache.group_id[train]
        ),
    )
    held = None
    if len(validation):
        own = cache.sample_id[validation]
        held = Member(
            member.name,
            logits={CLEAN: cache.logits[validation]},
            passes=_passes(cache, companions, own, {}),
            augmented=_augmented(cache, companions, own, lambda view: _logits_of(view)),
        )
    return [(member, held, ids, cache.sample_id[validation])]


def _heads(
    cache: Cache,
    companions: Sequence[Cache],
    sweep: SweepRecipe,
    conditions: Sequence[str],
    notes: list[str],
    *,
    allow_leak: bool,
) -> list[_Made]:
    """A head on the features of a cache for every draw of the recipe."""
    made: list[_Made] = []
    wanted = tuple(_wanted(cache, companions, conditions))
    shared: dict[str, Any] = {}
    for draw in range(sweep.draw_seed, sweep.draw_seed + sweep.draws):
        experiment = draw_experiment(cache, sweep=sweep, draw_seed=draw, allow_leak=allow_leak)
        rows = _with_views(cache, view_positions(experiment), companions, notes)
        ids = cache.sample_id[rows]
        if "views" not in shared:
            shared["views"] = [view_rows(cache, companions, name, ids) for name in wanted]
            shared["features"] = {CLEAN: experiment.features[rows]} | {
                view.name: experiment.standardise(view.features) for view in shared["views"]
            }
            shared["reference"] = Reference(
                experiment.features[experiment.rows],
                experiment.labels,
                cache.group_id[experiment.rows],
            )
        notes += [note.rstrip(".") for note in experiment.notes]
        loop = Loop(experiment, sweep)
        head = _fitted_head(loop, sweep)
        validation = experiment.validation

        def logits(view: ViewRows, loop: Loop = loop, head: Any = head) -> np.ndarray:
            return loop.view_logits(head, view)

        name = f"{_member_name(cache)}, {sweep.head}, draw {draw}"
        member = Member(
            name,
            logits={CLEAN: head.predict_logits(experiment.features[rows])}
            | {view.name: logits(view) for view in shared["views"]},
            augmented=_augmented(cache, companions, ids, logits),
            features=shared["features"],
            reference=shared["reference"],
        )
        held = None
        if len(validation):
            held = Member(
                name,
                logits={CLEAN: head.predict_logits(experiment.features[validation])},
                augmented=_augmented(cache, companions, cache.sample_id[validation], logits),
            )
        made.append((member, held, ids, cache.sample_id[validation]))
    return made


def _fitted_head(loop: Loop, sweep: SweepRecipe) -> Any:
    """The head of the last round of the recipe's one arm and budget, or of no repair."""
    arms = [parse_arm(text) for text in sweep.arms]
    if len(arms) != 1 or len(sweep.budgets) != 1:
        raise InputError(
            "The table judges one arm and one budget, and the recipe names "
            f"{counted(len(arms), 'arm')} and {counted(len(sweep.budgets), 'budget')}: name one of "
            "each."
        )
    arm = arms[0]
    with one_blas_thread():
        state = loop.round_zero([arm])
        if arm.score != "none":
            budget = loop.budget(arm, sweep.budgets[0])
            state = list(loop.rounds(arm, state, budget=budget))[-1]
    return state.head


def _wanted(cache: Cache, companions: Sequence[Cache], conditions: Sequence[str]) -> list[str]:
    if not conditions:
        return []
    has_any = any(set(one.views) - set(AUGMENTED) for one in (cache, *companions))
    if list(conditions) == ["all"] and not has_any:
        return []
    return view_names(cache, companions, conditions)


def _passes(
    cache: Cache, companions: Sequence[Cache], ids: np.ndarray, views: dict[str, ViewRows]
) -> dict[str, np.ndarray]:
    found = {name: view.passes for name, view in views.items() if view.passes is not None}
    clean = stored_passes(cache, companions, ids)
    return found if clean is None else {CLEAN: clean} | found


def _symmetries(
    cache: Cache, companions: Sequence[Cache], ids: np.ndarray
) -> dict[str, np.ndarray]:
    for name in AUGMENTED:
        found = stored_passes(cache, companions, ids, name)
        if found is not None:
            return {CLEAN: found}
    return {}


def _augmented(
    cache: Cache, companions: Sequence[Cache], ids: np.ndarray, logits_of: Any
) -> dict[str, np.ndarray]:
    for name in AUGMENTED:
        for one in (cache, *companions):
            if name in one.views and np.isin(ids, one.sample_id).all():
                return {CLEAN: logits_of(view_rows(cache, companions, name, ids))}
    return {}


def _logits_of(view: ViewRows) -> np.ndarray:
    if view.logits is None:
        raise InputError(f"The view {view.name} holds no logits: fit a head, e.g. `head=linear`.")
    return view.logits


def _with_views(
    cache: Cache, rows: np.ndarray, companions: Sequence[Cache], notes: list[str]
) -> np.ndarray:
    """Of the test rows those that every companion has, which a note says where it is not all."""
    kept = rows
    for one in companions:
        kept = kept[np.isin(cache.sample_id[kept], one.sample_id)]
    if not len(kept):
        raise InputError(
            f"The caches of views hold none of the {len(rows)} test rows of {cache.name}: extract "
            f"views of these, `trustq extract` with `with={cache.name}`."
        )
    if len(kept) < len(rows):
        notes.append(f"judged on the {len(kept)} of {len(rows)} test rows that have views")
    return kept


def _test_rows(cache: Cache) -> np.ndarray:
    for split in ("test", "external"):
        rows = np.flatnonzero((cache.split == split) & (cache.label >= 0))
        if len(rows):
            return rows
    raise InputError(f"{cache.name} has no labelled test rows to judge.")


def positions_in(cache: Cache, ids: np.ndarray) -> np.ndarray:
    """Rows of a cache that have these ids, all of which it holds."""
    order = np.argsort(cache.sample_id)
    return np.asarray(order[np.searchsorted(cache.sample_id, ids, sorter=order)])


def _require_same(first: Cache, cache: Cache) -> None:
    if cache.classes != first.classes:
        raise InputError(
            f"{cache.name} has the classes {', '.join(cache.classes)} and {first.name} "
            f"{', '.join(first.classes)}: judge networks of the same classes."
        )


def _member_name(cache: Cache) -> str:
    return f"seed {cache.backbone_seed}"
