"""The page, the lists and the result rows of a label audit."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trustq.audit.apply import Cleaned
from trustq.audit.board import BoardRow
from trustq.audit.effect import DropEffect
from trustq.audit.folder import ANSWERS, require_no_answers, write_audit_folder
from trustq.audit.labels import OUTLIER, LabelAudit
from trustq.audit.set_issues import COLUMNS, KINDS, SetIssue, issue_counts
from trustq.core.atomic_files import replacing
from trustq.core.counts import counted
from trustq.core.label_sheets import require_csv
from trustq.core.prose import folded
from trustq.core.safety import DISCLAIMER
from trustq.core.spreadsheets import csv_text
from trustq.results import Result, connect, format_result, new_part, write_part
from trustq.statistics.paired import share_interval

MONTAGE = "mislabel_candidates.png"
SET_ISSUES = "set_issues.csv"
SHOWN = 15  # suspects and confusions on the page; all of them are in the files

Row = dict[str, Any]


def audit_page(audit: LabelAudit, issues: Sequence[SetIssue] | None = None) -> str:
    """One page of text: what was audited, the worst labels, classes, confusions, what to know.

    `issues` are those of the set, where they were looked for.
    """
    listed = audit.order
    n = int((audit.asked & ~audit.trusted).sum())
    what = "labels" if audit.unit == "row" else "groups by label"
    n_groups = len(set(audit.groups.tolist()))
    names = ", ".join(dict.fromkeys(source.cache.name for source in audit.sources))
    lines = [
        f"{names}: {n:,} {what} of {counted(n_groups, 'group')}, {len(audit.classes)} "
        f"classes; score {audit.score}, {audit.sources[0].head}",
        f"{int(audit.is_issue.sum()):,} are flagged by most of {len(audit.votes)} methods"
        + (f" and {audit.n_sources} sources" if audit.n_sources > 1 else "")
        + f"; the list has {len(listed):,} ({audit.cut})",
    ]
    guess = float(np.nansum(audit.p_wrong[audit.asked & ~audit.trusted]))
    lines.append(
        f"How many are wrong in all is not known before answers: the model alone guesses "
        f"{guess:,.0f}, unchecked. A review estimates it with an interval (trustq review)."
    )
    if len(listed):
        lines.append(
            f"Estimated share of the list that is wrong: {audit.p_wrong[listed].mean():.2f}. An "
            "estimate from the labels alone: a weak model's own errors count as label errors in "
            "it. Answers to some of the list tell the truth (trustq audit apply)."
        )
        lines += _reference_lines(audit, listed)
        far = int((audit.outlier[listed] >= OUTLIER).sum())
        if not np.isnan(audit.outlier[listed]).all():
            lines.append(
                f"{far} of the list lie further from their neighbours than {OUTLIER:.0%} of all "
                "rows: rubbish perhaps, rather than another class."
            )
        top = [_short(row) for row in issue_rows(audit, SHOWN)]
        lines += ["", f"The most suspicious {len(top)}:", _table(top)]
        lines += ["", "By class:", _table(class_rows(audit))]
        confusions = confusion_rows(audit)
        lines += ["", "By confusion:", _table(confusions[:SHOWN])]
        if len(confusions) > SHOWN:
            lines.append(f"and {len(confusions) - SHOWN} more")
    if issues is not None:
        lines += ["", "What else is wrong with the set (set_issues.csv):", set_issue_text(issues)]
    lines.append("")
    lines += [f"Note: {note}." for note in audit.notes]
    return "\n".join([*lines, DISCLAIMER])


def set_issue_text(issues: Sequence[SetIssue]) -> str:
    """Findings on the set by kind: how many, and the worst."""
    counts = issue_counts(issues)
    rows = []
    for kind, title in KINDS.items():
        worst = next((one for one in issues if one.kind == kind), None)
        if worst is None:
            continue
        names = " ".join(name for name in (worst.sample_id, worst.other) if name)
        rows.append(
            {
                "found": counts[kind],
                "what": title,
                "worst": names,
                "value": _rounded(worst.value),
                "usual": _rounded(worst.usual),
                "note": worst.note,
            }
        )
    return _table(rows) if rows else "nothing that was looked for"


def set_issue_rows(issues: Sequence[SetIssue]) -> list[Row]:
    """The findings as dicts, in their order."""
    return [
        {
            "kind": one.kind,
            "sample_id": one.sample_id,
            "other": one.other,
            "value": _rounded(one.value),
            "usual": _rounded(one.usual),
            "note": one.note,
        }
        for one in issues
    ]


def issue_rows(audit: LabelAudit, most: int | None = None) -> list[Row]:
    """The list, or the first `most` of it, most suspicious first, one dict a label."""
    saw = _saw_rows(audit)  # once: it looks at every row
    return [_issue(audit, row, saw) for row in audit.order[:most].tolist()]


def issue_columns(audit: LabelAudit) -> list[str]:
    """The columns of `issue_rows`, which may have no row."""
    return list(_issue(audit, 0, _saw_rows(audit)))


def class_rows(audit: LabelAudit) -> list[Row]:
    """Per given class: labels, how many are listed, and F1 of the out-of-fold predictions."""
    rows = []
    for c, name in enumerate(audit.classes):
        own = (audit.given == c) & ~audit.trusted
        suspected = audit.listed & own
        n, n_listed = int(own.sum()), int(suspected.sum())
        rows.append(
            {
                "class": name,
                "labels": n,
                "listed": n_listed,
                "rate": _rounded(n_listed / n) if n else None,
                "suggested": int((audit.listed & (audit.suggested == c)).sum()),
                "p_wrong": _rounded(audit.p_wrong[suspected].mean()) if n_listed else None,
                "f1": _rounded(audit.class_f1[c]),
            }
        )
    return rows


def confusion_rows(audit: LabelAudit) -> list[Row]:
    """Per given and suggested class that occur in the list, most frequent first."""
    pairs: dict[tuple[int, int], list[int]] = {}
    for row in audit.order.tolist():
        pairs.setdefault((int(audit.given[row]), int(audit.suggested[row])), []).append(row)
    counts = np.bincount(audit.given[~audit.trusted], minlength=len(audit.classes))
    return [
        {
            "given": audit.classes[given],
            "suggested": audit.classes[suggested],
            "listed": len(rows),
            "share_of_class": _rounded(len(rows) / int(counts[given])),
            "p_wrong": _rounded(audit.p_wrong[rows].mean()),
            "worst": str(audit.sample_ids[rows[0]]),
        }
        for (given, suggested), rows in sorted(pairs.items(), key=lambda p: (-len(p[1]), p[0]))
    ]


def write_audit(
    audit: LabelAudit,
    folder: Path,
    *,
    images: dict[str, str] | None = None,
    set_issues: Sequence[SetIssue] | None = None,
) -> list[Path]:
    """Write the page, the lists, an empty answers sheet and what later commands need.

    `images` says where the images are, by "manifest" and "root"; `set_issues` are what else is
    wrong with the set, where that was looked for. Raises `TrustqError` where the folder has an
    answers sheet with answers.
    """
    folder = Path(folder)
    require_no_answers(folder)
    (folder / MONTAGE).unlink(missing_ok=True)  # it would be of an earlier audit
    issues = issue_rows(audit)
    asked = [
        {"sample_id": i["sample_id"], "label": "", "given": i["given"], "suggested": i["suggested"]}
        for i in issues
    ]
    tables = {
        "label_issues.csv": (issues, issue_columns(audit)),
        "issues_per_class.csv": (class_rows(audit), None),
        "issue_confusions.csv": (confusion_rows(audit), CONFUSION_COLUMNS),
        ANSWERS: (asked, ["sample_id", "label", "given", "suggested"]),
    }
    (folder / SET_ISSUES).unlink(missing_ok=True)  # it would be of an earlier audit
    if set_issues is not None:
        tables[SET_ISSUES] = set_issue_rows(set_issues), list(COLUMNS)
    paths = []
    for name, (rows, columns) in tables.items():
        paths.append(folder / name)
        write_rows(paths[-1], rows, columns)
    paths.append(folder / "page.txt")
    with replacing(paths[-1]) as part:
        part.write_text(folded(audit_page(audit, set_issues)) + "\n", encoding="utf-8")
    return paths + write_audit_folder(audit, folder, images=images)


CONFUSION_COLUMNS = ["given", "suggested", "listed", "share_of_class", "p_wrong", "worst"]


def write_rows(path: Path, rows: Sequence[Row], columns: Iterable[str] | None = None) -> None:
    """Write dicts as a CSV file, whole or not at all; columns are the first row's or as given."""
    names = list(columns or rows[0])
    with replacing(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
        file.write(csv_text(names, ([row[name] for name in names] for row in rows)))


def record_audit(audit: LabelAudit, results: Path) -> bool:
    """Write every audited label to the table `label_issues`, unless this very audit is there.

    Returns whether rows were written.
    """
    results = Path(results)
    if (results / "results.json").is_file():
        with connect(results) as connection:
            there = connection.execute(
                "SELECT count(*) FROM label_issues WHERE audit = ?", [audit.key]
            ).fetchone()
        if there and there[0]:
            return False
    names = np.array([*audit.classes, None], dtype=object)
    n = len(audit.given)
    first = audit.sources[0]
    digests = ",".join(source.cache.content_digest for source in audit.sources)

    def constant(value: Any) -> np.ndarray:
        return np.full(n, value, dtype=object)

    columns = {
        "audit": constant(audit.key),
        "dataset": constant(first.cache.dataset),
        "cache_digest": constant(digests),
        "score": constant(audit.score),
        "source": constant(first.out_of_fold.source),
        "rank": np.ma.masked_equal(audit.rank, 0),
        "sample_id": audit.sample_ids,
        "group_id": audit.groups,
        "given": names[audit.given],
        "suggested": names[audit.suggested],
        "quality": _or_null(audit.quality),
        "is_issue": audit.is_issue,
        "listed": audit.listed,
        "flags": np.array([audit.flags(row) for row in range(n)], dtype=object),
        "agreement": audit.agreement,
        "n_sources": np.full(n, audit.n_sources),
        "p_given": _or_null(audit.p_given),
        "p_suggested": _or_null(audit.p_suggested),
        "p_wrong": _or_null(audit.p_wrong),
        "outlier": _or_null(audit.outlier),
        "neighbour_agreement": _or_null(audit.neighbour_agreement),
        "neighbours": np.array(
            [audit.neighbours_of(row) or None for row in range(n)], dtype=object
        ),
        "backbone_saw_row": _saw_rows(audit),
        "reference": names[audit.reference],
    }
    write_part(results, {"label_issues": columns}, part=new_part("audit"))
    return True


def audit_summary(audit: LabelAudit, issues: Sequence[SetIssue] | None = None) -> Row:
    """What a script wants to know, for JSON; the lists are in the files."""
    listed = audit.order
    wrong = _known_wrong(audit)
    return {
        "audit": audit.key,
        "n": int((~audit.trusted).sum()),
        "unit": audit.unit,
        "score": audit.score,
        "score_why": audit.why,
        "n_trusted": int(audit.trusted.sum()),
        "guessed_wrong": float(np.nansum(audit.p_wrong[audit.asked & ~audit.trusted])),
        "n_flagged": int(audit.is_issue.sum()),
        "n_listed": len(listed),
        "cut": audit.cut,
        "estimated_precision": float(audit.p_wrong[listed].mean()) if len(listed) else None,
        "reference_precision": (
            None if wrong is None or not len(listed) else float(wrong[listed].mean())
        ),
        "classes": class_rows(audit),
        "confusions": confusion_rows(audit),
        "set_issues": None if issues is None else issue_counts(issues),
        "notes": list(audit.notes),
    }


def write_cleaned(cleaned: Cleaned, path: Path) -> None:
    """Write the cleaned list as CSV, one column for each of `Cleaned.columns`.

    Raises `TrustqError` for a file whose ending is of another kind.
    """
    require_csv(Path(path))
    columns = cleaned.columns
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    write_rows(Path(path), [dict(zip(columns, row, strict=True)) for row in rows], columns)


def cleaned_page(cleaned: Cleaned) -> str:
    """What was changed and held back, class by class, and how many suspects were wrong."""
    n = len(cleaned.columns["label"])
    lines = [
        f"{cleaned.n_relabelled:,} of {n:,} labels were relabelled and {cleaned.n_dropped:,} "
        f"dropped; {cleaned.n_held_back:,} were held back by the cap."
    ]
    if cleaned.n_answered:
        low, high = cleaned.precision
        lines.append(
            f"Of {cleaned.n_answered} suspects that were answered {cleaned.n_wrong} were wrong: "
            f"{cleaned.n_wrong / cleaned.n_answered:.2f} [{low:.2f}, {high:.2f}]."
        )
    if cleaned.n_unchecked:
        lines.append(f"{cleaned.n_unchecked} of the changes were not checked by any person.")
    rows = [
        {"class": name, "labels": of, "changed": changed, "share": changed / of if of else None}
        for name, (of, changed) in cleaned.by_class.items()
    ]
    return "\n".join([*lines, "", _table(rows), "", DISCLAIMER])


def cleaned_summary(cleaned: Cleaned) -> Row:
    """The same, for JSON."""
    return {
        "n": len(cleaned.columns["label"]),
        "n_relabelled": cleaned.n_relabelled,
        "n_dropped": cleaned.n_dropped,
        "n_unchecked": cleaned.n_unchecked,
        "n_held_back": cleaned.n_held_back,
        "n_answered": cleaned.n_answered,
        "n_wrong": cleaned.n_wrong,
        "precision_interval": list(cleaned.precision),
        "changed_by_class": {name: changed for name, (_, changed) in cleaned.by_class.items()},
    }


def effect_rows(found: DropEffect) -> list[Row]:
    """Per class: labels dropped; recall and F1 before, after, and of random drops with their sd."""
    rows = []
    for c, name in enumerate(found.classes):
        row: Row = {
            "class": name,
            "labels": int(found.n_train[c]),
            "dropped": int(found.n_dropped[c]),
            "evaluated": int(found.n_evaluated[c]),
        }
        for measure in ("recall", "f1"):
            before, after = (getattr(of, measure)[c] for of in (found.before, found.after))
            drawn = np.array([getattr(of, measure)[c] for of in found.random])
            row |= _compared(measure, before, after, drawn)
        rows.append(row)
    return rows


def effect_page(found: DropEffect, *, width: int | None = None) -> str:
    """Before, after and at random, class by class and overall, in tables of so many columns."""
    lines = [
        f"{int(found.n_dropped.sum())} of {int(found.n_train.sum())} training labels dropped; "
        f"evaluated on {found.evaluated_on}; random: {len(found.random)} drops of as many labels "
        "of each class",
        "",
        _table(effect_rows(found), width),
        "",
    ]
    for measure in found.before.overall:
        before, after = (of.overall[measure] for of in (found.before, found.after))
        drawn = np.array([of.overall[measure] for of in found.random])
        spread = f" (sd {_sd(drawn):.4f})" if len(drawn) > 1 else ""
        lines.append(
            f"{measure}: {before:.4f} before, {after:.4f} after ({after - before:+.4f}), "
            f"{drawn.mean():.4f} at random{spread}"
        )
    lines += ["", "One network and one list: draws of the random control are no trainings."]
    return "\n".join([*lines, DISCLAIMER])


def effect_summary(found: DropEffect) -> Row:
    """The same, for JSON."""
    overall: Row = {}
    for measure in found.before.overall:
        drawn = np.array([of.overall[measure] for of in found.random])
        before, after = (of.overall[measure] for of in (found.before, found.after))
        overall |= _compared(measure, before, after, drawn)
    return {
        "evaluated_on": found.evaluated_on,
        "n_train": int(found.n_train.sum()),
        "n_dropped": int(found.n_dropped.sum()),
        "n_random_drops": len(found.random),
        "overall": overall,
        "classes": effect_rows(found),
    }


def board_page(rows: Sequence[BoardRow]) -> str:
    """The board as a table: sets in their order, scores by what they miss."""
    order = {name: place for place, name in enumerate(dict.fromkeys(row.set for row in rows))}
    shown = [
        {
            "set": row.set,
            "score": row.score,
            "wrong": row.noise_rate,
            "missed": row.missed,
            "interval": f"[{row.missed_low:.3f}, {row.missed_high:.3f}]",
            "AP": row.average_precision,
            "at 5 %": row.precision_5,
            "at 10 %": row.precision_10,
            "AP over self-confidence": f"{row.over:+.3f} "
            f"[{row.over_low:+.3f}, {row.over_high:+.3f}]",
            "list": row.list_precision,
            "list over self-confidence": f"{row.list_over:+.3f} "
            f"[{row.list_over_low:+.3f}, {row.list_over_high:+.3f}]",
        }
        for row in sorted(rows, key=lambda row: (order[row.set], row.missed))
    ]
    return "\n".join([_table(shown), "", DISCLAIMER])


def _compared(measure: str, before: float, after: float, drawn: np.ndarray) -> Row:
    row = {
        f"{measure}_before": before,
        f"{measure}_after": after,
        f"{measure}_random": drawn.mean(),
        f"{measure}_random_sd": _sd(drawn),
    }
    return {name: None if np.isnan(value) else float(value) for name, value in row.items()}


def _sd(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def _saw_rows(audit: LabelAudit) -> np.ndarray:
    """Rows whose label the backbone of a source was trained on, (n,)."""
    return np.asarray(np.any([source.seen for source in audit.sources], axis=0))


def _issue(audit: LabelAudit, row: int, saw: np.ndarray) -> Row:
    return {
        "rank": int(audit.rank[row]),
        "score": audit.score,
        "sample_id": str(audit.sample_ids[row]),
        "group_id": str(audit.groups[row]),
        "given": audit.classes[audit.given[row]],
        "suggested": audit.classes[audit.suggested[row]],
        "quality": _rounded(audit.quality[row]),
        "p_given": _rounded(audit.p_given[row]),
        "p_suggested": _rounded(audit.p_suggested[row]),
        "p_wrong": _rounded(audit.p_wrong[row]),
        "flags": audit.flags(row),
        "agreement": _rounded(audit.agreement[row]),
        "outlier": _rounded(audit.outlier[row]),
        "neighbour_agreement": _rounded(audit.neighbour_agreement[row]),
        "neighbours": audit.neighbours_of(row),
        "backbone_saw_row": bool(saw[row]),
    }


def _short(row: Row) -> Row:
    shown = ("sample_id", "given", "suggested", "quality", "p_wrong", "agreement", "outlier")
    return {name: row[name] for name in shown if row[name] is not None}


def _reference_lines(audit: LabelAudit, listed: np.ndarray) -> list[str]:
    wrong = _known_wrong(audit)
    if wrong is None:
        return []
    found, n = int(wrong[listed].sum()), len(listed)
    low, high = share_interval(found, n)
    return [
        f"By the reference labels {found:,} of the {n:,} are wrong, {found / n:.2f} [{low:.2f}, "
        f"{high:.2f}], of {int(wrong.sum()):,} wrong in all."
    ]


def _known_wrong(audit: LabelAudit) -> np.ndarray | None:
    """Wrong labels by the reference, where every row has one."""
    if (audit.reference < 0).any():
        return None
    return np.asarray((audit.reference != audit.given) & ~audit.trusted)


def _table(rows: Sequence[Row], width: int | None = None) -> str:
    columns = list(rows[0])
    return format_result(
        Result(columns, [tuple(_readable(row.get(name)) for name in columns) for row in rows]),
        "table",
        width=width,
    )


def _readable(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _rounded(value: float) -> float | None:
    value = float(value)  # numpy's take several times as long
    return None if math.isnan(value) else float(f"{value:.6g}")


def _or_null(values: np.ndarray) -> np.ndarray:
    return np.ma.masked_invalid(values)
