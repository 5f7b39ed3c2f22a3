"""The repair loop: score, buy, relabel, fit again, measure; every arm from the same round 0."""

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from trustq.calibration import DegenerateCalibrationWarning, TemperatureScaling
from trustq.errors import TrustqError
from trustq.heads import Head, make_head
from trustq.heads.out_of_fold import (
    OutOfFold,
    accept_in_sample,
    fit_out_of_fold,
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
    head: Head | None  # None: the backbone's own logits
    out_of_fold: OutOfFold | None
    evaluated: tuple[Evaluated, ...]
    temperature: float
    fit_seconds: float
    n_unscored: int = 0
    notes: tuple[str, ...] = ()


@dataclass
class Loop:
    """Runs arms of one experiment; holds what they share: settings, chosen penalty, round 0."""

    experiment: Experiment
    sweep: SweepRecipe
    externals: tuple[Cache, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)  # of the head
    chosen_on: str = ""  # labels that chose a setting or stopped the fit

    def round_zero(self, arms: list[Arm]) -> Round:
        """Fit and measure on the labels as they are at the start, once for all arms."""
        started = time.perf_counter()
        head = self._choose_head()
        wanted = any(arm.is_scored and arm.source == "head" for arm in arms)
        start = self.experiment.start
        out_of_fold = self._out_of_fold(start.observed) if wanted or self._audits else None
        state = Round(0, start.observed, start.trusted, None, head, out_of_fold, (), np.nan, 0.0)
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
        head = self._fit(current)
        more = number < self.sweep.rounds and arm.is_scored and arm.source == "head"
        out_of_fold = self._out_of_fold(current) if more or self._audits else None
        after = Round(
            number, current, trusted, purchase, head, out_of_fold, (), np.nan, 0.0, n_unscored
        )
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

    def _choose_head(self) -> Head | None:
        """Fit round 0, choosing the linear penalty where the recipe leaves it open."""
        experiment, sweep = self.experiment, self.sweep
        observed = experiment.start.observed
        if sweep.head == "backbone":
            if experiment.cache.logits is None:
                raise TrustqError(f"{experiment.cache.name} holds no logits for --head backbone.")
            if self._audits:
                raise TrustqError(f"{experiment.cache.name} has no test rows for --head backbone.")
            return None
        if sweep.head == "xgboost":
            self.settings = {"trees": sweep.trees}
            self.chosen_on = "val" if len(experiment.validation) else ""
            return self._fit(observed)
        if sweep.regularisation != "auto":
            self.settings = {"C": _number(sweep.regularisation)}
            return self._fit(observed)
        tried: list[tuple[float, float, Head | None]] = []
        for c in REGULARISATION_GRID:
            self.settings = {"C": c}
            if len(experiment.validation):
                head = self._fit(observed)
                logits = self._logits(head, experiment.cache, experiment.validation)
                loss = _log_loss(logits, experiment.cache.label[experiment.validation])
                tried.append((loss, c, head))
            else:
                # No clean labels to choose by: out-of-fold log loss on the observed ones.
                loss = _log_loss(self._fitted_folds(observed).logits, observed)
                tried.append((loss, c, self._fit(observed)))
        self.chosen_on = "val" if len(experiment.validation) else "train"
        _, c, head = min(tried, key=lambda entry: entry[0])
        self.settings = {"C": c}
        return head

    def _make(self) -> Head:
        return make_head(
            self.sweep.head, n_classes=len(self.experiment.cache.classes), **self.settings
        )

    def _fit(self, labels: np.ndarray) -> Head | None:
        if self.sweep.head == "backbone":
            return None
        head = self._make()
        features = self.experiment.features[self.experiment.rows]
        head.fit(features, labels, validation=self._validation)
        return head

    def _out_of_fold(self, labels: np.ndarray) -> OutOfFold | None:
        return None if self.sweep.head == "backbone" else self._fitted_folds(labels)

    def _fitted_folds(self, labels: np.ndarray) -> OutOfFold:
        features = self.experiment.features[self.experiment.rows]
        return fit_out_of_fold(
            self.experiment.training, features, labels, make=self._make, validation=self._validation
        )

    @property
    def _validation(self) -> tuple[np.ndarray, np.ndarray] | None:
        rows = self.experiment.validation
        if self.sweep.head != "xgboost" or not len(rows):
            return None
        return self.experiment.features[rows], self.experiment.cache.label[rows]

    def _logits(self, head: Head | None, cache: Cache, rows: np.ndarray) -> np.ndarray:
        if head is None:
            assert cache.logits is not None
            return np.asarray(cache.logits[rows], dtype=np.float64)
        if cache is self.experiment.cache:
            return head.predict_logits(self.experiment.features[rows])
        return head.predict_logits(self.experiment.standardise(cache.features[rows]))

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
