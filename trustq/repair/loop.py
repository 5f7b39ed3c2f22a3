"""The repair loop: score, buy, act, fit again, measure; every arm from the same round 0."""

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from trustq.calibration.registry import make_calibrator
from trustq.calibration.temperature import (
    DegenerateCalibrationWarning,
    NoiseAwareTemperature,
    TemperatureScaling,
)
from trustq.core.digest import digest_array, digest_json
from trustq.core.generators import generator
from trustq.errors import DishonestError, InputError
from trustq.heads import BOOSTED, Head, SharedFeatures, choose_penalty, make_head, text_settings
from trustq.heads.out_of_fold import (
    FoldFit,
    OutOfFold,
    accept_in_sample,
    fit_folds,
    predict_rows,
    read_crossfit,
    read_epochs,
    read_passes,
)
from trustq.heads.penalty import LOOSE_TOLERANCE
from trustq.heads.standardise import taken
from trustq.metrics.classification import summarise
from trustq.metrics.per_class import (
    class_positions,
    macro_auprc,
    positive_score,
    sensitivity_at_specificity,
)
from trustq.metrics.probabilities import PROBABILITY_FLOOR, log_softmax, softmax
from trustq.recipes import SweepRecipe
from trustq.repair.arms import Arm, budget_size, parse_arm, round_sizes
from trustq.repair.experts import Expert, make_expert
from trustq.repair.policy import Policy, make_policy
from trustq.repair.rounds import Evaluated, Purchase, Round, candidates
from trustq.repair.setup import Experiment
from trustq.repair.views import ViewRows, view_positions
from trustq.scoring import ensemble_quality, feature_quality, label_quality
from trustq.store import Cache

# scikit-learn's C for standardised features; the one with the lowest log loss is taken.
REGULARISATION_GRID = (1e-3, 1e-2, 1e-1, 1.0)
ENSEMBLE_C = 1e-2  # of a linear head beside another, where none was asked for


@dataclass
class Loop:
    """Runs arms of one experiment; holds what they share: settings, chosen penalty, round 0."""

    experiment: Experiment
    sweep: SweepRecipe
    externals: tuple[Cache, ...] = ()
    views: tuple[ViewRows, ...] = ()  # of the rows at `view_positions`
    shared: SharedFeatures | None = None  # of the training rows, where another loop made them
    settings: dict[str, Any] = field(default_factory=dict)  # of the head
    chosen_on: str = ""  # labels that chose a setting or stopped the fit
    predict_seconds: float = 0.0  # spent by heads on all rows predicted so far
    n_predicted: int = 0
    policy: Policy = field(init=False)
    expert: Expert = field(init=False)
    # Digest of labels and weights, and what a path of penalties says of every row after them.
    _path: tuple[str, np.ndarray] = field(init=False, default=("", np.empty(0)))
    # Rows that arms took of each class, by arm and budget and then by round, for matched arms.
    _class_counts: dict[tuple[str, int], list[np.ndarray]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.shared is None:
            self.shared = SharedFeatures(self.experiment.training_features)
        self.policy = make_policy(self.experiment, self.sweep)
        self.expert = make_expert(self.experiment, self.sweep, unit=self.policy.unit)

    def budget(self, arm: Arm, text: str) -> int:
        """What an arm may spend: money where it buys, rows where it drops or weighs down."""
        if arm.score == "none":
            return 0
        wrong = self.experiment.start.observed != self.experiment.labels
        policy = self._policy(arm)
        everything = policy.total(np.ones(len(wrong), dtype=bool))
        return budget_size(text, n_rows=everything, n_wrong=policy.total(wrong))

    def most_hits(self, arm: Arm, budget: int) -> int:
        """Wrong labels that this budget could find at most."""
        wrong = self.experiment.start.observed != self.experiment.labels
        if arm.buys:
            wrong &= self.expert.can_answer
        return self._policy(arm).most_hits(wrong, budget)

    def round_zero(self, arms: list[Arm]) -> Round:
        """Fit and measure on the labels as they are at the start, once for all arms."""
        started = time.perf_counter()
        wanted = any(arm.uses_folds for arm in arms)
        fit = self._first_fit(folds=wanted or self._audits)
        start = self.experiment.start
        state = Round(0, start.observed, start.trusted, None, fit, (), np.nan, 0.0)
        return self._measured(state, started)

    def rounds(self, arm: Arm, zero: Round, *, budget: int) -> Iterator[Round]:
        """Spend a budget in the recipe's rounds, from round 0 on.

        Stops when nothing is left to take, or after a round whose precision is below the cut. What
        one round could not spend is left to the next.
        """
        state, allowed = zero, 0
        counts: list[np.ndarray] = []
        sizes = round_sizes(budget, self.sweep.rounds, self.sweep.schedule)
        for number, size in enumerate(sizes, start=1):
            allowed += size
            ranked, n_unscored = self._ranked(arm, state, number, zero, size)
            if arm.like:
                chosen = self._matched(arm, ranked, zero, number, budget)
            else:
                chosen = self._chosen(arm, ranked, state, zero, allowed)
            if not len(chosen.rows):
                break
            counts.append(np.bincount(chosen.before, minlength=len(self.policy.class_cap)))
            state = self._acted(state, number, chosen, n_unscored, arm)
            yield state
            if state.stopped:
                break
        # Once all went well, for a matched arm must not repeat the half of one that failed.
        self._class_counts[arm.text, budget] = counts

    def _policy(self, arm: Arm) -> Policy:
        if arm.buys:
            return self.policy
        return replace(self.policy, price=np.ones(len(self.policy.price)))

    def _chosen(
        self, arm: Arm, ranked: Purchase, state: Round, zero: Round, allowed: int
    ) -> Purchase:
        assert self.shared is not None
        policy = self._policy(arm)
        rows = policy.choose(
            ranked.rows,
            allowed - state.spent,
            is_scored=arm.is_scored,
            current=state.current,
            n_taken=self._n_taken(state),
            features=self.shared.features,
        )
        position = np.full(len(state.current), -1)
        position[ranked.rows] = np.arange(len(ranked.rows))
        chosen = ranked.take(position[rows])
        return replace(chosen, price=policy.prices_of(rows))

    def _n_taken(self, state: Round) -> np.ndarray:
        if state.n_taken is None:
            return np.zeros(len(self.policy.class_cap))
        return state.n_taken

    def _matched(
        self, arm: Arm, ranked: Purchase, zero: Round, number: int, budget: int
    ) -> Purchase:
        """As many rows of each class as the other arm took in this round."""
        base = replace(parse_arm(arm.like), action=arm.action)
        if (base.text, budget) not in self._class_counts:
            for _ in self.rounds(base, zero, budget=budget):
                pass
        counts = self._class_counts[base.text, budget]
        taken = np.zeros(len(ranked.rows), dtype=bool)
        for c, n in enumerate(counts[number - 1] if number <= len(counts) else ()):
            taken[np.flatnonzero(ranked.before == c)[:n]] = True
        chosen = ranked.take(np.flatnonzero(taken))
        return replace(chosen, price=np.ones(len(chosen.rows)))

    @property
    def microseconds_per_row(self) -> float | None:
        """What a head took to predict a row, over all so far; None where none was predicted."""
        return 1e6 * self.predict_seconds / self.n_predicted if self.n_predicted else None

    @property
    def _audits(self) -> bool:
        # Without a test split, figures come from out-of-fold predictions of the training rows.
        return not set(self.experiment.evaluation) & {"test", "external"}

    def _acted(
        self, state: Round, number: int, chosen: Purchase, n_unscored: int, arm: Arm
    ) -> Round:
        started = time.perf_counter()
        rows, current, trusted = chosen.rows, state.current.copy(), state.trusted.copy()
        weight = state.weight
        if arm.buys:
            answers = self.expert.answer(rows)
            current[rows] = answers.labels
            trusted[rows] = True
            purchase = replace(chosen, after=current[rows], votes=answers.votes)
        else:
            weight = state.weights.copy()
            weight[rows] = 0.0 if arm.action == "drop" else self.sweep.flagged_weight
            after = np.full(len(rows), -1) if arm.action == "drop" else chosen.before
            purchase = replace(chosen, after=after)
        stopped = purchase.precision < self.sweep.stop_precision  # never where nobody was asked
        more = number < self.sweep.rounds and arm.uses_folds and not stopped
        leaders = np.unique(self.policy.unit[rows], return_index=True)[1]
        taken = np.bincount(chosen.before[leaders], minlength=len(self.policy.class_cap))
        acted = Round(
            number,
            current,
            trusted,
            purchase,
            self._fit(current, folds=more or self._audits, start=state.fit, weight=weight),
            evaluated=(),
            temperature=np.nan,
            fit_seconds=0.0,
            n_unscored=n_unscored,
            weight=weight,
            n_taken=self._n_taken(state) + taken,
            spent=state.spent + float(chosen.price.sum()),
            stopped=stopped,
        )
        return self._measured(acted, started)

    def _ranked(
        self, arm: Arm, state: Round, number: int, zero: Round, n_wanted: int
    ) -> tuple[Purchase, int]:
        """Candidates in buying order, and how many had no score."""
        experiment = self.experiment
        free = ~state.trusted
        if state.weight is not None:
            free &= state.weight == 1
        if arm.buys:
            free &= self.expert.can_answer
        left = np.flatnonzero(free)
        if arm.score == "none":
            return candidates(state, left[:0]), 0
        if arm.score == "oracle":
            wrong = free & (state.current != experiment.labels)
            # A group with one wrong label is worth its price.
            wrong = np.bincount(self.policy.unit, weights=wrong)[self.policy.unit] > 0
            left = left[wrong[left]]
        if not arm.is_scored:
            rng = generator(experiment.draw_seed, "matched" if arm.like else arm.score, number)
            # Drawn over all units, so that a purchase does not shift the draw of the others.
            position = rng.random(len(self.policy.price))[self.policy.unit][left]
            return candidates(state, left[np.argsort(position, kind="stable")]), 0
        quality, fold = self._quality(arm, state, zero, n_wanted)
        n_unscored = int(np.isnan(quality[left]).sum())
        left = left[~np.isnan(quality[left])]
        # Equal scores are bought in the order of their ids, whatever the order of rows.
        order = np.lexsort((experiment.sample_ids[left], quality[left]))
        left = left[order]
        return candidates(state, left, quality, fold), n_unscored

    def _quality(
        self, arm: Arm, state: Round, zero: Round, n_wanted: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Quality of every label by an arm's score, and the folds that it was scored in."""
        training = self.experiment.training
        assert self.shared is not None
        covered = state.trusted | (state.weights < 1)
        kept = None if state.weight is None else state.weight > 0  # a dropped label tells nothing
        if not arm.uses_probabilities:
            own = feature_quality(
                arm.score,
                labels=state.current,
                features=self.shared.features,
                training=training,
                chosen=covered,
                n_wanted=n_wanted,
                kept=kept,
            )
            return own, None
        scored, labels = self._scored(arm, state, zero)
        if arm.source == "heads":
            members = [scored, *self._other_heads(state)]
            quality = ensemble_quality(
                members, labels, training=[training] * len(members), score=arm.score, kept=kept
            )
            return quality, scored.fold
        quality = label_quality(
            scored,
            labels,
            training=training,
            score=arm.score,
            features=self.shared.features,
            chosen=covered,
            n_wanted=n_wanted,
            kept=kept,
        )
        return quality, scored.fold

    def _other_heads(self, state: Round) -> list[OutOfFold]:
        """Out-of-fold predictions by the other heads of an ensemble, fitted on the same folds."""
        found = []
        for name in dict.fromkeys(self.sweep.ensemble):
            if name == self.sweep.head:
                continue
            fit = self._fits(
                state.current[None],
                [self._settings_of(name)],
                folds=True,
                whole=False,
                head=name,
                weight=state.weight,
            )[0]
            assert fit.out_of_fold is not None
            found.append(fit.out_of_fold)
        if not found:
            raise InputError(
                f"ensemble is {', '.join(self.sweep.ensemble)}, which is the head itself: name "
                "others, e.g. `ensemble=lda,knn`."
            )
        return found

    def _settings_of(self, name: str) -> dict[str, Any]:
        if name in ("linear", "balanced"):
            auto = self.sweep.regularisation == "auto"
            return {"C": ENSEMBLE_C if auto else _number(self.sweep.regularisation)}
        if name not in BOOSTED:
            return {}
        own: dict[str, Any] = {}
        if name != "xgboost_study":
            own["trees"] = self.sweep.trees
        if name != "lightgbm" and self.sweep.components:
            own["components"] = self.sweep.components
        return own

    def _scored(self, arm: Arm, state: Round, zero: Round) -> tuple[OutOfFold, np.ndarray]:
        """The probabilities that an arm scores by, and the labels that they belong to."""
        training = self.experiment.training
        if arm.source == "crossfit":
            # Models that never saw the group; unbought rows keep the labels they were scored with.
            return read_crossfit(training, zero.current), zero.current
        if arm.source == "passes":
            return read_passes(training, zero.current), zero.current
        if arm.source == "epochs":
            return read_epochs(training, zero.current), zero.current
        if arm.source == "path":
            return accept_in_sample(training, self._path_logits(arm, state), state.current), (
                state.current
            )
        if arm.source == "in_sample":
            logits = self._logits(state.head, self.experiment.cache, training.rows)
            return accept_in_sample(training, logits, state.current), state.current
        if state.out_of_fold is None:
            raise DishonestError(
                "`head=backbone` has no folds to score from: its logits of training rows are "
                f"in-sample. Use {arm.score}@crossfit, {arm.score}@in_sample or another head."
            )
        return state.out_of_fold, state.current

    def _path_logits(self, arm: Arm, state: Round) -> np.ndarray:
        """Log of the mean probabilities, (n, k), of heads along the grid of penalties.

        What epochs are to a network: the strongest penalty has learned what rows share, the
        weakest each row by itself.
        """
        if self.sweep.head not in ("linear", "balanced"):
            raise InputError(
                f"Arm {arm.text!r}: only linear heads have a path of penalties. Use `head=linear`, "
                f"or {arm.score}@in_sample."
            )
        key = digest_json(
            [digest_array(own) for own in (state.current, state.weight) if own is not None]
        )
        if key != self._path[0]:  # arms and budgets start from the same labels
            probs, before = [], None
            for penalty in REGULARISATION_GRID:
                # Loosely, as a path is chosen from: what is asked for is an order of suspicion.
                before = self._fits(
                    state.current[None],
                    [{"C": penalty}],
                    folds=False,
                    start=before,
                    tolerance=LOOSE_TOLERANCE,
                    weight=state.weight,
                )
                rows = self.experiment.training.rows
                probs.append(softmax(self._logits(before[0].head, self.experiment.cache, rows)))
            mean = np.maximum(np.mean(probs, axis=0), PROBABILITY_FLOOR)
            self._path = key, np.asarray(np.log(mean))
        return self._path[1]

    def _on_views(self, head: Head | None, scaler: Any) -> list[Evaluated]:
        """The head as it is, with the calibrator of clean rows, on every stored view."""
        if not self.views:
            return []
        cache = self.experiment.cache
        rows = view_positions(self.experiment)
        labels = cache.label[rows].astype(np.int64)
        found = []
        for view in self.views:
            logits = self.view_logits(head, view)
            stages, figures = _staged(labels, logits, scaler)
            for stage, z in stages.items():
                figures[stage]["macro_auprc"] = macro_auprc(labels, softmax(z)).value
            own = Evaluated(
                f"{cache.dataset}@{view.name}",
                "view",
                cache.sample_id[rows],
                cache.group_id[rows],
                labels,
                stages,
                figures,
                condition=view.name,
            )
            found.append(own)
        return found

    def _calibrator(self) -> tuple[Any, str]:
        """The recipe's calibrator, and which labels it is fitted on."""
        experiment, name = self.experiment, self.sweep.calibrator
        if experiment.validation_observed is None:
            return make_calibrator(name), "clean"
        if experiment.validation_matrix is not None:
            if name != "temperature":
                raise InputError(
                    f"A noise matrix corrects temperature scaling, not {name}: leave ',corrected' "
                    "out of validation_noise, or calibrator."
                )
            return NoiseAwareTemperature(experiment.validation_matrix), "noisy"
        # Asked for by naming the noise, to see what it does.
        return make_calibrator(name, accept_noisy=True), "noisy"

    def _with_operating_points(self, evaluated: list[Evaluated]) -> list[Evaluated]:
        """Add Sens@95Spec and its realised specificity, by the threshold of clean rows.

        Only beside views and with positive classes; else nothing is added.
        """
        positive = class_positions(self.experiment.cache.classes, self.sweep.positive)
        on = next((own for own in evaluated if own.split == "val"), None)
        if not self.views or not positive or on is None:
            return evaluated
        for own in evaluated:
            if own.split == "val" or own.dataset.partition("@")[0] != on.dataset:
                continue
            for stage, logits in own.logits.items():
                point = sensitivity_at_specificity(
                    np.isin(own.labels, positive),
                    positive_score(softmax(logits), positive),
                    validation_positive=np.isin(on.labels, positive),
                    validation_score=positive_score(softmax(on.logits[stage]), positive),
                )
                own.figures[stage]["sens_at_95_spec"] = point.sensitivity
                own.figures[stage]["realised_specificity"] = point.specificity
        return evaluated

    def view_logits(self, head: Head | None, view: ViewRows) -> np.ndarray:
        """Logits (m, k) of a view's rows by a head; without one those of the network itself."""
        if head is not None:
            return head.predict_logits(self.experiment.standardise(view.features))
        if view.logits is None:
            raise InputError(f"The view {view.name} holds no logits for `head=backbone`.")
        return np.asarray(view.logits, dtype=np.float64)

    def _first_fit(self, *, folds: bool) -> FoldFit:
        """Fit round 0, choosing the linear penalty where the recipe leaves it open."""
        experiment, sweep = self.experiment, self.sweep
        observed = experiment.start.observed
        if sweep.head == "backbone":
            if experiment.cache.logits is None:
                raise InputError(f"{experiment.cache.name} holds no logits for `head=backbone`.")
            if self._audits:
                raise InputError(f"{experiment.cache.name} has no test rows for `head=backbone`.")
        elif sweep.head in BOOSTED:
            self.settings = self._settings_of(sweep.head)
            self.chosen_on = "val" if len(experiment.validation) else ""
        elif sweep.head in ("linear", "balanced"):
            if sweep.regularisation == "auto":
                return self._chosen_fit(observed, folds=folds)
            self.settings = {"C": _number(sweep.regularisation)}
        return self._fit(observed, folds=folds)

    def _chosen_fit(self, observed: np.ndarray, *, folds: bool) -> FoldFit:
        """Fit with the penalty of the grid that is best on validation rows, or out of fold."""
        experiment = self.experiment
        has_validation = bool(len(experiment.validation))

        def fit(penalty: float, start: FoldFit | None, tolerance: float | None) -> FoldFit:
            return self._fits(
                observed[None],
                [{"C": penalty}],
                folds=not has_validation,
                whole=has_validation or tolerance is None,
                start=None if start is None else [start],
                tolerance=tolerance,
            )[0]

        def loss(fit: FoldFit) -> float:
            if has_validation:
                logits = self._logits(fit.head, experiment.cache, experiment.validation)
                matrix = experiment.validation_matrix
                if matrix is not None:
                    logits = np.log(softmax(logits) @ matrix)  # of the observed class
                return _log_loss(logits, experiment.validation_labels)
            # No clean labels to choose by: out-of-fold log loss on the observed ones.
            assert fit.out_of_fold is not None
            return _log_loss(fit.out_of_fold.logits, observed)

        penalty, best = choose_penalty(REGULARISATION_GRID, fit=fit, loss=loss)
        self.chosen_on = "val" if has_validation else "train"
        self.settings = {"C": penalty}
        if not folds or best.out_of_fold is not None:
            return best
        # The folds start anew: the head of all rows knows the labels that they must not know.
        of_folds = self._fits(observed[None], [self.settings], folds=True, whole=False)[0]
        return replace(of_folds, head=best.head)

    def _fit(
        self,
        labels: np.ndarray,
        *,
        folds: bool,
        start: FoldFit | None = None,
        weight: np.ndarray | None = None,
    ) -> FoldFit:
        if self.sweep.head == "backbone":
            return FoldFit(None, (), None)
        # Without this set's folds there is nothing for them to start from, and the reverse.
        usable = start is not None and bool(start.fold_heads) >= folds
        return self._fits(
            labels[None],
            [self.settings],
            folds=folds,
            start=[start] if start and usable else None,
            weight=weight,
        )[0]

    def _fits(
        self,
        label_sets: np.ndarray,
        settings: list[dict[str, Any]],
        *,
        folds: bool,
        whole: bool = True,
        start: list[FoldFit] | None = None,
        tolerance: float | None = None,
        head: str = "",
        weight: np.ndarray | None = None,
    ) -> list[FoldFit]:
        assert self.shared is not None
        name = head or self.sweep.head

        classes = self.experiment.cache.classes
        scale = self.experiment.of_training
        texts = text_settings(name, classes=classes, feature_scale=scale)

        def maker(own: dict[str, Any]) -> Callable[[], Head]:
            return lambda: make_head(name, n_classes=len(classes), **own, **texts)

        return fit_folds(
            self.experiment.training,
            self.shared,
            label_sets,
            make=[maker(own) for own in settings],
            folds=folds,
            whole=whole,
            start=start,
            tolerance=tolerance,
            validation=self._validation(name),
            weight=weight,
            balance=self.experiment.balance,
        )

    def _validation(self, head: str) -> tuple[np.ndarray, np.ndarray] | None:
        rows = self.experiment.validation
        if head not in BOOSTED or not len(rows):
            return None
        return self.experiment.features[rows], self.experiment.validation_labels

    def _logits(self, head: Head | None, cache: Cache, rows: np.ndarray) -> np.ndarray:
        if head is None:
            if cache.logits is None:
                raise InputError(
                    f"{cache.name} holds no logits of the classes of {self.experiment.cache.name} "
                    "for `head=backbone`."
                )
            return np.asarray(cache.logits[rows], dtype=np.float64)
        if cache is self.experiment.cache:
            features = taken(self.experiment.features, rows)
        else:
            features = self.experiment.standardised(cache.features, rows)
        started = time.perf_counter()
        logits = predict_rows(head, features)
        self.predict_seconds += time.perf_counter() - started
        self.n_predicted += len(rows)
        return logits

    def _measured(self, state: Round, started: float) -> Round:
        """Add the figures of every evaluation split, before and after calibration."""
        fit_seconds = time.perf_counter() - started
        experiment = self.experiment
        cache = experiment.cache
        scaler, notes = None, []
        if len(experiment.validation):
            scaler, used = self._calibrator()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", DegenerateCalibrationWarning)
                scaler.fit(
                    self._logits(state.head, cache, experiment.validation),
                    experiment.validation_labels,
                    labels_used=used,
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
            own = Evaluated(
                source.dataset,
                split,
                source.sample_id[rows],
                source.group_id[rows],
                labels.astype(np.int64),
                *_staged(labels.astype(np.int64), logits, scaler),
            )
            evaluated.append(own)
        evaluated = self._with_operating_points(evaluated + self._on_views(state.head, scaler))
        return replace(
            state,
            evaluated=tuple(evaluated),
            temperature=_temperature_of(scaler),
            fit_seconds=fit_seconds,
            notes=tuple(notes),
        )


def _temperature_of(scaler: Any) -> float:
    has_one = isinstance(scaler, TemperatureScaling | NoiseAwareTemperature)
    return float(scaler.temperature_) if has_one else float("nan")


def _staged(
    labels: np.ndarray, logits: np.ndarray, scaler: Any
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float]]]:
    """Logits and figures by stage, before and after calibration."""
    stages = {"uncalibrated": logits}
    if scaler is not None:
        stages["calibrated"] = scaler.transform(logits)
    return stages, {name: summarise(labels, logits=z).figures for name, z in stages.items()}


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < np.inf:
        raise InputError(
            f"regularisation is {text!r}, expected auto or a number above 0.",
            where="regularisation",
            found=text,
        )
    return value


def _log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    rows = np.arange(len(labels))
    return float(-log_softmax(logits)[rows, labels.astype(np.int64)].mean())
