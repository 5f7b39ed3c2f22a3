"""Labels that look wrong: scores of probabilities that anyone has, and the audit."""

import html
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trustq.api.frames import Source, Table, arrays_of, as_file, classes_of, index_of, spread
from trustq.audit import (
    AuditSource,
    LabelAudit,
    Progress,
    known_labels,
    of_source,
    open_source,
    refuse_unused,
)
from trustq.audit import audit_labels as audit_sources
from trustq.audit.known import answers_of
from trustq.audit.labels import AUTO
from trustq.audit.set_issues import COLUMNS, SetIssue, columns_of_rows, find_set_issues
from trustq.core.class_names import read_labels, sorted_as_texts
from trustq.core.foreign_rows import sorted_note
from trustq.core.prose import folded
from trustq.core.words import is_no_group, plain_texts
from trustq.errors import InputError
from trustq.metrics.probabilities import checked_labels, checked_probs
from trustq.report.audit import (
    CONFUSION_COLUMNS,
    audit_page,
    class_rows,
    confusion_rows,
    issue_columns,
    issue_rows,
    set_issue_rows,
    write_audit,
)
from trustq.scoring import score_of
from trustq.scoring.confident import find_label_issues as flagged_by


def label_quality(
    labels: Any,
    probs: Any,
    *,
    groups: Any = None,
    score: str = "self_confidence",
    classes: Sequence[str] | None = None,
) -> np.ndarray:
    """Quality of each label by out-of-fold probabilities, (n,) in [0, 1], lower = more suspicious.

    `labels` is (n,) of class indices, or of class names: then `classes` gives the order of the
    columns, or a frame `probs` has them as its columns. `probs` is (n, k), rows that sum to 1, or
    (n,) of the second of two classes, of models that did not see the row, nor its group. With
    `groups`, (n,), a row has the lowest quality of its group, for who checks one image of a lesion
    has the others at hand; a row whose group is blank is its own. Series and frames are matched by
    their index, in the order of `labels`. `score` is self_confidence, normalized_margin,
    confident_learning, entropy, ... or a plug-in's.
    Raises `TrustqError` for shapes and values that do not fit and for an unknown score.

    >>> probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    >>> label_quality(["a", "a", "b"], probs, classes=["a", "b"]).tolist()
    [0.9, 0.2, 0.3]
    >>> label_quality([0, 0, 1], probs, groups=[1, 1, 2]).tolist()
    [0.2, 0.2, 0.3]
    """
    rows = _Rows(labels, probs, groups, classes)
    quality = score_of(score)(rows.labels, rows.probs)
    return quality if rows.group is None else _lowest(quality, rows.group)


def find_label_issues(
    labels: Any,
    probs: Any,
    *,
    groups: Any = None,
    method: str = "prune_by_noise_rate",
    score: str = "self_confidence",
    classes: Sequence[str] | None = None,
) -> Table:
    """The labels that a filter takes for wrong, the most suspicious first.

    Arguments are those of `label_quality`; `method` is one of cleanlab's seven filters. Columns:
    `row` (position), `label`, `suggested`, `quality`, `p_label`, `p_suggested` and, with groups,
    `group`: all rows of a group with a suspicious one stand together. Raises `TrustqError` as
    `label_quality` does, and for an unknown method.

    >>> probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.1, 0.9], [0.9, 0.1]])
    >>> find_label_issues([0, 0, 1, 1, 1], probs)["row"].tolist()
    [4]
    """
    rows = _Rows(labels, probs, groups, classes)
    quality = score_of(score)(rows.labels, rows.probs)
    issues = flagged_by(rows.labels, rows.probs, method=method)
    by = quality
    if rows.group is not None:
        suspected = np.zeros(rows.group.max() + 1, dtype=bool)
        suspected[rows.group[issues]] = True
        issues, by = suspected[rows.group], _lowest(quality, rows.group)
    keys = (quality, by) if rows.group is None else (quality, rows.group, by)
    order = np.lexsort(keys)
    found = order[issues[order]]
    suggested = rows.probs.argmax(axis=1)
    names = np.array(rows.classes, dtype=object)
    columns = {
        "row": found,
        "label": names[rows.labels[found]],
        "suggested": names[suggested[found]],
        "quality": quality[found],
        "p_label": rows.probs[found, rows.labels[found]],
        "p_suggested": rows.probs[found, suggested[found]],
    }
    if rows.group is not None:
        columns["group"] = rows.named[found]
    return Table(columns)


class LabelReport:
    """An audit of labels: `issues`, `labels`, `classes`, `confusions` and `set_issues`, tables.

    `page` is the report as text, `score` the name of the score and `why` says why it was taken,
    blank where it was asked for. `audit` holds everything that is known of every row;
    `save(folder)` writes what `trustq audit labels` writes. `metadata` is a table of the rows with
    further columns.
    """

    def __init__(self, audit: LabelAudit, *, metadata: Path | None = None) -> None:
        self.audit = audit
        self._metadata = metadata

    @cached_property
    def _set_issues(self) -> list[SetIssue]:
        columns = columns_of_rows(self._metadata, self.audit.sample_ids)
        return find_set_issues(self.audit, columns=columns)

    @property
    def set_issues(self) -> Table:
        """Outliers, near-duplicates, overlapping classes, weak clusters and more, by kind."""
        return Table.of_rows(set_issue_rows(self._set_issues), COLUMNS)

    @property
    def issues(self) -> Table:
        """The listed labels, most suspicious first."""
        return Table.of_rows(issue_rows(self.audit), issue_columns(self.audit))

    @property
    def score(self) -> str:
        """Name of the score that the list is by."""
        return self.audit.score

    @property
    def why(self) -> str:
        """Why that score, where none was asked for."""
        return self.audit.why

    @property
    def labels(self) -> Table:
        """Every audited label, listed or not, in the order of the rows that were given.

        `quality` is NaN where a label has no score, `rank` 0 where it has no place in the ranking.
        """
        audit, names = self.audit, np.array(self.audit.classes, dtype=object)
        return Table(
            {
                "sample_id": audit.sample_ids,
                "given": names[audit.given],
                "suggested": names[audit.suggested],
                "quality": audit.quality,
                "p_given": audit.p_given,
                "p_suggested": audit.p_suggested,
                "p_wrong": audit.p_wrong,
                "is_issue": audit.is_issue,
                "listed": audit.listed,
                "rank": audit.rank,
                "trusted": audit.trusted,
            }
        )

    @property
    def classes(self) -> Table:
        """Every class: its labels, how many are listed, and how well the model knows it."""
        return Table.of_rows(class_rows(self.audit))

    @property
    def confusions(self) -> Table:
        """Given and suggested classes of the listed labels, counted."""
        return Table.of_rows(confusion_rows(self.audit), CONFUSION_COLUMNS)

    @property
    def page(self) -> str:
        """The report as text."""
        return audit_page(self.audit, self._set_issues)

    def save(self, folder: str | Path) -> list[Path]:
        """Write the lists and the sheet of answers to a folder; returns their paths."""
        return write_audit(self.audit, Path(folder), set_issues=self._set_issues)

    def to_pandas(self) -> Any:
        """`issues` as a pandas data frame."""
        return self.issues.to_pandas()

    def to_polars(self) -> Any:
        """`issues` as a polars data frame."""
        return self.issues.to_polars()

    def __repr__(self) -> str:
        return folded(self.page)

    def _repr_html_(self) -> str:
        audit = self.audit
        first = f"{len(audit.order)} of {len(audit.given)} labels are listed, {audit.cut}"
        told = [f"{first}; score {audit.score}", *audit.notes]
        text = "".join(f"<p>{html.escape(line)}.</p>" for line in told)
        return text + self.issues._repr_html_()


def audit_labels(
    *sources: Source,
    score: str = AUTO,
    review: int | None = None,
    precision: float | None = None,
    source: str = "auto",
    head: str = "linear",
    folds: int = 5,
    repeats: int | None = None,
    seed: int = 0,
    names: dict[str, str] | None = None,
    normalize: str | None = None,
    answers: Source | None = None,
    trust: str | None = None,
    metadata: str | Path | None = None,
    unit: str = "row",
    progress: Progress | None = None,
) -> LabelReport:
    """Which labels look wrong, by models that did not see them.

    A source is a cache, a file of embeddings or of out-of-fold probabilities, a data frame, or a
    mapping of arrays (`features` or `probs`, `labels`, and if there are any `sample_ids`, `groups`,
    `classes`); several are of the same rows (seeds) and vote. Heads are fitted out of fold by group
    on features, over `repeats` divisions into `folds` (None: up to 4 of linear heads on few rows);
    with `source="file"` probabilities are taken for out of fold. The list is cut to the `review`
    most suspicious labels, or where its estimated `precision` falls below this share.
    `names` maps arrays to other names. `answers` (a sheet, its frame, or labels by id) stand in the
    place of given labels; like rows that `trust` names (`column=value,value` of the table
    `metadata`) they are learned from and not listed. `unit="group"` lists one row of each group and
    label. `progress` is called with what is done, its unit, how much and of how much. Raises
    `TrustqError` for what is missing or does not fit.

    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat([0, 1], 50)
    >>> features = rng.normal(size=(100, 2)) + 8 * labels[:, None]
    >>> labels[3] = 1
    >>> report = audit_labels({"features": features, "labels": labels}, review=1)
    >>> report.issues["sample_id"].tolist()
    ['3']
    """
    known = known_labels(
        answers=_answers(answers),
        trust=trust,
        metadata=None if metadata is None else Path(metadata),
    )
    opened: list[AuditSource] = []
    for index, one in enumerate(sources):
        with as_file(one, names) as path:
            opened.append(
                open_source(
                    path,
                    source=source,
                    head=head,
                    folds=folds,
                    repeats=repeats,
                    seed=seed,
                    names=names,
                    normalize=normalize,
                    known=known,
                    beside=opened[0] if opened else None,
                    progress=of_source(progress, index, len(sources)),
                )
            )
        refuse_unused(opened[-1], head=head, folds=folds, seed=seed)
        if not isinstance(one, str | Path):
            opened[-1].cache.path = None  # no file that anyone could open again
    return LabelReport(
        audit_sources(
            opened,
            score=score,
            review=review,
            precision=precision,
            unit=unit,
            progress=progress,
        ),
        metadata=None if metadata is None else Path(metadata),
    )


def _answers(given: Any) -> Path | Mapping[str, str] | None:
    """Answers as the path of a sheet, or as labels by id: of a mapping, a series or a frame."""
    if given is None or isinstance(given, Mapping | Path):
        return given
    if isinstance(given, str):
        return Path(given)
    if index_of(given) is not None and not hasattr(given, "columns"):  # a series by id
        return dict(given.items())
    with as_file(given) as path:
        return answers_of(path)


class _Rows:
    """Labels as class indices, probabilities and groups, checked against each other."""

    def __init__(self, labels: Any, probs: Any, groups: Any, classes: Sequence[str] | None) -> None:
        probs = spread(probs)
        arrays = {"labels": labels, "probs": probs}
        arrays = arrays_of(arrays if groups is None else arrays | {"groups": groups})
        given, scores = arrays["labels"], arrays["probs"]
        classes = classes_of(probs, "probs", [given], stated=classes)
        if scores.ndim == 1 or (scores.ndim == 2 and scores.shape[1] == 1):
            try:
                second = scores.reshape(-1).astype(np.float64)  # of the second of two classes
            except (TypeError, ValueError) as error:
                raise InputError(f"probs holds what is no number ({error}).") from error
            scores = np.stack([1 - second, second], axis=1)
        self.probs = checked_probs(scores)
        if note := sorted_note(self.probs, source="The input", name="probs"):
            warnings.warn(note, stacklevel=3)
        n, k = self.probs.shape
        found = read_labels(given, source="The input", classes=classes, width=k)
        for note in found.notes:
            if "counted from 1" in note or note == sorted_as_texts("labels"):
                warnings.warn(note, stacklevel=3)
        if missing := int((found.indices < 0).sum()):
            raise InputError(
                f"labels has no class in {missing} of {len(given)} rows: leave out rows without a "
                "label."
            )
        self.classes = tuple(range(k)) if classes is None else found.classes
        self.labels = checked_labels(found.indices, n, k, beside="probs")
        self.group, self.named = None, np.empty(0)
        if groups is not None:
            named = arrays["groups"]
            named = named[:, 0] if named.ndim == 2 and named.shape[1] == 1 else named
            if named.shape != (n,):
                raise InputError(
                    f"groups has shape {named.shape} and labels ({n},): pass one group per label, "
                    "in the same order."
                )
            self.named = named
            # As in files: a row without a group is a group of its own.
            own = [f"row {i}" if is_no_group(g) else g for i, g in enumerate(plain_texts(named))]
            self.group = np.unique(own, return_inverse=True)[1]


def _lowest(quality: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Each row's lowest quality of its group; NaN only where no row of it has one."""
    lowest = np.full(group.max() + 1, np.nan)
    np.fmin.at(lowest, group, quality)
    return np.asarray(lowest[group])
