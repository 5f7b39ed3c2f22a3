#!/usr/bin/env bash
# DuckDB draws its bar of progress into standard output, also where that is a pipe or a file, if the
# program was given to Python by `-c`: a program without a file counts as a prompt that somebody
# watches. The same lines in a file draw nothing. What a script prints for the next program is then
# mixed with the bar as soon as a statement takes over two seconds.
# Seen with duckdb 2.0.1.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet duckdb==2.0.1
cat > trial.py <<'PY'
import duckdb
connection = duckdb.connect()
connection.execute("SET threads = 1")
query = "SELECT random() AS a, range::VARCHAR AS b FROM range(60000000)"  # over two seconds
connection.execute(f"COPY ({query}) TO 'made.parquet' (FORMAT parquet)")
print("the answer")
PY
env/bin/python trial.py > file.txt
env/bin/python -c "$(cat trial.py)" > dash_c.txt
echo "bytes of standard output: $(wc -c < file.txt) as a file, $(wc -c < dash_c.txt) by -c"
[ "$(wc -c < file.txt)" -lt 20 ] && [ "$(wc -c < dash_c.txt)" -gt 100 ]
