"""Labels that an audit takes as known: what people answered, and rows whose source is trusted."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trustq.audit.source import KnownLabels
from trustq.core.class_names import listed
from trustq.core.columns import read_table
from trustq.core.label_sheets import sheet_columns
from trustq.core.words import plain_text, plain_texts, split_names
from trustq.errors import InputError


def known_labels(
    *,
    answers: Path | Mapping[str, str] | None = None,
    trust: str | None = None,
    metadata: Path | None = None,
) -> KnownLabels | None:
    """Answers of an earlier review and rows that `trust` names, as one; None where there are none.

    `answers` is a sheet with `sample_id` and `label`, or labels by id; blanks are no answers.
    `trust` is COLUMN=VALUE,VALUE of the table `metadata` (a manifest is one), whose rows keep their
    given label. An answer goes before trust. Raises `TrustqError` for a missing column, a value
    that no row has, a row that is answered in two ways, and a sheet without any answer.
    """
    labels: dict[str, str | None] = {}
    where = []
    if trust is not None:
        labels |= dict.fromkeys(_trusted_ids(trust, metadata))
        where.append(trust)
    if answers is not None:
        given = answers if isinstance(answers, Mapping) else answers_of(Path(answers))
        said = {plain_text(sample_id): plain_text(label) for sample_id, label in given.items()}
        labels |= {sample_id: label for sample_id, label in said.items() if label}
        where.append("answers" if isinstance(answers, Mapping) else str(answers))
    return KnownLabels(labels, " and ".join(where)) if where else None


def answers_of(path: Path) -> dict[str, str]:
    """Labels by sample id of a sheet with `sample_id` and `label`; blanks are no answers."""
    table = read_table(path)
    key, name = sheet_columns(table, ("label",), where=str(path))
    found: dict[str, str] = {}
    texts = zip(plain_texts(table[key]), plain_texts(table[name]), strict=True)
    for sample_id, label in texts:
        if not label or not sample_id:
            continue
        if found.setdefault(sample_id, label) != label:
            raise InputError(f"{path}: {sample_id!r} is answered in two ways.", path=path)
    if not found:
        raise InputError(
            f"{path} holds no answers yet: fill in its column label, or leave it out.", path=path
        )
    return found


def _trusted_ids(trust: str, metadata: Path | None) -> list[str]:
    column, _, values = trust.partition("=")
    if not column or not values.strip(" ,"):
        raise InputError(
            f"`trust={trust}`: expected COLUMN=VALUE,VALUE, e.g. dx_type=histo,consensus.",
            where="trust",
            found=trust,
        )
    if metadata is None:
        raise InputError(f"`trust={trust}` needs a table with that column: pass `metadata`.")
    table = read_table(Path(metadata))
    key, name = sheet_columns(table, (column,), where=str(metadata))
    texts = np.array(plain_texts(table[name]))
    there = sorted(set(texts.tolist()))
    wanted = split_names(values, known=there)
    if missing := [value for value in wanted if value not in there]:
        raise InputError(
            f"{metadata}: no row has {column} {missing[0]!r}; there are {listed(there, 10)}."
        )
    return plain_texts(table[key][np.isin(texts, wanted)])
