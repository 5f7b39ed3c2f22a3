#!/usr/bin/env bash
# DuckDB keeps column names apart regardless of case, so a Parquet file that pyarrow wrote with columns
# prob_a and prob_A (two classes of one data set) has another second name in a query.
# Seen with duckdb 1.4.1 and pyarrow 21.0.0: ["prob_a", "prob_A_1"].
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet duckdb==1.4.1 pyarrow==21.0.0
env/bin/python - <<'PY'
import duckdb, pyarrow as pa, pyarrow.parquet as pq
pq.write_table(pa.table({"prob_a": [0.9], "prob_A": [0.1]}), "p.parquet")
names = [c[0] for c in duckdb.sql("SELECT * FROM 'p.parquet'").description]
print("duckdb", duckdb.__version__, names)
assert pq.read_schema("p.parquet").names == ["prob_a", "prob_A"]
assert names == ["prob_a", "prob_A_1"], "changed"
PY
