#!/usr/bin/env bash
# DuckDB takes KEY=VALUE folders for partitions even where one exact file is named: the column of that
# name inside the file is replaced by the folder's value.
# Seen with duckdb 1.4.1: the file holds label b, the query answers a.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet duckdb==1.4.1
env/bin/python - <<'PY'
import duckdb, os
os.mkdir("label=a")
duckdb.sql("COPY (SELECT 'b' AS label) TO 'label=a/p.parquet'")
seen = duckdb.sql("SELECT label FROM read_parquet('label=a/p.parquet')").fetchall()
plain = duckdb.sql("SELECT label FROM read_parquet('label=a/p.parquet', hive_partitioning=false)").fetchall()
print("duckdb", duckdb.__version__, seen, "without partitions", plain)
assert (seen, plain) == ([("a",)], [("b",)]), "changed"
PY
