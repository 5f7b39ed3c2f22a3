"""Two or more models on the same rows: figures, paired differences and McNemar's test."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trustq.core.counts import counted
from trustq.core.sample_ids import joined_keys, nearly
from trustq.errors import InputError
from trustq.evaluation.bootstrap import FIGURES, REPLICATES, Comparison, compare_figures
from trustq.evaluation.predictions import Predictions
from trustq.statistics.paired import McNemar, holm, mcnemar_test

NO_SIGN_FLIP = (
    "One run of each model gives no sign-flip test: the smallest p that one difference can have is "
    "1. These intervals are about other images of other groups, not about other trainings; for "
    "those, compare five and more seeds of each (trustq export significance)."
)


@dataclass(frozen=True)
class PairComparison:
    """One model against the first: paired differences, McNemar and Holm over all pairs."""

    a: str
    b: str
    figures: dict[str, Comparison]
    mcnemar: McNemar
    p_holm: float


@dataclass(frozen=True)
class ModelComparison:
    """Every other model against the first one, on the rows that all share."""

    models: tuple[str, ...]
    classes: tuple[str, ...]
    n: int
    n_groups: int
    ranking: str
    pairs: tuple[PairComparison, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: differences are a minus b."""
        return {
            "models": list(self.models),
            "classes": list(self.classes),
            "n": self.n,
            "n_groups": self.n_groups,
            "ranking": self.ranking,
            "pairs": [
                {
                    "a": pair.a,
                    "b": pair.b,
                    "figures": {name: row._asdict() for name, row in pair.figures.items()},
                    "mcnemar": pair.mcnemar._asdict() | {"p_holm": pair.p_holm},
                }
                for pair in self.pairs
            ],
            "sign_flip": None,
            "notes": list(self.notes),
        }


def compare_models(
    models: dict[str, Predictions],
    *,
    same_rows: bool = False,
    seed: int = 0,
    replicates: int = REPLICATES,
    intervals: str = "student",
) -> ModelComparison:
    """Compare every model with the first, a - b, on the test rows that all models have.

    Where a model has a split, its rows of `test` (or `external`) are judged, as in `evaluate`, and
    never those it was trained or calibrated on. Rows are joined by id, or by position with
    `same_rows`. Differences of accuracy, macro-F1, NLL, Brier, ECE, AURC and AUGRC have 95 % paired
    intervals over groups, by a method of `trustq.evaluation.bootstrap`; McNemar is adjusted by Holm
    over the pairs. Where one model has logits and another probabilities, all are ranked by
    probability. Errors: fewer than two models, no ids, no common test row, other classes or labels.
    """
    if len(models) < 2:
        raise InputError("One model cannot be compared: pass two, as A=a.npz B=b.npz.")
    first = next(iter(models.values()))
    models = {name: one.in_order_of(first.classes) for name, one in models.items()}
    names, others = tuple(models), list(models.values())[1:]
    judged = {name: one.judged() for name, one in models.items()}
    rows = _common_rows(names, list(models.values()), list(judged.values()), same_rows)
    joined = [one.take(own) for one, own in zip(models.values(), rows, strict=True)]
    for name, one, own in zip(names[1:], others, joined[1:], strict=True):
        _check_same_truth(names[0], name, first, one, joined[0], own)
    notes = list(dict.fromkeys(note for one in models.values() for note in one.notes))
    if any(one.split is not None for one in models.values()):
        kept = [f"{own.sum():,} of {len(own):,} of {name}" for name, own in judged.items()]
        notes.append(f"test rows are compared, and no others: {', '.join(kept)}")
        unknown = [name for name, one in models.items() if one.split is None]
        if unknown:
            notes.append(
                f"{', '.join(unknown)} has no split: which rows it was trained on is unknown"
            )
    dropped = [f"{own.sum() - len(rows[0]):,} of {name}" for name, own in judged.items()]
    if any(own.sum() != len(rows[0]) for own in judged.values()):
        near = next(filter(None, (_spelt_otherwise(first, one) for one in others)), "")
        notes.append(f"rows that not all models have were left out: {', '.join(dropped)}{near}")
    groups = next((one.groups for one in joined if one.groups is not None), None)
    if groups is not None:
        notes = [note for note in notes if not note.startswith("no groups")]
    notes += [note for one in joined for note in one.floor_notes()]
    by_logits = all(one.logits is not None for one in joined)
    scores = [one.logits if by_logits else one.of_rows() for one in joined]
    labels, wrong = joined[0].labels, []
    for score in scores:
        assert score is not None
        wrong.append(score.argmax(axis=1) != labels)
    tests = [mcnemar_test(wrong[0], other) for other in wrong[1:]]
    adjusted = holm(np.array([test.p_value for test in tests]))
    pairs = []
    for j, test in enumerate(tests, start=1):
        a, b = scores[0], scores[j]
        assert a is not None and b is not None
        figures = compare_figures(
            labels,
            a,
            b,
            kind="logits" if by_logits else "probs",
            groups=groups,
            seed=seed,
            figures=FIGURES,
            replicates=replicates,
            method=intervals,
        )
        pairs.append(PairComparison(names[0], names[j], figures, test, float(adjusted[j - 1])))
    notes.append(NO_SIGN_FLIP)
    return ModelComparison(
        models=names,
        classes=first.classes,
        n=len(labels),
        n_groups=len(labels) if groups is None else len(np.unique(groups)),
        ranking="log_odds" if by_logits else "probability",
        pairs=tuple(pairs),
        notes=tuple(notes),
    )


def _p(value: float, equals: str = "") -> str:
    """A p for the page; one that a float cannot hold is below a bound, and not 0."""
    return f"{equals}{value:.3g}" if value > 0 else "< 1e-300"


def comparison_page(found: ModelComparison) -> str:
    """The comparison as text: one table per pair, conventions beside the figures."""
    groups = "" if found.n_groups == found.n else f" of {counted(found.n_groups, 'group')}"
    lines = [
        f"{counted(found.n, 'row')}{groups}, {counted(len(found.classes), 'class')}; "
        "differences with 95 % paired "
        "intervals"
    ]
    for pair in found.pairs:
        lines += ["", f"{pair.a} - {pair.b}"]
        width = max(len(pair.a), len(pair.b), 8)
        lines.append(f"  {'':10}{pair.a:>{width}}  {pair.b:>{width}}  difference")
        for name, row in pair.figures.items():
            mark = "" if row.lower <= 0 <= row.upper or row.lower != row.lower else "  *"
            lines.append(
                f"  {name:10}{row.a:>{width}.4f}  {row.b:>{width}.4f}  {row.difference:+.4f} "
                f"[{row.lower:+.4f}, {row.upper:+.4f}]{mark}"
            )
        test = pair.mcnemar
        lines.append(
            f"  McNemar: {counted(test.only_a_right, 'row')} only {pair.a} has right, "
            f"{test.only_b_right:,} only {pair.b}; exact p {_p(test.p_value, '= ')}, "
            f"Holm {_p(pair.p_holm)}"
            + ("" if found.n_groups == found.n else " (takes rows for independent)")
        )
    lines += [
        "",
        "* the interval leaves out 0, not adjusted for their number. ECE: 15 bins of equal width, "
        f"L1; AURC: exact with ties; ranked by {found.ranking}; macro_f1 over the classes in the "
        "truth.",
    ]
    return "\n".join(
        [*lines, *(f"Note: {note}." if note[-1] != "." else note for note in found.notes)]
    )


def _common_rows(
    names: Sequence[str],
    models: Sequence[Predictions],
    judged: Sequence[np.ndarray],
    same_rows: bool,
) -> list[np.ndarray]:
    """Positions in each model of the rows that all are judged on, in the first one's order."""
    if same_rows:
        lengths = {len(one) for one in models}
        if len(lengths) > 1:
            counts = ", ".join(
                f"{name} {len(one)}" for name, one in zip(names, models, strict=True)
            )
            raise InputError(f"`same_rows` needs as many rows in every file: {counts}.")
        _refuse_other_order(names, models)
        shared_rows = np.flatnonzero(np.logical_and.reduce(list(judged)))
        if not len(shared_rows):
            raise InputError("The models share no test row: their splits differ.")
        return [shared_rows] * len(models)
    for name, one in zip(names, models, strict=True):
        if not one.has_ids:
            raise InputError(
                f"{name} ({one.source}) has no ids to be joined by: name them (`sample_ids`), or "
                "say that all files have the same rows in the same order (`same_rows`)."
            )
    # As everywhere, file endings do not count; where two ids of a file would be one, they do.
    every = joined_keys(*(one.sample_ids for one in models))
    if any(len(set(keys)) < len(keys) for keys in every):
        every = [one.sample_ids.tolist() for one in models]
    test_ids = [
        [keys[row] for row in np.flatnonzero(own).tolist()]
        for keys, own in zip(every, judged, strict=True)
    ]
    shared = set(test_ids[0]).intersection(*test_ids[1:])
    if not shared and set(every[0]).intersection(*every[1:]):
        raise InputError(
            "The models share ids and no test row: their splits differ, so that what is test for "
            "one was training or validation for another. Give both the same split."
        )
    if not shared:
        raise InputError(
            f"The models share no id, e.g. {models[0].sample_ids[0]} in {names[0]} and "
            f"{models[1].sample_ids[0]} in {names[1]}"
            f"{nearly(test_ids[0], models[1].sample_ids)}: spell the ids alike."
        )
    order = [i for i in test_ids[0] if i in shared]
    found = []
    for keys in every:
        position = {key: row for row, key in enumerate(keys)}
        found.append(np.array([position[key] for key in order]))
    return found


def _spelt_otherwise(a: Predictions, b: Predictions) -> str:
    """What a note adds of ids of one model that another nearly has, such as 7 and 007."""
    if not (a.has_ids and b.has_ids):
        return ""
    own, theirs = joined_keys(a.sample_ids, b.sample_ids)
    there = set(theirs)
    strangers = [i for i, key in zip(a.sample_ids.tolist(), own, strict=True) if key not in there]
    return nearly(strangers, b.sample_ids)


def _refuse_other_order(names: Sequence[str], models: Sequence[Predictions]) -> None:
    """Raise `TrustqError` where an id stands in other rows of two models said to have the same."""
    known = [(name, one) for name, one in zip(names, models, strict=True) if one.has_ids]
    keys = joined_keys(*(one.sample_ids for _, one in known))
    for (name, one), own in zip(known[1:], keys[1:], strict=True):
        row_of = {key: row for row, key in enumerate(keys[0])}
        moved = next((row for row, key in enumerate(own) if row_of.get(key, row) != row), None)
        if moved is not None:
            raise InputError(
                f"`same_rows`: {one.sample_ids[moved]} is row {moved + 1} of {name} and row "
                f"{row_of[own[moved]] + 1} of {known[0][0]}. Leave `same_rows` out, and rows are "
                "joined by id; or leave the ids out of one file, where they name other things."
            )


def _check_same_truth(
    a: str,
    b: str,
    whole_a: Predictions,
    whole_b: Predictions,
    own_a: Predictions,
    own_b: Predictions,
) -> None:
    whole_a.with_classes_of(whole_b, "give both the same classes", called=(a, b))
    differing = np.flatnonzero(own_a.labels != own_b.labels)
    if len(differing):
        at = int(differing[0])
        raise InputError(
            f"{a} and {b} have other labels in {len(differing)} of {len(own_a)} rows, first "
            f"{own_a.sample_ids[at]}: {whole_a.classes[own_a.labels[at]]} and "
            f"{whole_b.classes[own_b.labels[at]]}. These are not the same rows, or one file is "
            "older."
        )
    if own_a.groups is not None and own_b.groups is not None:
        differing = np.flatnonzero(own_a.groups != own_b.groups)
        if len(differing):
            at = int(differing[0])
            raise InputError(
                f"{a} and {b} have other groups in {len(differing)} of {len(own_a)} rows, first "
                f"{own_a.sample_ids[at]}: {own_a.groups[at]} and {own_b.groups[at]}. Intervals "
                "resample groups, so give both the same."
            )
