#!/usr/bin/env bash
# Sends schemathesis, which nobody here wrote, at the HTTP API of a system on this machine: whatever the description
# says must hold for whatever it makes up. Arguments go to `st run`: tests/py/api.sh --max-examples 500
set -Eeuo pipefail

# What the exceptions in schemathesis.toml were written for.
SCHEMATHESIS=schemathesis==4.32.5
UP_SECONDS=60

here=$(cd "$(dirname "$0")" && pwd)
venv=$(cd "$here/../.." && pwd)/.venv-schemathesis
if ! "$venv/bin/st" --version >/dev/null 2>&1; then
  echo "api: installing $SCHEMATHESIS into $venv" >&2
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q "$SCHEMATHESIS"
fi

dir=$(mktemp -d)
# With keys, so that their checks are checked too; tasks wait, for nothing here wants videos.
SPOTREEL_INTAKE_API__AUTH=keys "$SPOTREEL_BIN_DIR/spotreel" dev --dir "$dir" --max-wait 1h --trigger-at 1000000 >"$dir/dev.log" 2>&1 &
system=$!
trap 'kill "$system" 2>/dev/null || true; wait "$system" 2>/dev/null || true; rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM

deadline=$((SECONDS + UP_SECONDS))
until [ -e "$dir/endpoints.env" ]; do
  if ! kill -0 "$system" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
    echo "api: the system did not come up:" >&2
    cat "$dir/dev.log" >&2
    exit 1
  fi
  sleep 0.2
done
. "$dir/endpoints.env"
token=$("$SPOTREEL_BIN_DIR/spotreel" --dir "$dir" keys create --owner schemathesis --tasks-per-minute 600000 --json |
  python3 -c 'import json, sys; print(json.load(sys.stdin)["token"])')
cd "$dir" # its cache lies beside it
API_KEY=$token "$venv/bin/st" --config-file "$here/schemathesis.toml" run "$SPOTREEL_API/v1/openapi.json" "$@"
if grep -hE 'ERROR|panicked' "$dir/logs/intake.log"; then
  echo "api: the lines above are from intake's log" >&2
  exit 1
fi
