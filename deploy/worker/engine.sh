#!/bin/bash
# Compiles the modules that a run has imported, and takes them and the engine out of an environment as layers:
# engine.sh ENVIRONMENT SEEN LAYERS, where SEEN was the run's PYTHONPYCACHEPREFIX.
set -euo pipefail
shopt -s nullglob
environment=$1 seen=$2 layers=$3

# Never compared with the source again: that is in the same image, and its time says nothing.
find "$seen$environment" -name '*.pyc' | sed -E "s|^$seen||; s|\.cpython-[0-9]+\.pyc$|.py|" | sort |
  "$environment/bin/python" -m compileall -q --invalidation-mode unchecked-hash -i -

take() {
  mkdir -p "$layers/$1"
  tar --create --null --files-from - | tar --extract --directory "$layers/$1"
}
find "$environment" -name __pycache__ ! -path '*/spotreel_wan/*' -print0 | take bytecode
printf '%s\0' "$environment"/lib/python3*/site-packages/spotreel_wan* "$environment"/bin/spotreel-engine-wan | take engine
find "$layers" -exec touch --no-dereference --date=@0 {} +
du --summarize --block-size=1M "$layers"/*
