#!/usr/bin/env bash
# Runs the tests of webhooks, which keep each request that they have verified, and verifies the same requests with a library that
# nobody here wrote.
set -Eeuo pipefail

LIBRARY=standardwebhooks==1.1.0

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=$root/.venv-standardwebhooks
if ! "$venv/bin/python" -c 'import standardwebhooks' 2>/dev/null; then
  echo "webhooks: installing $LIBRARY into $venv" >&2
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q "$LIBRARY"
fi

kept=$(mktemp)
trap 'rm -f "$kept"' EXIT
cd "$root"
# The library refuses requests that are older than five minutes; the tests take less than one.
SPOTREEL_KEPT_WEBHOOKS=$kept cargo nextest run --workspace --locked --test webhooks
"$venv/bin/python" "$here/webhooks.py" "$kept"
