"""Whether confidence can be trusted: conditions x slices x sources of uncertainty."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from trustq.api.frames import Source, Table, as_file, several, source_name
from trustq.core.prose import folded
from trustq.evaluation.predictions import Predictions
from trustq.evaluation.trust_sources import SOURCES
from trustq.experiments.trust import TrustRun, judge, judged_predictions
from trustq.experiments.trust_inputs import open_judged
from trustq.experiments.trust_tables import record_trust
from trustq.report.trust import notebook_files, trust_text, write_trust


class TrustReport:
    """A trust table: `metrics`, `members` and `tests` as tables, `page` as text.

    `run` holds the cells and what they are of; `save(folder)` writes what `trustq trust` writes,
    `record(results)` adds the rows to a results folder.
    """

    def __init__(self, run: TrustRun) -> None:
        self.run = run

    @property
    def metrics(self) -> Table:
        """One row a condition, slice, source and metric: value, delta to clean, intervals."""
        return Table.of_rows(self.run.table.rows)

    @property
    def tests(self) -> Table:
        """Every source against plain softmax under each condition, adjusted by Holm."""
        tests = [row for row in self.run.table.wins if row["p"] is not None]
        return Table.of_rows([row | {"family": self.run.table.family} for row in tests])

    @property
    def report(self) -> dict[str, Any]:
        """Everything in the layout of the files that `save` writes."""
        return notebook_files(self.run)

    @property
    def page(self) -> str:
        """The table as text."""
        return trust_text(self.run)

    def save(self, folder: str | Path) -> list[Path]:
        """Write page, table, JSON and pictures to a folder; returns their paths."""
        return write_trust(self.run, Path(folder))

    def record(self, results: str | Path) -> bool:
        """Add the rows to a results folder; returns whether they were not there yet."""
        return record_trust(self.run, Path(results))

    def to_pandas(self) -> Any:
        """`metrics` as a pandas data frame."""
        return self.metrics.to_pandas()

    def to_polars(self) -> Any:
        """`metrics` as a polars data frame."""
        return self.metrics.to_polars()

    def __repr__(self) -> str:
        return folded(self.page)

    def _repr_html_(self) -> str:
        return self.metrics._repr_html_()


def trust(
    source: Predictions | Source | Sequence[str | Path],
    *,
    conditions: str | Sequence[str] = ("all",),
    sources: str | Sequence[str] = tuple(SOURCES),
    positive: str | Sequence[str] = (),
    slices: str | Sequence[str] = (),
    ages: str | None = None,
    meta: str | Path | Sequence[str | Path] = (),
    folds: int | None = None,
    replicates: int = 2000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    **of_caches: Any,
) -> TrustReport:
    """Judge the confidence of networks, heads or predictions under every stored condition.

    `source` is one or several caches (a network each), a file, data frame or mapping of arrays of
    predictions, or read predictions with their conditions. `sources` are those of uncertainty,
    `positive` the classes that are pooled, `slices` and `ages` columns, of caches from the tables
    in `meta`. `folds` cross-fit temperature and thresholds over the judged rows. `progress` is
    told how many rows of cells are judged, and of how many. Of caches also
    `views`, `head`, `noise`, `draws`, `arm`, `budget`, `concat` and `allow_leak`, as of `trustq
    trust`. Raises `TrustqError` for what is missing or does not fit, and for a condition that
    changes nothing.

    >>> import numpy as np
    >>> labels = np.arange(40) % 2
    >>> clean = np.where(np.eye(2)[labels] == 1, 0.8, 0.2)
    >>> clean[:4] = clean[:4, ::-1]
    >>> read = Predictions(
    ...     "demo", ("a", "b"), labels, None, clean, labels.astype(str), False,
    ...     conditions={"fog-1": 0.5 * clean[::-1] + 0.25},
    ... )
    >>> found = trust(read, sources=["softmax"], replicates=50)
    >>> [row["value"] for row in found.run.table.rows if row["metric"] == "accuracy"]
    [0.9, 0.1]
    """
    slices = several(slices)
    names = list(dict.fromkeys((*slices, *([ages] if ages else []))))
    if isinstance(source, Predictions):
        judged = judged_predictions(source)
    else:
        one = source if isinstance(source, Sequence) and not isinstance(source, str) else [source]
        with ExitStack() as opened:
            files = [str(opened.enter_context(as_file(file))) for file in one]
            judged = open_judged(
                files,
                columns=names,
                meta=[Path(table) for table in several(meta)],
                conditions=several(conditions),
                **of_caches,
            )
        if len(files) == 1:
            judged = replace(judged, dataset=source_name(one[0], judged.dataset))
    return TrustReport(
        judge(
            judged,
            sources=several(sources),
            positive=several(positive),
            slices=slices,
            ages=ages,
            folds=folds,
            replicates=replicates,
            seed=seed,
            progress=progress,
        )
    )
