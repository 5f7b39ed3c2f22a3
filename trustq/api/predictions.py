"""Predictions of any model: read, evaluated, compared."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trustq.api.frames import Source, Table, as_file, several, source_name
from trustq.core.prose import folded
from trustq.data.noise import parse_noise
from trustq.errors import InputError
from trustq.evaluation.compare_models import ModelComparison, compare_models, comparison_page
from trustq.evaluation.evaluate import Evaluation, curve_rows, error_rows
from trustq.evaluation.evaluate import evaluate as evaluated
from trustq.evaluation.predictions import Predictions
from trustq.evaluation.predictions import read_predictions as read_file
from trustq.report.evaluation import evaluation_page, write_evaluation


def read_predictions(
    source: Source,
    *,
    names: dict[str, str] | None = None,
    columns: str | Sequence[str] = (),
    meta: str | Path | Sequence[str | Path] = (),
    conditions: str | Sequence[str] = (),
    normalize: str | None = None,
    target: str | None = None,
) -> Predictions:
    """Predictions of a file, a cache, a data frame or a mapping of arrays.

    Arrays, or columns, are `labels`, `probs` or `logits` (in frames and tables `prob_<class>`,
    `logit_<class>`) and, if there are any, `sample_ids`, `groups`, `split`, `classes`; `names` maps
    these to other names. `columns` are more to keep, for slices; tables in `meta` are joined by id.
    `normalize` is l1 or softmax, `target` the column that labels are from. Raises `TrustqError` for
    what is missing or does not fit.

    >>> import numpy as np
    >>> read = read_predictions({"labels": [0, 1], "probs": [[0.9, 0.1], [0.4, 0.6]]})
    >>> len(read), read.classes
    (2, ('0', '1'))
    """
    with as_file(source, names) as path:
        read = read_file(
            path,
            names=names,
            columns=several(columns),
            meta=[Path(table) for table in several(meta)],
            conditions=several(conditions),
            normalize=normalize,
            target=target,
        )
    return replace(read, source=source_name(source, read.source))


class EvaluationReport:
    """An evaluation: `metrics`, `errors`, `curves` as tables, `report` as a dict, `page` as text.

    `found` holds the rows and stages; `save(folder)` writes what `trustq evaluate` writes.
    """

    def __init__(self, found: Evaluation) -> None:
        self.found = found

    @property
    def report(self) -> dict[str, Any]:
        """Everything that was found, as JSON would have it."""
        return self.found.report

    @property
    def metrics(self) -> Table:
        """One row a metric and stage (uncalibrated, calibrated): value and 95 % interval."""
        rows = []
        for stage in ("uncalibrated", "calibrated"):
            figures = (self.report[stage] or {}).get("figures", {})
            rows += [
                {
                    "stage": stage,
                    "metric": name,
                    "value": figure["value"],
                    "lower": figure.get("lower", float("nan")),
                    "upper": figure.get("upper", float("nan")),
                }
                for name, figure in figures.items()
            ]
        return Table.of_rows(rows)

    @property
    def errors(self) -> Table:
        """Wrong rows, the most confident first."""
        return Table(error_rows(self.found))

    @property
    def curves(self) -> Table:
        """Risk over coverage of every stage."""
        return Table(curve_rows(self.found))

    @property
    def page(self) -> str:
        """The report as text."""
        return evaluation_page(self.found)

    def save(self, folder: str | Path) -> list[Path]:
        """Write page, JSON, curves, errors and pictures to a folder; returns their paths."""
        return write_evaluation(self.found, Path(folder))

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


def evaluate(
    predictions: Predictions | Source,
    *,
    calibrate_on: Predictions | Source | None = None,
    folds: int | None = None,
    calibrator: str = "temperature",
    noise: str | None = None,
    positive: str | Sequence[str] = (),
    slices: str | Sequence[str] = (),
    ages: str | None = None,
    external: Predictions | Source | Sequence[Predictions | Source] = (),
    seed: int = 0,
    replicates: int = 2000,
) -> EvaluationReport:
    """Calibration, selective and class metrics of predictions, with 95 % intervals over groups.

    `predictions` are read ones, or anything that `read_predictions` takes. The calibrator is fitted
    on `calibrate_on`, on their split `val`, or with `folds` by cross-fitting over groups; it is
    never fitted on the rows that it is judged on. `noise` says that calibration labels are noisy
    (`symmetric:0.2`, ...), `positive` which classes are pooled, `slices` and `ages` which columns
    rows are sliced by. Raises `TrustqError` for what is missing or does not fit.

    >>> import numpy as np
    >>> labels = np.arange(40) % 2
    >>> probs = np.where(np.eye(2)[labels] == 1, 0.8, 0.2)
    >>> probs[:4] = probs[:4, ::-1]
    >>> report = evaluate({"labels": labels, "probs": probs}, replicates=100)
    >>> report.report["uncalibrated"]["figures"]["accuracy"]["value"]
    0.9
    """
    slices = several(slices)
    wanted = [*slices, *([ages] if ages else [])]
    rows = _read(predictions, columns=wanted)
    matrix = None if noise is None else parse_noise(noise, classes=rows.classes).matrix
    return EvaluationReport(
        evaluated(
            rows,
            labels_used="clean" if noise is None else "noisy",
            noise_matrix=matrix,
            calibrate_on=None if calibrate_on is None else _read(calibrate_on),
            folds=folds,
            calibrator=calibrator,
            positive=several(positive),
            slices=slices,
            ages=ages,
            externals=[_read(one) for one in several(external)],
            seed=seed,
            replicates=replicates,
        )
    )


class ComparisonReport:
    """Models compared with the first: `differences` as a table, `page` as text."""

    def __init__(self, found: ModelComparison) -> None:
        self.found = found

    @property
    def differences(self) -> Table:
        """One row a pair and metric: both values, their difference, its 95 % interval."""
        return Table.of_rows(
            [
                {"model": pair.a, "baseline": pair.b, "metric": name} | row._asdict()
                for pair in self.found.pairs
                for name, row in pair.figures.items()
            ]
        )

    @property
    def report(self) -> dict[str, Any]:
        """Everything that was found, as JSON would have it."""
        return self.found.as_dict()

    @property
    def page(self) -> str:
        """The comparison as text."""
        return comparison_page(self.found)

    def to_pandas(self) -> Any:
        """`differences` as a pandas data frame."""
        return self.differences.to_pandas()

    def to_polars(self) -> Any:
        """`differences` as a polars data frame."""
        return self.differences.to_polars()

    def __repr__(self) -> str:
        return folded(self.page)

    def _repr_html_(self) -> str:
        return self.differences._repr_html_()


def compare(
    models: Mapping[str, Predictions | Source],
    *,
    same_rows: bool = False,
    seed: int = 0,
    replicates: int | None = None,
) -> ComparisonReport:
    """Every other model against the first, on the rows that all have, with paired intervals.

    `models` maps names to predictions, or to anything that `read_predictions` takes. Rows are
    joined by id, or with `same_rows` by position. Raises `TrustqError` for fewer than two models,
    for no common row and for other classes or labels.

    >>> labels = [0, 1] * 20
    >>> good = {"labels": labels, "probs": [[0.9, 0.1], [0.1, 0.9]] * 20}
    >>> poor = {"labels": labels, "probs": [[0.6, 0.4], [0.6, 0.4]] * 20}
    >>> found = compare({"good": good, "poor": poor}, same_rows=True, replicates=100)
    >>> found.differences["difference"][0].item()
    0.5
    """
    if not isinstance(models, Mapping):
        raise InputError("Pass the models by name: {'A': predictions, 'B': predictions}.")
    more: dict[str, Any] = {} if replicates is None else {"replicates": replicates}
    read = {name: _read(one) for name, one in models.items()}
    return ComparisonReport(compare_models(read, same_rows=same_rows, seed=seed, **more))


def _read(one: Predictions | Source, *, columns: Sequence[str] = ()) -> Predictions:
    return one if isinstance(one, Predictions) else read_predictions(one, columns=columns)
