#!/usr/bin/env bash
# Makes or completes an environment in which the engine runs and is tested on a CPU: tools/venv.sh DIRECTORY
set -euo pipefail
venv=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
stamp=$venv/.spotreel-wan
# Made of what decides the environment, so that nothing is done twice.
wanted=$(cat "$here/requirements/cpu.txt" "$here/tools/stand_ins.py" | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "wan: Python 3.11 or newer is needed" >&2; exit 1; }
  echo "wan: installing torch and diffusers into $venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$here/requirements/cpu.txt"
  "$venv/bin/python" "$here/tools/stand_ins.py"
  echo "$wanted" > "$stamp"
fi
# The package itself, from where it lies.
"$venv/bin/python" - "$here" <<'PY'
import site, sys
from pathlib import Path
Path(site.getsitepackages()[0], "spotreel_wan.pth").write_text(sys.argv[1] + "\n")
PY
