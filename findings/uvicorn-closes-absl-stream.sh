#!/usr/bin/env bash
# Making a uvicorn configuration closes a file that the process still writes to: its default logging
# goes through logging.config.dictConfig, which first closes every handler there is, and absl's
# handler (absl comes with OpenVINO and TensorBoard) closes the stream that it took as standard
# error, if standard error is another one by now, as where output was redirected during an import.
# With log_config=None nothing is closed.
# Seen with uvicorn 0.54.0 and absl-py 2.5.1.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet uvicorn==0.54.0 absl-py==2.5.1
cat > trial.py <<'PY'
import contextlib
import sys

log = open("run.log", "w")
with contextlib.redirect_stderr(log):
    import absl.logging
import uvicorn


async def app(scope, receive, send): ...


uvicorn.Config(app, **({"log_config": None} if sys.argv[1] == "none" else {}))
print(f"log_config {sys.argv[1]}: the log file is closed: {log.closed}")
sys.exit(log.closed != (sys.argv[1] == "default"))
PY
env/bin/python trial.py default
env/bin/python trial.py none
