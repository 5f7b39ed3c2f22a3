"""Any table, CSV or Parquet, with a path and a label in each row."""

from pathlib import Path

import numpy as np

from trustq.core.columns import read_table
from trustq.data.manifest import IMAGE_DIGEST, REQUIRED
from trustq.datasets.rows import IMAGE_SUFFIXES, Rows, column, texts
from trustq.errors import InputError


def read_rows(
    root: Path,
    *,
    table: str | Path | None = None,
    id_column: str | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    split_column: str | None = None,
) -> Rows:
    """Rows of a table, whose columns are named as in a manifest or by the options.

    Paths are relative to `root`; one without an image's ending gets that of the file that is there.
    Without `group_id` every row is its own group; without `split` rows are split later; `domain`
    is taken where it is there. Every other column is kept as metadata, under `table_<name>` where
    the manifest has a column of that name. The data set is called as the file. Classes are in
    sorted order. Raises `TrustqError` for a missing column, naming the nearest.
    """
    if table is None:
        raise InputError("csv needs `table`: the CSV or Parquet file with paths and labels.")
    path = Path(table)
    source = str(path)
    columns = read_table(path)
    names = {
        "sample_id": id_column or "sample_id",
        "path": path_column or "path",
        "label": label_column or "label",
        "group_id": group_column
        or ("group_id" if "group_id" in columns else id_column)
        or "sample_id",
    }
    if split_column or "split" in columns:
        names["split"] = split_column or "split"
    if "domain" in columns:
        names["domain"] = "domain"
    rows = {name: texts(column(columns, of, source=source).tolist()) for name, of in names.items()}
    rows["path"] = texts([_with_suffix(root, value) for value in rows["path"].tolist()])
    n = len(rows["path"])
    rows["dataset"] = np.full(n, path.name.split(".")[0], dtype=object)
    rows.setdefault("domain", np.full(n, "unknown", dtype=object))
    notes = []
    others = {name: values for name, values in columns.items() if name not in names.values()}
    for name, values in others.items():
        kept = name
        # Of whatever case, for SQL does not tell cases apart.
        while kept.lower() in {taken.lower() for taken in (*rows, *REQUIRED, IMAGE_DIGEST)}:
            kept = f"table_{kept}"
        if kept != name:
            notes.append(f"Column {name!r} of the table is kept as {kept!r}.")
        rows[kept] = values
    if group_column is None and "group_id" not in columns:
        notes.append(
            "Every row is its own group. If several show one subject, say which: `group_column`."
        )
    origin = {"file": path.name, "column": names["split"]} if "split" in names else {}
    return Rows(
        rows,
        classes=tuple(sorted({label for label in rows["label"].tolist() if label is not None})),
        root=root,
        source=source,
        split_origin=origin,
        notes=tuple(notes),
    )


def _with_suffix(root: Path, path: str | None) -> str | None:
    # Published tables often hold the image's name without its ending.
    if path is None or path.lower().endswith(IMAGE_SUFFIXES):
        return path
    there = [path + suffix for suffix in IMAGE_SUFFIXES if (root / (path + suffix)).is_file()]
    return there[0] if there else path
