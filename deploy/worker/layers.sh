#!/bin/bash
# Sorts an environment's libraries into the layers of an image: layers.sh ENVIRONMENT LAYERS. Parts of about equal size,
# since a layer is fetched by one connection, and docker takes three at a time. Equal files have equal times, whenever they
# were made: so equal layers have equal digests, and nobody fetches them twice.
set -euo pipefail
shopt -s extglob nullglob
environment=$1 layers=$2
site=$(echo "$environment"/lib/python3*/site-packages)

put() {
  local layer=$layers/$1 path
  shift
  for path; do
    mkdir -p "$layer$(dirname "$path")"
    mv "$path" "$layer$path"
  done
}
# What only torch.compile, CUDA graphs and the profiler use.
put compile "$site"/triton* "$site"/cuda "$site"/cuda_@(bindings|pathfinder)-* "$site"/torch/include
put cudnn "$site"/nvidia/cudn[n]
put cublas "$site"/nvidia/cu13/lib/lib@(cublas|nvrtc|nvJitLink|cusolver)*
put cuda "$site"/nvidi[a]
put torch "$site"/torc[h]
put python "$environment"
find "$layers" -exec touch --no-dereference --date=@0 {} +
du --summarize --block-size=1M "$layers"/*
