"""Results: Parquet parts that any number of writers add to, and SQL over them."""

from typing import TYPE_CHECKING

from trustq.core.lazy import lazy_names

if TYPE_CHECKING:
    from trustq.results.compaction import clean, compact
    from trustq.results.examples import EXAMPLES
    from trustq.results.parts import part_path
    from trustq.results.query import (
        Result,
        committed_cells,
        committed_keys,
        connect,
        describe_results,
        run_query,
        save_database,
        save_query,
    )
    from trustq.results.repaired import save_repaired_labels
    from trustq.results.schema import TABLES
    from trustq.results.show import format_result
    from trustq.results.verify import Checked, verify_results
    from trustq.results.write import join_tables, mark, new_part, table_columns, write_part

__all__ = [
    "EXAMPLES",
    "TABLES",
    "Checked",
    "Result",
    "clean",
    "committed_cells",
    "committed_keys",
    "compact",
    "connect",
    "describe_results",
    "format_result",
    "join_tables",
    "mark",
    "new_part",
    "part_path",
    "run_query",
    "save_database",
    "save_query",
    "save_repaired_labels",
    "table_columns",
    "verify_results",
    "write_part",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Checked": "trustq.results.verify",
        "EXAMPLES": "trustq.results.examples",
        "Result": "trustq.results.query",
        "TABLES": "trustq.results.schema",
        "clean": "trustq.results.compaction",
        "committed_cells": "trustq.results.query",
        "committed_keys": "trustq.results.query",
        "compact": "trustq.results.compaction",
        "connect": "trustq.results.query",
        "describe_results": "trustq.results.query",
        "format_result": "trustq.results.show",
        "join_tables": "trustq.results.write",
        "mark": "trustq.results.write",
        "new_part": "trustq.results.write",
        "part_path": "trustq.results.parts",
        "run_query": "trustq.results.query",
        "save_database": "trustq.results.query",
        "save_query": "trustq.results.query",
        "save_repaired_labels": "trustq.results.repaired",
        "table_columns": "trustq.results.write",
        "verify_results": "trustq.results.verify",
        "write_part": "trustq.results.write",
    },
)
