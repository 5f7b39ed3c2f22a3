#!/usr/bin/env bash
# openvino.convert_model reports its use to Google Analytics though nobody agreed: where no consent
# file is there, openvino-telemetry, which openvino requires, takes that as consent. Only
# `opt_in_out --opt_out` beforehand, or a CI, turns it off. The front end itself
# (openvino.frontend.FrontEndManager) converts the same module and reports nothing.
# Seen with openvino 2026.4.1 and openvino-telemetry 2025.2.0. Nothing is sent here: what would send
# it is replaced.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet openvino==2026.4.1 openvino-telemetry==2025.2.0
env -u CI -u TF_BUILD -u JENKINS_URL HOME="$W" env/bin/python - <<'PY'
from openvino_telemetry.utils.sender import TelemetrySender
reported = []
TelemetrySender.send = lambda self, backend, message: reported.append(message)
import openvino as ov
from openvino.tools.ovc.telemetry_utils import init_ovc_telemetry
telemetry = init_ovc_telemetry()
print("openvino", ov.__version__, "consent without a word:", telemetry.consent)
telemetry.send_event("trial", "trial", "trial")
print("reports that would have been sent:", len(reported))
assert telemetry.consent and reported, "changed"
PY
