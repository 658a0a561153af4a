#!/bin/sh
# Compiles programs of the workspace into a folder: programs.sh FOLDER PROGRAM…
set -eu
out=$1
shift
# shellcheck disable=SC2046 # One word each.
cargo build --release --locked --workspace $(printf -- '--bin %s ' "$@")
mkdir -p "$out"
# The names in backtraces are a quarter of each program; where a panic began is told without them.
for program; do strip -o "$out/$program" "target/release/$program"; done
# Equal programs are equal layers, whenever they were compiled.
touch --date=@0 "$out" "$out"/*
