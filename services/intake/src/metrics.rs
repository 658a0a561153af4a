//! What intake counts.

use std::time::Duration;

use http::{Method, StatusCode};
use spotreel_api::ApiError;

const HTTP_SECONDS: &str = "spotreel_intake_http_seconds";
const COMMIT_SECONDS: &str = "spotreel_intake_commit_seconds";
const COMMIT_BATCH: &str = "spotreel_intake_commit_batch_tasks";
const ACCEPTED: &str = "spotreel_intake_accepted_total";
const REFUSED: &str = "spotreel_intake_refused_total";
const QUEUED: &str = "spotreel_intake_queue_tasks";
const LOG_USED: &str = "spotreel_intake_log_used_ratio";

pub fn http(method: &Method, path: String, status: StatusCode, took: Duration) {
    let labels = [
        ("method", method.to_string()),
        ("path", path),
        ("status", status.as_u16().to_string()),
    ];
    metrics::histogram!(HTTP_SECONDS, &labels).record(took);
}

pub fn committed(tasks: usize, took: Duration) {
    metrics::histogram!(COMMIT_BATCH).record(tasks as f64);
    metrics::histogram!(COMMIT_SECONDS).record(took);
}

/// Each task of a submission, by where it came in.
pub fn submitted(door: &'static str, outcome: Result<(), &ApiError>) {
    match outcome {
        Ok(()) => metrics::counter!(ACCEPTED, "door" => door).increment(1),
        Err(error) => {
            metrics::counter!(REFUSED, "door" => door, "code" => error.code.as_str()).increment(1);
        }
    }
}

pub fn room(queued: u64, log_used: f64) {
    metrics::gauge!(QUEUED).set(queued as f64);
    metrics::gauge!(LOG_USED).set(log_used);
}
