"""Wan2.2 on CUDA, as an engine of spotreel's worker: a child process that turns tasks into videos.

It speaks the contract of `worker/engines/protocol` over a socketpair, reads weights from packs on disk, and knows
nothing of NATS, S3 or any network. `docs/engines.md` tells how it is put together.
"""

__version__ = "0.1.0"
