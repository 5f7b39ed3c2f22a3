"""The repair loop: score, buy, relabel, fit again, measure; every arm from the same round 0."""

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from trustq.calibration import DegenerateCalibrationWarning, TemperatureScaling
from trustq.errors import TrustqError
from trustq.heads import Head, SharedFeatures, make_head
from trustq.heads.boosted import PRESETS
from trustq.heads.out_of_fold import (
    FoldFit,
    OutOfFold,
    accept_in_sample,
    fit_folds,
    read_crossfit,
)
from trustq.metrics import summarise
from trustq.probabilities import log_softmax
from trustq.recipes import SweepRecipe
from trustq.repair.arms import Arm, round_sizes
from trustq.repair.experiment import Experiment
from trustq.scoring import label_quality
from trustq.seeds import generator
from trustq.store import Cache

# scikit-learn's C for standardised features; the one with the lowest log loss is taken.
REGULARISATION_GRID = (1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Evaluated:
    """One set of rows that was predicted: logits before and after temperature, and the figures."""

    dataset: str
    split: str
    sample_id: np.ndarray
    group_id: np.ndarray
    labels: np.ndarray
    logits: dict[str, np.ndarray]  # stage -> (n, k)
    figures: dict[str, dict[str, float]]  # stage -> metric -> figure


@dataclass(frozen=True)
class Purchase:
    """The labels bought in one round, in the order of their rank."""

    rows: np.ndarray  # positions among the training rows
    quality: np.ndarray  # NaN where the arm has no score
    fold: np.ndarray
    before: np.ndarray  # labels
    after: np.ndarray

    def first(self, n: int) -> "Purchase":
        """The first n."""
        return Purchase(
            self.rows[:n], self.quality[:n], self.fold[:n], self.before[:n], self.after[:n]
        )


@dataclass(frozen=True)
class Round:
    """What is known after a round: labels, purchase, fitted head, figures."""

    number: int
    current: np.ndarray  # (n,) labels of the training rows now
    trusted: np.ndarray  # (n,) rows whose label is known to be right
    purchase: Purchase | None
    fit: FoldFit  # no head in it: the backbone's own logits
    evaluated: tuple[Evaluated, ...]
    temperature: float
    fit_seconds: float
    n_unscored: int = 0
    notes: tuple[str, ...] = ()

    @property
    def head(self) -> Head | None:
        """The head fitted on all training rows; None: the backbone's own logits."""
        return self.fit.head

    @property
    def out_of_fold(self) -> OutOfFold | None:
        """Predictions of the training rows by heads that did not see them."""
        return self.fit.out_of_fold


@dataclass
class Loop:
    """Runs arms of one experiment; holds what they share: settings, chosen penalty, round 0."""

    experiment: Experiment
    sweep: SweepRecipe
    externals: tuple[Cache, ...] = ()
    shared: SharedFeatures | None = None  # of the training rows, where another loop made them
    settings: dict[str, Any] = field(default_factory=dict)  # of the head
    chosen_on: str = ""  # labels that chose a setting or stopped the fit
    predict_seconds: float = 0.0  # spent by heads on all rows predicted so far
    n_predicted: int = 0

    def __post_init__(self) -> None:
        if self.shared is None:
            self.shared = SharedFeatures(self.experiment.features[self.experiment.rows])

    def round_zero(self, arms: list[Arm]) -> Round:
        """Fit and measure on the labels as they are at the start, once for all arms."""
        started = time.perf_counter()
        wanted = any(arm.is_scored and arm.source == "head" for arm in arms)
        fit = self._first_fit(folds=wanted or self._audits)
        start = self.experiment.start
        state = Round(0, start.observed, start.trusted, None, fit, (), np.nan, 0.0)
        return self._measured(state, started)

    def rounds(self, arm: Arm, zero: Round, *, budget: int) -> Iterator[Round]:
        """Spend a budget in the recipe's rounds, from round 0 on; stops when nothing is left."""
        state = zero
        for number, size in enumerate(round_sizes(budget, self.sweep.rounds), start=1):
            ranked, n_unscored = self._ranked(arm, state, number, zero)
            chosen = ranked.first(size)
            if not len(chosen.rows):
                return
            state = self._bought(state, number, chosen, n_unscored, arm)
            yield state

    @property
    def microseconds_per_row(self) -> float | None:
        """What a head took to predict a row, over all so far; None where none was predicted."""
        return 1e6 * self.predict_seconds / self.n_predicted if self.n_predicted else None

    @property
    def _audits(self) -> bool:
        # Without a test split, figures come from out-of-fold predictions of the training rows.
        return not set(self.experiment.evaluation) & {"test", "external"}

    def _bought(
        self, state: Round, number: int, chosen: Purchase, n_unscored: int, arm: Arm
    ) -> Round:
        started = time.perf_counter()
        current, trusted = state.current.copy(), state.trusted.copy()
        # The simulated expert: always right, and always says so.
        current[chosen.rows] = self.experiment.labels[chosen.rows]
        trusted[chosen.rows] = True
        purchase = replace(chosen, after=current[chosen.rows])
        more = number < self.sweep.rounds and arm.is_scored and arm.source == "head"
        fit = self._fit(current, folds=more or self._audits, start=state.fit)
        after = Round(number, current, trusted, purchase, fit, (), np.nan, 0.0, n_unscored)
        return self._measured(after, started)

    def _ranked(self, arm: Arm, state: Round, number: int, zero: Round) -> tuple[Purchase, int]:
        """Candidates in buying order, and how many had no score."""
        experiment = self.experiment
        candidates = np.flatnonzero(~state.trusted)
        if arm.score == "none":
            return _purchase(state, candidates[:0]), 0
        if arm.score == "oracle":
            candidates = candidates[state.current[candidates] != experiment.labels[candidates]]
        if not arm.is_scored:
            rng = generator(experiment.draw_seed, arm.score, number)
            # Drawn over all rows, so that a purchase does not shift the draw of the others.
            position = rng.random(len(experiment.labels))[candidates]
            return _purchase(state, candidates[np.argsort(position, kind="stable")]), 0
        scored, labels = self._scored(arm, state, zero)
        quality = label_quality(scored, labels, training=experiment.training, score=arm.score)
        n_unscored = int(np.isnan(quality[candidates]).sum())
        candidates = candidates[~np.isnan(quality[candidates])]
        # Equal scores are bought in the order of their ids, whatever the order of rows.
        order = np.lexsort((experiment.sample_ids[candidates], quality[candidates]))
        candidates = candidates[order]
        return _purchase(state, candidates, quality, scored.fold), n_unscored

    def _scored(self, arm: Arm, state: Round, zero: Round) -> tuple[OutOfFold, np.ndarray]:
        """The probabilities that an arm scores by, and the labels that they belong to."""
        training = self.experiment.training
        if arm.source == "crossfit":
            # Models that never saw the group; unbought rows keep the labels they were scored with.
            return read_crossfit(training, zero.current), zero.current
        if arm.source == "in_sample":
            logits = self._logits(state.head, self.experiment.cache, training.rows)
            return accept_in_sample(training, logits, state.current), state.current
        if state.out_of_fold is None:
            raise TrustqError(
                "--head backbone has no folds to score from: its logits of training rows are "
                f"in-sample. Use {arm.score}@crossfit, {arm.score}@in_sample or another head."
            )
        return state.out_of_fold, state.current

    def _first_fit(self, *, folds: bool) -> FoldFit:
        """Fit round 0, choosing the linear penalty where the recipe leaves it open."""
        experiment, sweep = self.experiment, self.sweep
        observed = experiment.start.observed
        if sweep.head == "backbone":
            if experiment.cache.logits is None:
                raise TrustqError(f"{experiment.cache.name} holds no logits for --head backbone.")
            if self._audits:
                raise TrustqError(f"{experiment.cache.name} has no test rows for --head backbone.")
        elif sweep.head in PRESETS:
            self.settings = {"trees": sweep.trees} if sweep.head == "xgboost" else {}
            self.settings |= {"components": sweep.components} if sweep.components else {}
            self.chosen_on = "val" if len(experiment.validation) else ""
        elif sweep.head in ("linear", "balanced"):
            if sweep.regularisation == "auto":
                return self._chosen_fit(observed, folds=folds)
            self.settings = {"C": _number(sweep.regularisation)}
        return self._fit(observed, folds=folds)

    def _chosen_fit(self, observed: np.ndarray, *, folds: bool) -> FoldFit:
        """Fit with every penalty of the grid at once and keep the best."""
        experiment = self.experiment
        has_validation = bool(len(experiment.validation))
        fits = self._fits(
            np.repeat(observed[None], len(REGULARISATION_GRID), axis=0),
            [{"C": c} for c in REGULARISATION_GRID],
            folds=not has_validation,
        )
        losses = []
        for fit in fits:
            if has_validation:
                logits = self._logits(fit.head, experiment.cache, experiment.validation)
                losses.append(_log_loss(logits, experiment.cache.label[experiment.validation]))
            else:
                # No clean labels to choose by: out-of-fold log loss on the observed ones.
                assert fit.out_of_fold is not None
                losses.append(_log_loss(fit.out_of_fold.logits, observed))
        self.chosen_on = "val" if has_validation else "train"
        best = int(np.argmin(losses))
        self.settings = {"C": REGULARISATION_GRID[best]}
        if not folds or fits[best].out_of_fold is not None:
            return fits[best]
        # The folds start anew: the head of all rows knows the labels that they must not know.
        of_folds = self._fits(observed[None], [self.settings], folds=True, whole=False)[0]
        return replace(of_folds, head=fits[best].head)

    def _fit(self, labels: np.ndarray, *, folds: bool, start: FoldFit | None = None) -> FoldFit:
        if self.sweep.head == "backbone":
            return FoldFit(None, (), None)
        # Without this set's folds there is nothing for them to start from, and the reverse.
        usable = start is not None and bool(start.fold_heads) >= folds
        return self._fits(
            labels[None], [self.settings], folds=folds, start=[start] if start and usable else None
        )[0]

    def _fits(
        self,
        label_sets: np.ndarray,
        settings: list[dict[str, Any]],
        *,
        folds: bool,
        whole: bool = True,
        start: list[FoldFit] | None = None,
    ) -> list[FoldFit]:
        assert self.shared is not None

        def maker(own: dict[str, Any]) -> Callable[[], Head]:
            n_classes = len(self.experiment.cache.classes)
            return lambda: make_head(self.sweep.head, n_classes=n_classes, **own)

        return fit_folds(
            self.experiment.training,
            self.shared,
            label_sets,
            make=[maker(own) for own in settings],
            folds=folds,
            whole=whole,
            start=start,
            validation=self._validation,
        )

    @property
    def _validation(self) -> tuple[np.ndarray, np.ndarray] | None:
        rows = self.experiment.validation
        if self.sweep.head not in PRESETS or not len(rows):
            return None
        return self.experiment.features[rows], self.experiment.cache.label[rows]

    def _logits(self, head: Head | None, cache: Cache, rows: np.ndarray) -> np.ndarray:
        if head is None:
            assert cache.logits is not None
            return np.asarray(cache.logits[rows], dtype=np.float64)
        if cache is self.experiment.cache:
            features = self.experiment.features[rows]
        else:
            features = self.experiment.standardise(cache.features[rows])
        started = time.perf_counter()
        logits = head.predict_logits(features)
        self.predict_seconds += time.perf_counter() - started
        self.n_predicted += len(rows)
        return logits

    def _measured(self, state: Round, started: float) -> Round:
        """Add the figures of every evaluation split, before and after temperature."""
        fit_seconds = time.perf_counter() - started
        experiment = self.experiment
        cache = experiment.cache
        scaler, notes = None, []
        if len(experiment.validation):
            scaler = TemperatureScaling()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", DegenerateCalibrationWarning)
                scaler.fit(
                    self._logits(state.head, cache, experiment.validation),
                    cache.label[experiment.validation].astype(np.int64),
                )
            notes = [f"Round {state.number}: {warning.message}" for warning in caught]
        sets: list[tuple[Cache, str, np.ndarray, np.ndarray, np.ndarray]] = []
        for split, rows in experiment.evaluation.items():
            logits = self._logits(state.head, cache, rows)
            sets.append((cache, split, rows, cache.label[rows], logits))
        if self._audits and state.out_of_fold is not None:
            logits = state.out_of_fold.logits
            sets.append((cache, "out_of_fold", experiment.rows, experiment.labels, logits))
        for other in self.externals:
            rows = np.flatnonzero(other.label >= 0)
            logits = self._logits(state.head, other, rows)
            sets.append((other, "external", rows, other.label[rows], logits))
        evaluated = []
        for source, split, rows, labels, logits in sets:
            labels = labels.astype(np.int64)
            stages = {"uncalibrated": logits}
            if scaler is not None:
                stages["calibrated"] = scaler.transform(logits)
            figures = {name: summarise(labels, logits=z).figures for name, z in stages.items()}
            evaluated.append(
                Evaluated(
                    source.dataset,
                    split,
                    source.sample_id[rows],
                    source.group_id[rows],
                    labels,
                    stages,
                    figures,
                )
            )
        return replace(
            state,
            evaluated=tuple(evaluated),
            temperature=float("nan") if scaler is None else scaler.temperature_,
            fit_seconds=fit_seconds,
            notes=tuple(notes),
        )


def _purchase(
    state: Round,
    rows: np.ndarray,
    quality: np.ndarray | None = None,
    fold: np.ndarray | None = None,
) -> Purchase:
    before = state.current[rows]
    return Purchase(
        rows,
        np.full(len(rows), np.nan) if quality is None else quality[rows],
        np.full(len(rows), -1) if fold is None else fold[rows],
        before,
        before,
    )


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < np.inf:
        raise TrustqError(f"regularisation is {text!r}, expected auto or a number above 0.")
    return value


def _log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    rows = np.arange(len(labels))
    return float(-log_softmax(logits)[rows, labels.astype(np.int64)].mean())
