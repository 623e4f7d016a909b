#!/usr/bin/env bash
# openvino 2026.4.1 (openvino-telemetry 2025.2.0, which it depends on): `import openvino` reports itself to a server of
# web analytics, without a question, and nothing of it is said on the screen. In a program that promises to send nothing
# this is easily missed, since the code that only runs an exported network imports it too.
#
# A proxy on loopback, which passes nothing on, is all that the program is told of the network. Without the package of
# telemetry OpenVINO falls back to a stub, and nobody is asked; the environment variable CI=true has the same effect.
#
# Seen with Python 3.11:
#   import openvino: CONNECT www.google-analytics.com:443
#   with CI=true: nobody is asked
#   without openvino_telemetry: nobody is asked
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet openvino==2026.4.1 openvino-telemetry==2025.2.0 numpy==2.4.6

cat > "$folder/ask.py" <<'PYTHON'
import os, socketserver, subprocess, sys, threading

asked = []

class Note(socketserver.StreamRequestHandler):
    def handle(self):
        asked.append(" ".join(self.rfile.readline().decode().split()[:2]))

def who_is_asked(code, **variables):
    asked.clear()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Note) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        proxy = f"http://127.0.0.1:{server.server_address[1]}"
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        environment = kept | {"HOME": sys.argv[1], "HTTPS_PROXY": proxy, "https_proxy": proxy} | variables
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
        server.shutdown()
    return ", ".join(sorted(set(asked))) or "nobody is asked"

print("import openvino:", who_is_asked("import openvino"))
print("with CI=true:", who_is_asked("import openvino", CI="true"))
print("without openvino_telemetry:", who_is_asked("import sys; sys.modules['openvino_telemetry'] = None; import openvino"))
PYTHON
"$folder/venv/bin/python" "$folder/ask.py" "$folder" | tee "$folder/said"

diff "$folder/said" - <<'SAID'
import openvino: CONNECT www.google-analytics.com:443
with CI=true: nobody is asked
without openvino_telemetry: nobody is asked
SAID
