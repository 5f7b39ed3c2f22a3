"""Results folders: SQL in, tables out."""

from pathlib import Path

from trustq.api.frames import Table
from trustq.results import describe_results, run_query


class Results:
    """A folder of results: `sql` asks it, `values` and `paired` are its views, `tables` its list.

    A sweep may write to it meanwhile; each question sees the runs that are there.
    """

    def __init__(self, path: str | Path = "results") -> None:
        self.path = Path(path)

    def sql(self, query: str, **parameters: str | int | float) -> Table:
        """The answer to one SELECT; `parameters` are the values of $NAME in it.

        Raises `TrustqError` for a statement that could write or fails, and for a folder without
        results.
        """
        found = run_query(self.path, query, parameters)
        columns = zip(*found.rows, strict=True) if found.rows else ([] for _ in found.columns)
        return Table(dict(zip(found.columns, columns, strict=True)))

    @property
    def values(self) -> Table:
        """Every metric of every run, with what the run was set to."""
        return self.sql("SELECT * FROM metric_values")

    @property
    def paired(self) -> Table:
        """Differences between arms, paired by seed, with their sign-flip p and its floor."""
        return self.sql("SELECT * FROM paired")

    @property
    def tables(self) -> Table:
        """Every table and view with its columns."""
        found = describe_results(self.path)
        return Table(dict(zip(found.columns, zip(*found.rows, strict=True), strict=True)))

    def __repr__(self) -> str:
        return f"Results({str(self.path)!r})"

    def _repr_html_(self) -> str:
        return self.tables._repr_html_()
