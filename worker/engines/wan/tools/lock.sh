#!/usr/bin/env bash
# Pins what the engine needs, with hashes, by uv (pip install uv). Run it to take newer versions, then run the tests.
#   requirements/cuda.txt   everything, for GPUs: pip install --require-hashes -r requirements/cuda.txt
#   requirements/cpu.txt    the same versions less the CUDA libraries, and pytest: 0.7 GB to download in place of 3.2.
#                           Not complete by itself: pip install --no-deps --require-hashes, then tools/stand_ins.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../requirements"
lock() { uv pip compile --quiet --generate-hashes --no-annotate --no-header --python-version 3.11 --python-platform x86_64-unknown-linux-gnu "$@"; }
lock "${1:---no-upgrade}" engine.in --output-file cuda.txt
all=$(mktemp)
trap 'rm -f "$all"' EXIT
lock engine.in test.in --constraints cuda.txt --output-file "$all"
# A requirement begins a line; its hashes are indented. torch calls cudart and cupti when it is loaded.
awk '/^[a-z]/ { keep = !/^(nvidia-|cuda-|triton=)/ || /^nvidia-cuda-(runtime|cupti)=/ } keep' "$all" > cpu.txt
