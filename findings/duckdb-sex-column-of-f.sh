#!/usr/bin/env bash
# DuckDB reads a CSV column whose values are all "f" as BOOLEAN: every woman of a cohort is "false".
# Seen with duckdb 1.4.1: type BOOLEAN, value False; with one "m" in it the column is text.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet duckdb==1.4.1
printf 'id,sex\n1,f\n2,f\n' > women.csv
printf 'id,sex\n1,f\n2,m\n' > both.csv
env/bin/python - <<'PY'
import duckdb
women = duckdb.sql("SELECT typeof(sex), sex FROM 'women.csv'").fetchall()
both = duckdb.sql("SELECT typeof(sex), sex FROM 'both.csv'").fetchall()
print("duckdb", duckdb.__version__, women, both)
assert women == [("BOOLEAN", False)] * 2, "changed"
assert both == [("VARCHAR", "f"), ("VARCHAR", "m")], "changed"
PY
