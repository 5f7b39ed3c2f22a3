#!/usr/bin/env bash
# DuckDB 1.5.6 gives a column with NULL as a masked array of numpy (`fetchnumpy`), and takes such
# arrays back without their masks: what lies under a mask becomes a value, 0 or whatever was there,
# without a word, so that averages and counts change. DuckDB 2.0.1 reads the masks.
#
# Seen:
#   duckdb 1.5.6: mean of a column with two blanks 2.0, after the way there and back 1.0
#   duckdb 2.0.1: mean of a column with two blanks 2.0, after the way there and back 2.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
for release in 1.5.6 2.0.1; do
    "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check "duckdb==$release" numpy==2.3.5
    "$work/venv/bin/python" - <<'CODE'
import duckdb

with duckdb.connect() as connection:
    table = "(VALUES (1.0::DOUBLE), (NULL), (2.0), (NULL), (3.0), (2.0)) t(age)"
    there = connection.execute(f"SELECT age FROM {table}").fetchnumpy()
    assert there["age"].mask.tolist() == [False, True, False, True, False, False]
    before = connection.execute(f"SELECT avg(age) FROM {table}").fetchall()[0][0]
    # What lies under a mask is nobody's business; here it is made plain.
    there["age"].data[there["age"].mask] = -1
    connection.register("back", there)
    after = connection.execute("SELECT avg(age) FROM back").fetchall()[0][0]
print(
    f"duckdb {duckdb.__version__}: mean of a column with two blanks {before}, "
    f"after the way there and back {after}"
)
assert before == 2.0
assert after == {"1.5.6": 1.0, "2.0.1": 2.0}[duckdb.__version__]
CODE
done
