"""DuckDB as every module opens it: it prints nothing, and stays within the process's limits."""

import math

import duckdb

from trustq.core.free_memory import left_of_limits

SHARE = 0.5  # of what the process may still hold, what DuckDB takes of it for its buffers
LEAST = 1 << 25  # bytes without which it writes no table
SHORT = 1 << 32  # bytes left below which it has one thread, for each holds up to 122,880 rows


def open_database(*, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """A connection to a database of its own in memory, with as many threads as cores or fewer.

    Where the process may hold so much memory and no more (`ulimit -d`, a control group), DuckDB,
    which knows of the machine's alone, is told.
    """
    connection = quiet(duckdb.connect())
    left = left_of_limits()
    if math.isfinite(left):
        connection.execute(f"SET memory_limit = '{max(LEAST, int(SHARE * left))} bytes'")
    if left < SHORT:
        threads = 1
    if threads is not None:
        connection.execute(f"SET threads = {threads}")
    return connection


def is_short() -> bool:
    """Whether the process has a limit of memory, and little left to it."""
    return left_of_limits() < SHORT


def quiet(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """The same connection without a bar of progress, which is drawn into standard output."""
    connection.execute("SET enable_progress_bar = false")
    return connection
