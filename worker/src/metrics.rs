//! The descriptions of what a worker counts and measures.

spotreel_bootstrap::metrics! {
    Counter _ = "spotreel_worker_attempts_total", Count, "Ended attempts, by outcome";
    Histogram _ = "spotreel_worker_upload_seconds", Seconds,
        "Time to upload a video, with all tries";
    Counter _ = "spotreel_worker_checkpoints_total", Count, "Uploaded checkpoints";
    Counter _ = "spotreel_worker_checkpoints_refused_total", Count,
        "Checkpoints that were deleted because no render could continue from them";
    Counter _ = "spotreel_worker_embeddings_total", Count,
        "Encoded text that was looked up, by outcome: found or missing";
    Gauge _ = "spotreel_worker_pack_bytes_here", Bytes,
        "Bytes of a pack that are on the disk, by model";
    Gauge _ = "spotreel_worker_pack_bytes_total", Bytes, "Bytes of a whole pack, by model";
    Histogram _ = "spotreel_worker_pack_seconds", Seconds, "Time to pull a pack, by model";
    Counter _ = "spotreel_worker_pack_failures_total", Count, "Failed pulls of a pack, by code";
}
