"""From rounds to result rows: what a cell leaves behind in the tables."""

import math
from typing import Any, NamedTuple

import numpy as np

from trustq.core.columns import Columns
from trustq.core.rounding import steady
from trustq.evaluation.conditions import condition_of
from trustq.metrics.per_class import figures_by_class
from trustq.metrics.probabilities import softmax
from trustq.repair.arms import Arm
from trustq.repair.rounds import Evaluated, Purchase, Round
from trustq.repair.setup import Experiment
from trustq.repair.slices import Slices, slice_rows
from trustq.results import TABLES
from trustq.scoring.confident import estimated_joint

SLICE_TEXTS = ("stage", "metric", "slice_name", "slice_value")


class Recorder:
    """Collects the rows of a group of cells, table by table."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self._names = np.array([*classes, None], dtype=object)  # -1 is no class
        self._blocks: dict[str, list[_Block]] = {}
        self._rows: dict[str, list[dict[str, Any]]] = {"runs": [], "rounds": []}

    def add(self, other: "Recorder") -> None:
        """Add all rows of another one."""
        for table, rows in other._rows.items():
            self._rows[table] += rows
        for table, blocks in other._blocks.items():
            self._blocks.setdefault(table, []).extend(blocks)

    def add_cell(self, row: dict[str, Any]) -> None:
        """Add the cell's own row."""
        self._rows["runs"].append(row)

    def add_rounds(
        self,
        cell: str,
        arm: Arm,
        experiment: Experiment,
        rounds: list[Round],
        settings: dict[str, Any],
    ) -> None:
        """Add rounds, ledger, labels, metrics and the last round's predictions of a cell."""
        bought_round = np.full(len(experiment.rows), -1)
        n_bought = n_flagged = hits = 0
        for state in rounds:
            new_hits = n_new = n_taken = n_votes = 0
            if (purchase := state.purchase) is not None:
                bought_round[purchase.rows] = state.number
                self._add_purchase(cell, state, purchase, experiment)
                new_hits = int((purchase.before != experiment.labels[purchase.rows]).sum())
                n_new, n_taken, n_votes = purchase.n_bought, len(purchase.rows), purchase.n_votes
            n_bought, n_flagged, hits = n_bought + n_new, n_flagged + n_taken, hits + new_hits
            kept = state.weights > 0
            n_wrong = int((state.current != experiment.labels)[kept].sum())
            joint = self._add_transitions(cell, state) if arm.uses_folds else None
            self._rows["rounds"].append(
                {
                    "run": cell,
                    "round": state.number,
                    "n_bought": n_new,
                    "n_bought_total": n_bought,
                    "n_flagged": n_taken,
                    "n_flagged_total": n_flagged,
                    "n_votes": n_votes,
                    "spent_total": state.spent if arm.buys else 0.0,
                    "errors_found": new_hits,
                    "errors_found_total": hits,
                    "purchase_precision": new_hits / n_taken if n_taken else math.nan,
                    "noise_left": n_wrong / int(kept.sum()),
                    "noise_estimated": math.nan if joint is None else float(1 - joint.trace()),
                    "n_wrong_left": n_wrong,
                    "fit_seconds": state.fit_seconds,
                    "regularisation": float(settings.get("C", math.nan)),
                    "temperature": state.temperature,
                }
            )
            for evaluated in state.evaluated:
                self._add_figures(cell, state.number, state is rounds[-1], evaluated)
        for evaluated in rounds[-1].evaluated:
            if evaluated.split != "val":
                self._add_class_figures(cell, rounds[-1].number, evaluated)
            self._add_predictions(cell, rounds[-1].number, evaluated)
        self._add_labels(cell, experiment, rounds[-1], bought_round)

    def _add_labels(
        self, cell: str, experiment: Experiment, last: Round, bought_round: np.ndarray
    ) -> None:
        """Add what became of each label, and the round in which it was bought, -1: never."""
        start = experiment.start
        self._add_block(
            "labels",
            cell,
            sample_id=experiment.sample_ids,
            label=self._names[experiment.labels],
            observed=self._names[start.observed],
            current_label=self._names[last.current],
            trusted=last.trusted,
            weight=last.weights,
            bought_round=_blank_where_negative(bought_round),
        )

    def add_slices(self, cell: str, state: Round, slices: Slices) -> None:
        """Add figures of slices of the last round's predictions."""
        for evaluated in state.evaluated:
            rows = list(slice_rows(evaluated, slices))
            columns = {name: [row[name] for row in rows] for name in (*SLICE_TEXTS, "value", "n")}
            if rows:
                self._add_metrics(
                    cell,
                    state.number,
                    evaluated,
                    is_final=True,
                    **{name: np.array(columns.pop(name), dtype=object) for name in SLICE_TEXTS},
                    **{name: np.array(values) for name, values in columns.items()},
                )

    def tables(self) -> dict[str, Columns]:
        """All rows as columns, ready to be written; blocks go as they are joined."""
        tables = {name: _columns(name, rows) for name, rows in self._rows.items()}
        return tables | {name: _joined(blocks) for name, blocks in self._blocks.items()}

    def _add_transitions(self, cell: str, state: Round) -> np.ndarray | None:
        """Add the estimated joint of labels as they are and true ones, where folds were fitted.

        The last round has none: nothing is chosen after it, so its folds are not fitted.
        """
        if state.out_of_fold is None:
            return None
        known = state.out_of_fold.scorable & (state.weights > 0)
        joint = estimated_joint(state.current[known], state.out_of_fold.probs[known])
        k = len(joint)
        self._add_block(
            "transitions",
            cell,
            round=state.number,
            given=self._names[np.repeat(np.arange(k), k)],
            true_class=self._names[np.tile(np.arange(k), k)],
            share=joint.ravel(),
        )
        return joint

    def _add_purchase(
        self, cell: str, state: Round, purchase: Purchase, experiment: Experiment
    ) -> None:
        self._add_block(
            "queries",
            cell,
            round=state.number,
            rank=np.arange(1, len(purchase.rows) + 1),
            sample_id=experiment.sample_ids[purchase.rows],
            quality=steady(purchase.quality),
            fold=_blank_where_negative(purchase.fold),
            label_before=self._names[purchase.before],
            label_after=self._names[purchase.after],
            truth=self._names[experiment.labels[purchase.rows]],
            was_wrong=purchase.before != experiment.labels[purchase.rows],
            votes=purchase.votes,
            price=purchase.price,
        )

    def _add_figures(self, cell: str, number: int, is_final: bool, evaluated: Evaluated) -> None:
        for stage, figures in evaluated.figures.items():
            self._add_metrics(
                cell,
                number,
                evaluated,
                is_final=is_final,
                stage=stage,
                metric=np.array(list(figures), dtype=object),
                value=np.array(list(figures.values())),
                n=len(evaluated.labels),
            )

    def _add_class_figures(self, cell: str, number: int, evaluated: Evaluated) -> None:
        # No metric of a class has the name of one of all rows: a query that forgets the class
        # finds none, and never averages both.
        names = self._names[:-1]
        of_class = np.bincount(evaluated.labels, minlength=len(names))
        for stage, logits in evaluated.logits.items():
            figures = figures_by_class(evaluated.labels, logits)
            self._add_metrics(
                cell,
                number,
                evaluated,
                is_final=True,
                stage=stage,
                metric=np.repeat(np.array(list(figures), dtype=object), len(names)),
                class_name=np.tile(names, len(figures)),
                value=np.concatenate(list(figures.values())),
                n=np.tile(of_class, len(figures)),
            )

    def _add_metrics(
        self,
        cell: str,
        number: int,
        evaluated: Evaluated,
        *,
        class_name: np.ndarray | None = None,
        slice_name: np.ndarray | None = None,
        slice_value: np.ndarray | None = None,
        **columns: Any,
    ) -> None:
        """Add figures of the predictions that were evaluated after a round."""
        names = {"class_name": class_name, "slice_name": slice_name, "slice_value": slice_value}
        self._add_evaluated("metrics", cell, number, evaluated, **names, **columns)

    def _add_predictions(self, cell: str, number: int, evaluated: Evaluated) -> None:
        for stage, logits in evaluated.logits.items():
            probs = softmax(logits)
            self._add_evaluated(
                "predictions",
                cell,
                number,
                evaluated,
                stage=stage,
                sample_id=evaluated.sample_id,
                group_id=evaluated.group_id,
                label=self._names[evaluated.labels],
                predicted=self._names[logits.argmax(axis=1)],
                confidence=probs.max(axis=1),
                probabilities=probs,
                logits=logits,
            )

    def _add_evaluated(
        self, table: str, cell: str, number: int, evaluated: Evaluated, **columns: Any
    ) -> None:
        """Add rows that say of which evaluation after which round they are."""
        self._add_block(
            table,
            cell,
            round=number,
            eval_dataset=evaluated.dataset,
            split=evaluated.split,
            condition=evaluated.condition,
            severity=_severity(evaluated) or np.nan,
            **columns,
        )

    def _add_block(self, table: str, cell: str, **columns: Any) -> None:
        """Add rows to a table: arrays of equal length, and what is the same in all of them."""
        n = max(len(column) for column in columns.values() if isinstance(column, np.ndarray))
        self._blocks.setdefault(table, []).append(_Block(n, {"run": cell} | columns))


class _Block(NamedTuple):
    n: int
    columns: dict[str, Any]  # arrays of n, or a value that every row has


def _joined(blocks: list[_Block]) -> Columns:
    sizes = [block.n for block in blocks]
    joined: Columns = {}
    for name in list(blocks[0].columns):
        values = [block.columns.pop(name) for block in blocks]  # not held twice
        is_array = [isinstance(value, np.ndarray) for value in values]
        if not any(is_array):
            kind = object if values[0] is None or isinstance(values[0], str) else None
            joined[name] = np.repeat(np.array(values, dtype=kind), sizes)
            continue
        if not all(is_array):  # what one block's rows share differs between another's
            kind = next(value.dtype for value in values if isinstance(value, np.ndarray))
            values = [
                value if whole else np.full(n, value, kind)
                for value, whole, n in zip(values, is_array, sizes, strict=True)
            ]
        joined[name] = np.concatenate(values)
    return joined


def _blank_where_negative(numbers: np.ndarray) -> np.ndarray:
    # NaN is a blank of every column, and takes a twentieth of the time of a mask.
    return np.where(numbers < 0, np.nan, numbers)


def _severity(evaluated: Evaluated) -> int:
    """Severity of the view that rows were seen in; 0 where it has none."""
    return (evaluated.condition and condition_of(evaluated.condition).severity) or 0


def _columns(table: str, rows: list[dict[str, Any]]) -> Columns:
    columns: Columns = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if TABLES[table][name] == "VARCHAR":
            columns[name] = np.array(values, dtype=object)
        elif None in values:
            missing = np.array([value is None for value in values])
            filled = np.array([0 if value is None else value for value in values])
            columns[name] = np.ma.masked_array(filled, mask=missing)
        else:
            columns[name] = np.array(values)
    return columns
