#!/usr/bin/env bash
# Opens the page in a Chromium while a system on this machine runs a batch. Arguments go to node:
# tests/web/run.sh --test-name-pattern video
set -Eeuo pipefail

UP_SECONDS=60
here=$(cd "$(dirname "$0")" && pwd)
tools=${SPOTREEL_WEB_TOOLS:-$HOME/.cache/spotreel/web-tools}

# Playwright's own Chromium lacks H.264, so it is the distribution's that plays our videos.
SPOTREEL_CHROMIUM=${SPOTREEL_CHROMIUM:-$(command -v chromium || command -v chromium-browser || true)}
if [ -z "$SPOTREEL_CHROMIUM" ] || ! command -v node >/dev/null || ! command -v npm >/dev/null; then
  echo "test-page: chromium, node and npm are needed. Install them: apt-get install chromium fonts-noto-cjk nodejs npm" >&2
  exit 1
fi
export SPOTREEL_CHROMIUM
if ! cmp -s "$here/package.json" "$tools/package.json" || [ ! -d "$tools/node_modules" ]; then
  echo "test-page: installing playwright-core and axe-core into $tools" >&2
  mkdir -p "$tools"
  cp "$here/package.json" "$tools/"
  npm install --prefix "$tools" --no-audit --no-fund --silent
fi

dir=$(mktemp -d)
system=
stop() {
  if [ -n "$system" ]; then
    kill "$system" 2>/dev/null || true
    wait "$system" 2>/dev/null || true
    system=
  fi
}
trap 'stop; rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM

start() {
  "$SPOTREEL_BIN_DIR/spotreel" dev --dir "$dir" --trigger-at 6 --max-wait 1h --max-instances 3 --step-ms 300 \
    --engine-arg=--allow-faults >>"$dir/dev.log" 2>&1 &
  system=$!
  local deadline=$((SECONDS + UP_SECONDS))
  until [ -e "$dir/endpoints.env" ]; do
    if ! kill -0 "$system" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
      echo "test-page: the system did not come up:" >&2
      cat "$dir/dev.log" >&2
      exit 1
    fi
    sleep 0.2
  done
  set -a
  . "$dir/endpoints.env"
  set +a
}

export SPOTREEL_PICTURES=${SPOTREEL_PICTURES:-$here/../../target/page}
mkdir -p "$SPOTREEL_PICTURES"
export SPOTREEL_WEB_TOOLS=$tools SPOTREEL_DIR=$dir
node --test --test-concurrency=1 "$here/words.test.js"
start
node --test --test-concurrency=1 "$@" "$here/batch.test.js"
stop
export SPOTREEL_INTAKE_API__AUTH=keys
start
node --test --test-concurrency=1 "$@" "$here/keys.test.js"
echo "test-page: pictures are in $SPOTREEL_PICTURES"
