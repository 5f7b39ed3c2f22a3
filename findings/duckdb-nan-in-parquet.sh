#!/usr/bin/env bash
# A Parquet file's statistics leave NaN out, and DuckDB, for which NaN is the largest number, passes
# over rows by them: WHERE isnan(x) finds none in a file of which isnan(x) is true in the same query,
# and NaN is above .95 in a file that DuckDB wrote and not in one of pyarrow (or polars).
# read_parquet(..., can_have_nan = true) finds it; the default is false.
# Seen with duckdb 2.0.1 and pyarrow 26.0.1: (1, 0, 0) for pyarrow's file, (1, 1, 1) for DuckDB's.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet duckdb==2.0.1 pyarrow==26.0.1
env/bin/python - <<'PY'
import duckdb, pyarrow as pa, pyarrow.parquet as pq
scores = pa.table({"run": [0, 1, 2], "auroc": [float("nan"), 0.5, 0.9]})
pq.write_table(scores, "pyarrow.parquet")
duckdb.sql("COPY (FROM scores) TO 'duckdb.parquet'")
def counts(source):
    return duckdb.sql(f"""SELECT count(*) FILTER (isnan(auroc)),
        (SELECT count(*) FROM {source} WHERE isnan(auroc)),
        (SELECT count(*) FROM {source} WHERE auroc > .95) FROM {source}""").fetchall()[0]
found = {name: counts(f"'{name}.parquet'") for name in ("pyarrow", "duckdb")}
found["asked"] = counts("read_parquet('pyarrow.parquet', can_have_nan = true)")
print("duckdb", duckdb.__version__, "pyarrow", pa.__version__, found)
assert found == {"pyarrow": (1, 0, 0), "duckdb": (1, 1, 1), "asked": (1, 1, 1)}, "changed"
PY
