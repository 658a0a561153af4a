#!/usr/bin/env bash
# Runs a command beside moto, AWS's imitation that nobody here wrote: its address is in SPOTREEL_MOTO_URL.
#   tests/py/moto_server.sh cargo nextest run -p spotreel-ec2 --test moto --run-ignored only
# A server of its own each time, so nobody else's instances are in it; it ends with the command.
set -Eeuo pipefail

# What the tests were written against: what it gets wrong changes between versions.
MOTO=moto==5.2.5
START_SECONDS=60

[ $# -gt 0 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
venv=$(cd "$(dirname "$0")/../.." && pwd)/.venv-moto
if ! "$venv/bin/python3" -c 'import moto.server, flask' 2>/dev/null; then
  echo "moto: installing $MOTO into $venv" >&2
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q "${MOTO/moto/moto[server]}"
fi

log=$(mktemp)
# `exec`: the process that is killed is the server itself.
(exec "$venv/bin/moto_server" -H 127.0.0.1 -p 0) >"$log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -f "$log"' EXIT
trap 'exit 130' INT TERM

deadline=$((SECONDS + START_SECONDS))
until SPOTREEL_MOTO_URL=$(grep -om1 'http://127\.0\.0\.1:[0-9]*' "$log"); do
  if ! kill -0 "$server" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
    echo "moto: the server did not start:" >&2
    cat "$log" >&2
    exit 1
  fi
  sleep 0.1
done
export SPOTREEL_MOTO_URL
"$@"
