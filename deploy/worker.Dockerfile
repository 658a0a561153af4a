# The worker of a machine with a GPU: spotreel-worker, the Wan engine, and what the engine needs of CUDA. The driver is the
# machine's; NVIDIA's container toolkit brings it in. For x86-64.
#
#   docker build -f deploy/Dockerfile --target worker -t spotreel-worker .
#   docker build -f deploy/worker.Dockerfile -t spotreel-worker-wan .
#
# 3 GB of download and 15 GB of disk for the first build. What is in it and what was left out: docs/operations.md, "Images".

# Any image that holds spotreel-worker: the first of the two above, the whole one, or one from a registry by its digest.
ARG PROGRAMS=spotreel-worker
# 1: with Triton and a compiler, 1.2 GB more, for the engine's --compile.
ARG COMPILE=0

FROM ${PROGRAMS} AS programs

FROM debian:bookworm-slim AS base
# Certificates for AWS, the C++ library of torch and the worker, and the Python that the requirements are pinned for.
RUN apt-get update -qq \
 && apt-get install -qq -y --no-install-recommends ca-certificates libstdc++6 python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/debconf/* /var/cache/ldconfig/aux-cache /var/log/apt /var/log/dpkg.log \
 # Also by name: some libraries want to know who they are, and where their home is.
 && echo 'spotreel:x:10001:10001::/scratch:/usr/sbin/nologin' >> /etc/passwd \
 && install -d -o 10001 -g 10001 /models /scratch

# Every file by its hash, and wheels only, so that nothing is compiled here.
FROM base AS libraries
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends binutils python3-pip python3-venv
COPY worker/engines/wan/requirements/cuda.txt /build/
RUN --mount=type=bind,source=deploy/worker/slim.sh,target=/slim.sh \
    --mount=type=bind,source=deploy/worker/layers.sh,target=/layers.sh \
    python3 -m venv --without-pip /opt/wan \
 && pip --python /opt/wan/bin/python install --quiet --no-cache-dir --no-compile --no-deps --only-binary :all: \
      --require-hashes -r /build/cuda.txt \
 && /slim.sh /opt/wan \
 && /layers.sh /opt/wan /layers

FROM base AS with-0
COPY --link --from=libraries /layers/cudnn /
COPY --link --from=libraries /layers/cublas /
COPY --link --from=libraries /layers/cuda /
COPY --link --from=libraries /layers/torch /
COPY --link --from=libraries /layers/python /

FROM with-0 AS with-1
COPY --link --from=libraries /layers/compile /
RUN apt-get update -qq \
 && apt-get install -qq -y --no-install-recommends g++ libpython3-dev \
 && rm -rf /var/lib/apt/lists/* /var/cache/debconf/* /var/cache/ldconfig/aux-cache /var/log/apt /var/log/dpkg.log

FROM with-${COMPILE} AS environment

# A little of each model on the CPU: shows that nothing is missing that a CPU can miss, and which modules are imported.
# Those are kept as bytecode; all would be 260 MB.
FROM environment AS engine
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends python3-pip
COPY worker/engines/wan/pyproject.toml /build/
COPY worker/engines/wan/spotreel_wan /build/spotreel_wan
RUN --mount=type=bind,source=deploy/worker,target=/deploy \
    --mount=type=bind,source=worker/engines/wan/packs/tiny,target=/packs \
    pip --python /opt/wan/bin/python install --quiet --no-compile --no-deps --no-build-isolation /build \
 && PYTHONPYCACHEPREFIX=/seen /opt/wan/bin/python /deploy/smoke.py /opt/wan/bin/spotreel-engine-wan /packs \
 && /deploy/engine.sh /opt/wan /seen /layers

FROM environment
COPY --link --from=engine /layers/bytecode /
COPY --link --from=engine /layers/engine /
COPY --link --from=programs /usr/local/bin/spotreel-worker /usr/local/bin/
ENV NVIDIA_VISIBLE_DEVICES=all \
    # CUDA, and nvidia-smi, which says the driver's version.
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PATH=/opt/wan/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    # The engine inherits it. What --compile makes is loaded from there, which a /tmp that docker mounts forbids.
    TMPDIR=/scratch \
    SPOTREEL_WORKER_ENGINE__COMMAND='["spotreel-engine-wan", "--device", "cuda", "--packs", "/models"]' \
    SPOTREEL_WORKER_SCRATCH=/scratch/worker \
    SPOTREEL_HTTP__LISTEN=127.0.0.1:8081
# A number, so that an orchestrator can see that it is not root; volumes on these take their owner from here.
USER 10001:10001
VOLUME ["/models", "/scratch"]
# Not ready while a model is fetched and loaded, which takes minutes.
HEALTHCHECK --interval=30s --timeout=5s --start-period=15m --start-interval=5s CMD ["spotreel-worker", "--check-health"]
CMD ["spotreel-worker"]
LABEL org.opencontainers.image.title=spotreel-worker-wan org.opencontainers.image.licenses=Apache-2.0
