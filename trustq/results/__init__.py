"""Results: Parquet parts that any number of writers add to, and SQL over them."""

from trustq.results.compaction import clean, compact
from trustq.results.examples import EXAMPLES
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
from trustq.results.write import join_tables, mark, new_part, part_path, write_part

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
    "verify_results",
    "write_part",
]
