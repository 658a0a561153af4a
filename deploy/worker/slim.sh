#!/bin/bash
# Takes out of an environment what a render cannot reach: slim.sh ENVIRONMENT.
set -euo pipefail
cd "$1"/lib/python3*/site-packages

# For who builds on these libraries: headers, static libraries, device bitcode, code generators.
rm -r nvidia/*/include nvidia/cu13/cccl torch/share torch/bin/protoc* nvidia/nvshmem/lib/*.bc
find . \( -name '*.a' -o -name '*.pyi' \) -delete
# Command lines of libraries, and the installers' own.
find ../../../bin -type f -delete
# Their tests. Of numpy's, something is imported.
find sympy networkx mpmath -type d -name tests -prune -exec rm -r {} +
# Fetches from a hub, which the engine never does.
rm -r hf_xet hf_xet-*
# Reading hardware counters, which only a profiler does.
rm nvidia/cu13/lib/libnvperf_*

# A library that no other names can be loaded by none.
for unnamed in libcusolverMg libcufftw libnvblas libcheckpoint libpcsamplingutil; do
  rm nvidia/cu13/lib/$unnamed.so*
  if grep -rqF --include='*.so*' "$unnamed" torch nvidia; then
    echo "slim.sh: $unnamed is named by a library and must stay" >&2
    exit 1
  fi
done

# Names for debuggers; what is loaded into memory stays as it is. Only of libraries that are loaded wherever torch is, so
# that the smoke test sees one that strip has damaged.
strip --strip-unneeded torch/lib/libtorch_{cpu,cuda,python}.so
