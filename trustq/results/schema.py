"""The result tables as data: table, column, SQL type. There are no other columns.

Columns of settings and what they do in tables are declared in `trustq.recipes.schema`.
"""

from typing import NamedTuple

from trustq.recipes.schema import ROLES, sweep_settings

FORMAT = "trustq.results"
FORMAT_VERSION = 2  # since 2, every part has a record of digests

MARKER = "results.json"  # carries format and version; a folder without it holds no results

COMPACTIONS = "compactions"  # folder of records: which parts were merged into which
RECIPES = "recipes"  # folder of resolved recipes, as sweeps were given them

# Names of tables and columns in parts of format 1, which are read under those of today.
FORMER_TABLES = {"runs": "cells"}
FORMER_COLUMNS = {
    "run": "cell",
    "value": "figure",
    "errors_found": "hits",
    "errors_found_total": "hits_total",
    "purchase_precision": "hit_rate",
    "errors_findable": "hits_possible",
    "was_wrong": "hit",
}

_ROW = {  # which evaluation a metric or a prediction belongs to
    "run": "VARCHAR",  # runs.key
    "round": "INTEGER",  # 0 is before any purchase
    "eval_dataset": "VARCHAR",
    "split": "VARCHAR",
    # 'uncalibrated' or 'calibrated'; of external rows, after the last round, also those of
    # `trustq.evaluation.shift_stages`: 'oracle_temperature', 'em_corrected', 'bbse_corrected',
    # 'reweighted'
    "stage": "VARCHAR",
    # The stored view that the rows were seen in (blur-3), with its severity where its family has
    # an order; NULL: the images as they are. `split` is then 'view'.
    "condition": "VARCHAR",
    "severity": "INTEGER",
}


class Column(NamedTuple):
    """A column of `runs`: its SQL type, and what it does in tables, as of `ROLES`."""

    sql: str
    role: str = ""


_OF_SETTINGS = {s.column: Column(s.sql, " ".join(s.role)) for s in sweep_settings() if s.column}


def _settings(*names: str) -> dict[str, Column]:
    """Columns of settings by their names; without names, all of them."""
    return {name: _OF_SETTINGS[name] for name in names or _OF_SETTINGS}


# One row an experiment: one arm, head and budget on one cache and one draw. Settings stand where
# readers look for them; one that is not named here comes after the named.
RUNS: dict[str, Column] = {
    "key": Column("VARCHAR"),
    "request": Column("VARCHAR"),  # digest of what was asked; a sweep skips by it
    "results_version": Column("INTEGER", "setting matched problem"),
    "recipe": Column("VARCHAR"),
    "dataset": Column("VARCHAR", "setting matched problem"),
    "classes": Column("VARCHAR"),  # JSON list; the order of probabilities and logits
    "cache": Column("VARCHAR"),  # path
    "cache_recipe": Column(
        "VARCHAR", "setting matched problem"
    ),  # name of the recipe that the cache was extracted by
    "cache_digest": Column("VARCHAR"),
    "origin_digest": Column("VARCHAR"),  # of the cache whose labels were repaired; mostly the same
    "training": Column("VARCHAR"),  # digest of how the network learnt, but for its labels
    "backbone": Column("VARCHAR", "setting matched"),
    "backbone_seed": Column("INTEGER"),
    "draw_seed": Column("INTEGER"),
    **_settings("rows_used"),  # 'split' or 'unseen'
    **_settings("target"),  # metadata column of the labels; NULL: the cache's own
    **_settings("fit_on"),  # rows that the head was fitted on, COLUMN=VALUE; NULL: all
    **_settings("row_weights"),  # of rows in the fit, with their columns; NULL: all the same
    **_settings("noise"),
    "noise_process": Column(
        "VARCHAR", "setting matched problem"
    ),  # digest of its matrix, for a file may change; NULL when stored
    **_settings("noise_unit"),
    "noise_rate": Column("DOUBLE", "compared"),  # realised
    **_settings("buy_unit"),
    "policy": Column(
        "VARCHAR", "setting purchase"
    ),  # JSON of how the budget is spent and answered; NULL: the defaults
    "arm": Column("VARCHAR", "setting"),
    "score": Column("VARCHAR", "setting compared"),
    "source": Column("VARCHAR", "setting compared"),
    "action": Column("VARCHAR", "setting compared"),
    "arm_title": Column("VARCHAR", "setting"),
    **_settings("head"),
    "head_settings": Column(
        "VARCHAR", "setting matched"
    ),  # JSON, as asked; the penalty chosen is in `rounds`
    "refit": Column(
        "VARCHAR", "setting matched"
    ),  # what learnt from the arm's labels: 'head', 'backbone', 'both', 'none'
    **_settings("calibrator"),
    "calibration_labels": Column(
        "VARCHAR", "setting compared"
    ),  # which labels were used, or why none
    **_settings("budget"),  # as asked: '64', '15%', 'all-wrong'
    **_settings("n_rounds"),  # as asked
    "n_rounds_done": Column("INTEGER"),  # an arm ends early when it finds nothing to buy
    **_settings("n_folds"),
    **_settings("trusted"),  # fraction asked
    **_settings("trusted_strata"),
    **_settings(),  # those that have no place above
    "exposure": Column("VARCHAR", "setting compared"),
    "leaky": Column("BOOLEAN", "setting compared"),
    "in_sample": Column("BOOLEAN", "setting compared"),
    "backbone_saw_rows": Column("BOOLEAN", "setting compared"),
    "n_train": Column("INTEGER"),
    "n_wrong_start": Column("INTEGER"),
    "n_bought": Column("INTEGER"),  # labels that were paid for
    "n_flagged": Column("INTEGER"),  # rows taken: bought, dropped or weighed down
    "n_votes": Column("INTEGER"),  # answers that were paid for, of all raters
    "spent": Column("DOUBLE"),  # in units of a label's price
    "errors_findable": Column("INTEGER"),  # wrong labels that the budget could find at most
    "stopped": Column("VARCHAR"),  # why no more was taken
    "n_trusted": Column("INTEGER", "compared"),
    "n_clean_validation": Column("INTEGER", "compared"),
    "n_unscored": Column("INTEGER"),
    "selection_digest": Column("VARCHAR", "compared"),
    "calibration_digest": Column("VARCHAR", "compared"),
    "shared_key": Column("VARCHAR"),
    "threads": Column("INTEGER"),
    "seconds": Column("DOUBLE"),
    "head_bytes": Column("BIGINT"),  # what the last round's head keeps; NULL without a head
    "microseconds_per_row": Column("DOUBLE"),  # predicted, over all rows of the run up to this cell
    "created": Column("VARCHAR"),
    "versions": Column("VARCHAR"),  # JSON
}

TABLES: dict[str, dict[str, str]] = {
    "runs": {name: column.sql for name, column in RUNS.items()},
    "rounds": {
        "run": "VARCHAR",
        "round": "INTEGER",
        "n_bought": "INTEGER",  # in this round
        "n_bought_total": "INTEGER",
        "n_flagged": "INTEGER",  # rows taken in this round: bought, dropped or weighed down
        "n_flagged_total": "INTEGER",
        "n_votes": "INTEGER",  # in this round
        "spent_total": "DOUBLE",
        "errors_found": "INTEGER",  # rows taken whose label was wrong
        "errors_found_total": "INTEGER",
        "purchase_precision": "DOUBLE",  # the ledger's precision, a word that SQL keeps for itself
        "noise_left": "DOUBLE",  # of the rows that were not dropped
        "noise_estimated": "DOUBLE",  # by the confident joint; NULL where no folds were fitted
        "n_wrong_left": "INTEGER",
        "fit_seconds": "DOUBLE",
        "regularisation": "DOUBLE",  # the C chosen, where the head has one
        "temperature": "DOUBLE",  # on this round's validation logits, where that is the calibrator
    },
    # The confident joint of labels as they are and true ones, after each round that fitted folds.
    "transitions": {
        "run": "VARCHAR",
        "round": "INTEGER",
        "given": "VARCHAR",
        "true_class": "VARCHAR",
        "share": "DOUBLE",  # of rows; all of a round sum to 1
    },
    # The ledger: every label bought, and every row dropped or weighed down.
    "queries": {
        "run": "VARCHAR",
        "round": "INTEGER",
        "rank": "INTEGER",
        "sample_id": "VARCHAR",
        "quality": "DOUBLE",  # lower is more suspicious; NULL for random and oracle
        "fold": "INTEGER",
        "label_before": "VARCHAR",
        "label_after": "VARCHAR",  # NULL: the row was dropped
        "truth": "VARCHAR",
        "was_wrong": "BOOLEAN",
        "votes": "INTEGER",  # 0: nobody was asked
        "price": "DOUBLE",  # a group's is on its first row
    },
    "labels": {
        "run": "VARCHAR",
        "sample_id": "VARCHAR",
        "label": "VARCHAR",
        "observed": "VARCHAR",
        "current_label": "VARCHAR",
        "trusted": "BOOLEAN",
        "weight": "DOUBLE",  # in the last fit; 0: dropped
        "bought_round": "INTEGER",  # round in which it was taken
    },
    "metrics": {
        **_ROW,
        "is_final": "BOOLEAN",
        "metric": "VARCHAR",
        # NULL: of all classes. Those of one are of the last round: recall, precision, f1, auroc.
        "class_name": "VARCHAR",
        # NULL: of all rows. Those of slices are of the last round.
        "slice_name": "VARCHAR",  # metadata column
        "slice_value": "VARCHAR",  # NULL beside a slice_name: a gap between its slices
        "value": "DOUBLE",
        "n": "INTEGER",  # rows that the figure is of; those of its class
    },
    "predictions": {
        **_ROW,
        "sample_id": "VARCHAR",
        "group_id": "VARCHAR",
        "label": "VARCHAR",
        "predicted": "VARCHAR",
        "confidence": "DOUBLE",
        "probabilities": "DOUBLE[]",
        "logits": "DOUBLE[]",
    },
    "label_issues": {
        "audit": "VARCHAR",  # tells two audits of one data set apart
        "dataset": "VARCHAR",
        "cache_digest": "VARCHAR",
        "score": "VARCHAR",
        "source": "VARCHAR",
        "rank": "INTEGER",
        "sample_id": "VARCHAR",
        "group_id": "VARCHAR",
        "given": "VARCHAR",
        "suggested": "VARCHAR",
        "quality": "DOUBLE",
        "is_issue": "BOOLEAN",  # most votes of sources and methods flag it
        "listed": "BOOLEAN",  # it is on the list, as that was cut
        "flags": "VARCHAR",  # methods that flag it
        "agreement": "DOUBLE",  # share of sources and methods that flag it
        "n_sources": "INTEGER",  # caches (seeds) or files that voted
        "p_given": "DOUBLE",  # out-of-fold probability of the given class
        "p_suggested": "DOUBLE",
        "p_wrong": "DOUBLE",  # an estimate
        "outlier": "DOUBLE",  # share of rows that lie closer to their neighbours
        "neighbour_agreement": "DOUBLE",
        "neighbours": "VARCHAR",
        "backbone_saw_row": "BOOLEAN",
        "reference": "VARCHAR",  # the label known to be right, where there is one
    },
    # Trust tables: every figure of conditions, slices and sources of uncertainty.
    "trust": {
        "trust_key": "VARCHAR",  # tells two tables apart
        "dataset": "VARCHAR",
        "made_of": "VARCHAR",  # digests of the caches, or the file of predictions
        "condition": "VARCHAR",
        "severity": "INTEGER",  # NULL where conditions of the family have no order
        "kind": "VARCHAR",  # 'clean', 'corruption' or 'shift'
        "slice_name": "VARCHAR",  # NULL: of all rows
        "slice_value": "VARCHAR",
        "source": "VARCHAR",
        "member": "VARCHAR",  # one network or head; NULL: the mean over all of them
        "metric": "VARCHAR",
        "value": "DOUBLE",
        "lower": "DOUBLE",
        "upper": "DOUBLE",
        "delta": "DOUBLE",  # less the clean condition, paired
        "delta_lower": "DOUBLE",
        "delta_upper": "DOUBLE",
        "n": "INTEGER",
        "n_groups": "INTEGER",
        "n_members": "INTEGER",
        "thresholds_from": "VARCHAR",
    },
    # Their tests: each source against the plain softmax under every condition.
    "trust_tests": {
        "trust_key": "VARCHAR",
        "dataset": "VARCHAR",
        "condition": "VARCHAR",
        "source": "VARCHAR",
        "baseline": "VARCHAR",
        "metric": "VARCHAR",
        "value": "DOUBLE",
        "difference": "DOUBLE",
        "lower": "DOUBLE",
        "upper": "DOUBLE",
        "p": "DOUBLE",
        "holm_p": "DOUBLE",
        "family": "VARCHAR",  # which tests the adjustment is over
    },
    # How much the map of each row moves, by network and by what moves it.
    "stability": {
        "explain_key": "VARCHAR",  # tells two measurements apart
        "dataset": "VARCHAR",
        "cache": "VARCHAR",
        "cache_digest": "VARCHAR",
        "cache_recipe": "VARCHAR",
        "backbone": "VARCHAR",
        "backbone_seed": "INTEGER",
        "method": "VARCHAR",  # 'exact', 'gradcam' or 'scorecam'
        "explained": "VARCHAR",  # 'predicted', 'label' or a class
        "split": "VARCHAR",
        "kind": "VARCHAR",  # 'passes', 'views' or 'seeds'
        "over": "VARCHAR",  # which passes, which view
        "n_maps": "INTEGER",  # beside the clean one
        "sample_id": "VARCHAR",
        "group_id": "VARCHAR",
        "label": "VARCHAR",
        "predicted": "VARCHAR",
        "confidence": "DOUBLE",  # largest probability, without temperature
        "overlap": "DOUBLE",  # NULL: a blank map
        "rank_correlation": "DOUBLE",
        "shift": "DOUBLE",
        "max_sensitivity": "DOUBLE",
    },
    # The eight cells correct x confident x stable of each network.
    "trust_cells": {
        "explain_key": "VARCHAR",
        "dataset": "VARCHAR",
        "made_of": "VARCHAR",  # digests of all caches that were compared
        "split": "VARCHAR",
        "cache": "VARCHAR",
        "backbone_seed": "INTEGER",
        "over": "VARCHAR",
        "confidence_cut": "DOUBLE",
        "stability_cut": "DOUBLE",
        "correct": "BOOLEAN",
        "confident": "BOOLEAN",
        "stable": "BOOLEAN",
        "n": "INTEGER",
        "share": "DOUBLE",
        "lower": "DOUBLE",
        "upper": "DOUBLE",
    },
    # Whether stability adds anything to confidence, at equal coverage, over all networks.
    "trust_cell_answers": {
        "explain_key": "VARCHAR",
        "dataset": "VARCHAR",
        "made_of": "VARCHAR",
        "split": "VARCHAR",
        "n_networks": "INTEGER",
        "n_groups": "INTEGER",
        "coverage": "DOUBLE",
        "risk_stable": "DOUBLE",
        "risk_matched": "DOUBLE",
        "difference": "DOUBLE",  # below 0: stability helps
        "lower": "DOUBLE",
        "upper": "DOUBLE",
        "p": "DOUBLE",  # sign-flip over networks; NULL for one
        "p_floor": "DOUBLE",
        "answer": "VARCHAR",
    },
    # Cells that ended with an error and have not been run since.
    "failures": {
        "request": "VARCHAR",  # runs.request
        "recipe": "VARCHAR",
        "dataset": "VARCHAR",
        "cache": "VARCHAR",
        "backbone_seed": "INTEGER",
        "draw_seed": "INTEGER",
        "noise": "VARCHAR",
        "head": "VARCHAR",
        "arm": "VARCHAR",
        "budget": "VARCHAR",
        "n_rounds": "INTEGER",
        "error": "VARCHAR",
        "traceback": "VARCHAR",
        "created": "VARCHAR",
    },
    "samples": {
        "dataset": "VARCHAR",
        "sample_id": "VARCHAR",
        "path": "VARCHAR",
        "label": "VARCHAR",
        "group_id": "VARCHAR",
        "split": "VARCHAR",
        "domain": "VARCHAR",
        "metadata": "VARCHAR",  # JSON
    },
}

# Tables whose rows belong to a cell and are seen only once that cell is committed.
OF_CELLS = tuple(table for table, columns in TABLES.items() if "run" in columns)


def _of_role(role: str) -> tuple[str, ...]:
    assert role in ROLES
    return tuple(name for name, column in RUNS.items() if role in column.role.split())


# Columns of `runs` that say what was asked, without the two seeds: seeds are averaged within them.
SETTINGS = _of_role("setting")

# Of those, what an arm is and what is known of its scores: `arm_title` says it for people.
OF_ARM = (
    "arm",
    "score",
    "source",
    "action",
    "arm_title",
    "in_sample",
    "leaky",
    "backbone_saw_rows",
)

# What two experiments differ in that ask for the same arms and purchases: each has its own table.
EXPERIMENT = (*(name for name in _of_role("matched") if name != "refit"), "exposure")

# What a purchase is; an arm that buys nothing has none of these, so it pairs with any.
PURCHASE = _of_role("purchase")

# Equal in both halves of a pair, beside the purchase, the cache and the two seeds.
MATCHED = _of_role("matched")

# What may differ between two arms beside their name; `paired.differs` lists those that do.
COMPARED = _of_role("compared")

# What makes two settings answers to one question, so that they have places on one leaderboard.
PROBLEM = _of_role("problem")

# What tells two figures of one cell and round apart.
COORDINATES = (
    "eval_dataset",
    "split",
    "stage",
    "condition",
    "severity",
    "metric",
    "class_name",
    "slice_name",
    "slice_value",
)

# Metrics of which less is better; of all others more is.
LOWER_IS_BETTER = ("nll", "brier", "ece", "aurc", "e_aurc", "augrc", "risk_at_0_5")
