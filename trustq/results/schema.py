"""The result tables as data: table, column, SQL type. There are no other columns."""

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
}

TABLES: dict[str, dict[str, str]] = {
    # One row an experiment: one arm, head and budget on one cache and one draw.
    "runs": {
        "key": "VARCHAR",
        "request": "VARCHAR",  # digest of what was asked; a sweep skips by it
        "results_version": "INTEGER",
        "recipe": "VARCHAR",
        "dataset": "VARCHAR",
        "classes": "VARCHAR",  # JSON list; the order of probabilities and logits
        "cache": "VARCHAR",  # path
        "cache_recipe": "VARCHAR",  # name of the recipe that the cache was extracted by
        "cache_digest": "VARCHAR",
        "origin_digest": "VARCHAR",  # of the cache whose labels were repaired; mostly the same
        "training": "VARCHAR",  # digest of how the network learnt, but for its labels
        "backbone": "VARCHAR",
        "backbone_seed": "INTEGER",
        "draw_seed": "INTEGER",
        "rows_used": "VARCHAR",  # 'split' or 'unseen'
        "target": "VARCHAR",  # metadata column of the labels; NULL: the cache's own
        "fit_on": "VARCHAR",  # rows that the head was fitted on, COLUMN=VALUE; NULL: all
        "row_weights": "VARCHAR",  # of rows in the fit, with their columns; NULL: all the same
        "noise": "VARCHAR",
        "noise_process": "VARCHAR",  # digest of its matrix, for a file may change; NULL when stored
        "noise_unit": "VARCHAR",
        "noise_rate": "DOUBLE",  # realised
        "buy_unit": "VARCHAR",
        "policy": "VARCHAR",  # JSON of how the budget is spent and answered; NULL: the defaults
        "arm": "VARCHAR",
        "score": "VARCHAR",
        "source": "VARCHAR",
        "action": "VARCHAR",
        "arm_title": "VARCHAR",
        "head": "VARCHAR",
        "head_settings": "VARCHAR",  # JSON, as asked; the penalty chosen is in `rounds`
        "refit": "VARCHAR",  # what learnt from the arm's labels: 'head', 'backbone', 'both', 'none'
        "calibrator": "VARCHAR",
        "calibration_labels": "VARCHAR",  # which labels were used, or why none
        "budget": "VARCHAR",  # as asked: '64', '15%', 'all-wrong'
        "n_rounds": "INTEGER",  # as asked
        "n_rounds_done": "INTEGER",  # an arm ends early when it finds nothing to buy
        "n_folds": "INTEGER",
        "trusted": "DOUBLE",  # fraction asked
        "trusted_strata": "VARCHAR",
        "exposure": "VARCHAR",
        "leaky": "BOOLEAN",
        "in_sample": "BOOLEAN",
        "backbone_saw_rows": "BOOLEAN",
        "n_train": "INTEGER",
        "n_wrong_start": "INTEGER",
        "n_bought": "INTEGER",  # labels that were paid for
        "n_flagged": "INTEGER",  # rows taken: bought, dropped or weighed down
        "n_votes": "INTEGER",  # answers that were paid for, of all raters
        "spent": "DOUBLE",  # in units of a label's price
        "errors_findable": "INTEGER",  # wrong labels that the budget could find at most
        "stopped": "VARCHAR",  # why no more was taken
        "n_trusted": "INTEGER",
        "n_clean_validation": "INTEGER",
        "n_unscored": "INTEGER",
        "selection_digest": "VARCHAR",
        "calibration_digest": "VARCHAR",
        "shared_key": "VARCHAR",
        "threads": "INTEGER",
        "seconds": "DOUBLE",
        "head_bytes": "BIGINT",  # what the last round's head keeps; NULL without a head
        "microseconds_per_row": "DOUBLE",  # predicted, over all rows of the run up to this cell
        "created": "VARCHAR",
        "versions": "VARCHAR",  # JSON
    },
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

# Columns of `runs` that say what was asked, without the two seeds: seeds are averaged within them.
SETTINGS = (
    "results_version",
    "dataset",
    "cache_recipe",
    "backbone",
    "rows_used",
    "target",
    "fit_on",
    "row_weights",
    "noise",
    "noise_process",
    "noise_unit",
    "buy_unit",
    "policy",
    "arm",
    "score",
    "source",
    "action",
    "arm_title",
    "head",
    "head_settings",
    "refit",
    "calibrator",
    "calibration_labels",
    "budget",
    "n_rounds",
    "n_folds",
    "trusted",
    "trusted_strata",
    "exposure",
    "leaky",
    "in_sample",
    "backbone_saw_rows",
)

# What a purchase is; an arm that buys nothing has none of these, so it pairs with any.
PURCHASE = ("budget", "n_rounds", "buy_unit", "policy")

# Equal in both halves of a pair, beside the purchase, the cache and the two seeds.
MATCHED = (
    "results_version",
    "dataset",
    "cache_recipe",
    "backbone",
    "rows_used",
    "target",
    "fit_on",
    "row_weights",
    "noise",
    "noise_process",
    "noise_unit",
    "head",
    "head_settings",
    "refit",
    "calibrator",
    "n_folds",
    "trusted",
    "trusted_strata",
)

# What may differ between two arms beside their name; `paired.differs` lists those that do.
COMPARED = (
    "score",
    "source",
    "action",
    "calibration_labels",
    "exposure",
    "leaky",
    "in_sample",
    "backbone_saw_rows",
    "noise_rate",
    "n_trusted",
    "n_clean_validation",
    "selection_digest",
    "calibration_digest",
)

# What tells two figures of one cell and round apart.
COORDINATES = (
    "eval_dataset",
    "split",
    "stage",
    "metric",
    "class_name",
    "slice_name",
    "slice_value",
)

# What makes two settings answers to one question, so that they have places on one leaderboard.
PROBLEM = (
    "results_version",
    "dataset",
    "cache_recipe",
    "rows_used",
    "target",
    "noise",
    "noise_process",
    "noise_unit",
    "trusted",
    "trusted_strata",
)

# Metrics of which less is better; of all others more is.
LOWER_IS_BETTER = ("nll", "brier", "ece", "aurc", "e_aurc", "augrc", "risk_at_0_5")
