"""What an experiment starts from: rows, observed labels, folds; refused where dishonest."""

from dataclasses import dataclass

import numpy as np

from trustq.core.counts import counted, verb
from trustq.core.generators import generator
from trustq.data.noise import Start, observe_labels, parse_noise, trust_some
from trustq.data.row_weights import DomainBalance
from trustq.data.splits import group_folds, split_by_group, thin_classes
from trustq.errors import DishonestError, InputError
from trustq.heads.out_of_fold import TrainingRows
from trustq.heads.standardise import (
    Scale,
    Standardised,
    on_scale,
    require_finite,
    scale_of,
    taken,
)
from trustq.recipes import SweepRecipe
from trustq.recipes.schema import AS_GIVEN
from trustq.repair.human_answers import answers_are_truth, as_answered
from trustq.repair.metadata import balance_of, fitted_rows
from trustq.repair.relabelling import pose
from trustq.repair.settings import trusted_share
from trustq.store import Cache
from trustq.store.format import SEEN_OBSERVED, SEEN_REFERENCE

UNSEEN_SPLIT_SEED = 0  # `--rows unseen` re-splits once per cache, not once per draw


@dataclass(frozen=True)
class Experiment:
    """What every arm of one cache and draw seed starts from."""

    cache: Cache
    draw_seed: int
    training: TrainingRows
    labels: np.ndarray  # (n,) reference labels of the training rows
    start: Start
    noise: str  # as reported, e.g. "stored (symmetric:0.2)"
    noise_process: str | None  # digest of the noise matrix; None for stored labels
    trusted: float  # share asked for
    leaky: bool
    validation: np.ndarray  # positions in the cache
    evaluation: dict[str, np.ndarray]  # split -> positions; empty when there is no held-out split
    center: np.ndarray  # (d,) of the training rows' features
    scale: np.ndarray  # (d,)
    features: np.ndarray | Standardised  # (all rows, d), standardised
    notes: tuple[str, ...]
    balance: DomainBalance | None = None  # of the training rows; None: they all weigh the same
    validation_observed: np.ndarray | None = None  # labels of validation rows; None: the clean ones
    validation_matrix: np.ndarray | None = None  # true to observed, where these are corrected

    @property
    def rows(self) -> np.ndarray:
        """Positions of the training rows in the cache."""
        return self.training.rows

    @property
    def validation_labels(self) -> np.ndarray:
        """Labels of the validation rows that choose and calibrate, clean or with noise."""
        if self.validation_observed is not None:
            return self.validation_observed
        return np.asarray(self.cache.label[self.validation].astype(np.int64))

    @property
    def of_training(self) -> Scale:
        """The scale of the training rows."""
        return Scale(self.center, self.scale)

    @property
    def training_features(self) -> np.ndarray | Standardised:
        """Standardised features of the training rows, (n, d)."""
        return taken(self.features, self.rows)

    @property
    def sample_ids(self) -> np.ndarray:
        """Ids of the training rows."""
        return np.asarray(self.cache.sample_id[self.rows])

    @property
    def n_wrong(self) -> int:
        """Wrong labels at the start, after the trusted ones were corrected."""
        return int((self.start.observed != self.labels).sum())

    def standardise(self, features: np.ndarray) -> np.ndarray:
        """Other rows' features, (m, d), on the scale of the training rows, as float32."""
        return self.of_training.standardise(features)

    def standardised(self, features: np.ndarray, rows: np.ndarray) -> np.ndarray | Standardised:
        """Some of other rows, (m,) of positions; made when asked for where memory is short."""
        return on_scale(features, self.of_training, rows)


def draw_experiment(
    cache: Cache, *, sweep: SweepRecipe, draw_seed: int, allow_leak: bool = False
) -> Experiment:
    """Choose rows, draw noise, trusted start and folds for one cache and seed.

    Raises `TrustqError` when the cache's exposure makes the noise dishonest (unless `allow_leak`),
    when stored labels are asked for and there are none, or when rows lack reference labels.
    """
    cache = pose(cache, (), sweep=sweep).cache  # as it is, where it has the target's labels already
    notes: list[str] = []
    if answers_are_truth(sweep):
        cache, notes = as_answered(cache, sweep=sweep)
    split = _fitted_on(cache, _splits(cache, sweep, notes), sweep, notes)
    rows = np.flatnonzero(split == "train")
    labels = cache.label[rows].astype(np.int64)
    if not len(rows):
        raise InputError(f"{cache.name} has no training rows to repair.")
    if n := int((labels < 0).sum()):
        raise InputError(
            f"{cache.name}: {counted(n, 'training row')} {verb(n, 'has', 'have')} no reference "
            "label, so a repair of them cannot be simulated: leave these rows out, or label them."
        )
    spec = _noise_spec(cache, rows, sweep, notes)
    require_finite(cache.features, where=cache.name)
    # Of the training rows alone, without labels, and so shared by all folds.
    scale = scale_of(cache.features, rows)
    begun = _begin(cache, rows, labels, spec, sweep, draw_seed, scale)
    start = begun.start
    held_out = np.flatnonzero(np.isin(split, ("val", "test", "external")) & (cache.label >= 0))
    leaky = _require_honest(cache, rows, spec, allow_leak=allow_leak)
    leaky |= _require_unseen_evaluation(cache, held_out, allow_leak=allow_leak)
    notes += _exposure_notes(cache, leaky)
    groups = np.unique(cache.group_id[rows], return_inverse=True)[1]
    if len(groups) == groups.max(initial=0) + 1:
        notes.append("Every row is its own group: relatives of a row may be in other folds.")
    fold = group_folds(start.observed, groups, n_folds=sweep.folds, seed=draw_seed)
    for c, n_groups in thin_classes(start.observed, groups, n_folds=sweep.folds).items():
        notes.append(
            f"Class {cache.classes[c]} has {counted(n_groups, 'group')} for {sweep.folds} folds."
        )
    validation = np.flatnonzero((split == "val") & (cache.label >= 0))
    evaluation = _evaluated_rows(cache, split, notes)
    return Experiment(
        cache=cache,
        draw_seed=draw_seed,
        training=TrainingRows(cache, rows, groups, fold),
        labels=labels,
        start=start,
        noise=begun.noise,
        noise_process=begun.process,
        trusted=begun.trusted,
        leaky=leaky,
        validation=validation,
        evaluation=evaluation,
        center=scale.center,
        scale=scale.spread,
        features=on_scale(cache.features, scale),
        notes=tuple(notes),
        balance=balance_of(cache, rows, sweep=sweep),
        **_noisy_validation(cache, validation, begun.noise, sweep, draw_seed, scale),
    )


def _exposure_notes(cache: Cache, leaky: bool) -> list[str]:
    notes = []
    if leaky:
        notes.append("LEAKY: the backbone was trained on labels of these rows (`allow_leak`).")
    if cache.exposure == "unknown":
        notes.append(
            "The exposure of this cache is unknown: whether its backbone saw these labels was not "
            "stated, so every figure may be optimistic."
        )
    return notes


def _evaluated_rows(cache: Cache, split: np.ndarray, notes: list[str]) -> dict[str, np.ndarray]:
    """The labelled rows of each split that is evaluated; notes tell which are not there."""
    evaluation = {
        name: found
        for name in ("val", "test", "external")
        if len(found := np.flatnonzero((split == name) & (cache.label >= 0)))
    }
    if not set(evaluation) & {"test", "external"}:
        notes.append("There are no test rows: figures are of out-of-fold predictions of all rows.")
    if "val" not in evaluation:
        notes.append(
            "There are no validation rows: calibrated figures are left out, never fitted on test."
        )
    return evaluation


def _noisy_validation(
    cache: Cache,
    validation: np.ndarray,
    noise: str,
    sweep: SweepRecipe,
    draw_seed: int,
    scale: Scale,
) -> dict[str, np.ndarray]:
    """Labels of validation rows with noise of their own draw, and its matrix where it is used."""
    asked, _, how = sweep.validation_noise.partition(",")
    if not asked:
        return {}
    if how not in ("", "corrected"):
        raise InputError(
            f"validation_noise is {sweep.validation_noise!r}: expected a noise, alone or with "
            "',corrected'.",
            where="validation_noise",
            found=sweep.validation_noise,
        )
    if not len(validation):
        raise InputError(
            f"validation_noise is {asked!r}, and {cache.name} has no validation rows: leave it out."
        )
    spec = noise if asked == "same" else asked
    if spec.startswith("stored") or spec == "none":
        raise InputError(
            f"validation_noise={asked}: the training noise is {noise!r}, which cannot be drawn for "
            "other rows. Name one that can, e.g. `validation_noise=symmetric:0.2`."
        )
    drawn = observe_labels(
        spec,
        cache.label[validation].astype(np.int64),
        classes=cache.classes,
        seed=int(generator(draw_seed, "validation noise").integers(2**31)),
        features=Standardised(cache.features, validation, scale),
        sample_ids=cache.sample_id[validation],
        groups=cache.group_id[validation] if sweep.noise_unit == "group" else None,
    )
    found = {"validation_observed": np.asarray(drawn.labels, dtype=np.int64)}
    if how:
        found["validation_matrix"] = parse_noise(spec, classes=cache.classes).matrix
    return found


def _fitted_on(cache: Cache, split: np.ndarray, sweep: SweepRecipe, notes: list[str]) -> np.ndarray:
    """Splits in which training and validation rows are those that heads are to be fitted on."""
    inside = np.isin(split, ("train", "val"))
    left_out = inside & ~fitted_rows(cache, sweep=sweep)
    if not left_out.any():
        return split
    notes.append(
        f"Fitted on {sweep.fit_on}: {int((inside & ~left_out).sum())} of {int(inside.sum())} "
        "training and validation rows; test rows stay whole."
    )
    return np.where(left_out, "", split)


def _splits(cache: Cache, sweep: SweepRecipe, notes: list[str]) -> np.ndarray:
    if sweep.rows == "split":
        return cache.split
    if cache.exposure == "unknown":
        raise InputError(
            f"{cache.name}: its exposure is unknown, so which rows its backbone has not seen is "
            "unknown too. State it with `trustq cache import` and `exposure`."
        )
    # Groups of which the backbone saw no label are honest for any noise; they are split anew.
    honest = cache.honest_for_any_noise & (cache.label >= 0) & (cache.split != "external")
    unseen = np.flatnonzero(honest)
    if not len(unseen):
        raise InputError(
            f"{cache.name}: the backbone was trained on a label of every group, so no rows are "
            "unseen. Extract with fewer training rows, or use `noise=stored`."
        )
    split = np.where(cache.split == "external", "external", "").astype("<U8")
    part = split_by_group(cache.label[unseen], cache.group_id[unseen], seed=UNSEEN_SPLIT_SEED)
    split[unseen] = np.array(["train", "val", "test"])[part]
    notes.append(
        f"{len(unseen):,} of {len(cache):,} rows are unseen and were split anew, 70/15/15."
    )
    return split


def _noise_spec(cache: Cache, rows: np.ndarray, sweep: SweepRecipe, notes: list[str]) -> str:
    if answers_are_truth(sweep):
        return "stored"
    if sweep.noise != "auto":
        return sweep.noise
    there = cache.observed[rows] >= 0
    if there.all() and (cache.observed[rows] != cache.label[rows]).any():
        return "stored"
    if there.any() and not there.all():
        raise InputError(
            f"{cache.name} stores observed labels for {int(there.sum())} of its {len(rows)} "
            "training rows. Give all of them, or choose a noise, e.g. `noise=symmetric:0.2`."
        )
    notes.append("No noise was stated and none is stored: simulated symmetric:0.2.")
    return "symmetric:0.2"


@dataclass(frozen=True)
class _Beginning:
    start: Start
    noise: str  # as reported
    process: str | None  # digest of the noise process; None for stored labels
    trusted: float


def _begin(
    cache: Cache,
    rows: np.ndarray,
    labels: np.ndarray,
    spec: str,
    sweep: SweepRecipe,
    draw_seed: int,
    scale: Scale,
) -> _Beginning:
    share, strata = trusted_share(sweep.trusted), sweep.trusted_strata
    if spec != "stored":
        if sweep.trusted == "stored":
            raise InputError("`trusted=stored` goes with `noise=stored`: both are of one draw.")
        drawn = observe_labels(
            spec,
            labels,
            classes=cache.classes,
            seed=draw_seed,
            features=Standardised(cache.features, rows, scale),
            sample_ids=cache.sample_id[rows],
            groups=cache.group_id[rows] if sweep.noise_unit == "group" else None,
        )
        start = trust_some(labels, drawn.labels, trusted=share, seed=draw_seed, strata=strata)
        return _Beginning(start, spec, drawn.process, share)
    if sweep.noise_unit == "group":
        raise InputError(
            "`noise_unit=group` is of noise that is drawn; stored labels are as they are."
        )
    observed = cache.observed[rows].astype(np.int64)
    if (observed < 0).any():
        raise InputError(
            f"{cache.name} stores no observed labels for {int((observed < 0).sum())} of its "
            f"{len(rows)} training rows. Choose a noise, e.g. `noise=symmetric:0.2`."
        )
    name = f"stored ({cache.noise.get('spec', 'of the file')})"
    if answers_are_truth(sweep):
        name = AS_GIVEN
    stored = cache.trusted[rows]
    if sweep.trusted in ("stored", "auto"):
        rate = float(cache.noise.get("rate", (observed != labels).mean()))
        start = Start(observed, stored.copy(), rate)
        return _Beginning(start, name, None, float(cache.noise.get("trusted", 0.0)))
    if stored.any():
        raise InputError(
            f"{cache.name} was trained with {counted(int(stored.sum()), 'trusted label')}; with "
            "`noise=stored` the trusted start is its own (`trusted=stored`)."
        )
    start = trust_some(labels, observed, trusted=share, seed=draw_seed, strata=strata)
    return _Beginning(start, name, None, share)


def _require_honest(cache: Cache, rows: np.ndarray, spec: str, *, allow_leak: bool) -> bool:
    """Whether the backbone was trained on other labels of these rows; refused unless allowed."""
    tainted = _tainted(cache, rows, spec)
    if not tainted.any() or allow_leak:
        return bool(tainted.any())
    raise DishonestError(
        f"{cache.name} is {cache.exposure}: its backbone was trained on other labels of "
        f"{int(tainted.sum())} of the {len(rows)} training rows (or of their groups), so noise "
        f"{spec!r} put on them now would already be known to the features.\n"
        "Use its own noise (`noise=stored`), rows it never saw (`rows=unseen`), a frozen cache, or "
        "extract with this noise; `allow_leak` runs it all the same and marks every row."
    )


def _tainted(cache: Cache, rows: np.ndarray, spec: str) -> np.ndarray:
    seen, observed, label = cache.seen[rows], cache.observed[rows], cache.label[rows]
    saw_truth = (seen & SEEN_REFERENCE) != 0
    saw_observed = (seen & SEEN_OBSERVED) != 0
    if spec == "stored":
        # Honest for what the backbone was trained on; not where it was given the truth instead.
        return np.asarray(saw_truth & (observed != label))
    tainted = ~cache.honest_for_any_noise[rows]
    if spec == "none":
        # The clean upper bound, where the backbone was trained on the same clean labels.
        same = np.where(saw_observed, observed == label, True)
        return np.asarray(tainted & ~(same & (saw_truth | saw_observed)))
    return np.asarray(tainted)


def _require_unseen_evaluation(cache: Cache, held_out: np.ndarray, *, allow_leak: bool) -> bool:
    """Whether rows to be evaluated or calibrated on, or their groups, were trained on."""
    known = ~cache.honest_for_any_noise[held_out]
    if not known.any() or allow_leak:
        return bool(known.any())
    raise DishonestError(
        f"{cache.name}: its backbone was trained on {int(known.sum())} of the {len(held_out)} "
        "validation, test and external rows (or on others of their groups), so their figures would "
        "be in-sample. Leave them out, or `allow_leak` runs it all the same and marks every row."
    )
