//! What intake counts.

use std::time::Duration;

use http::{Method, StatusCode};
use spotreel_api::ApiError;

spotreel_bootstrap::metrics! {
    Histogram HTTP_SECONDS = "spotreel_intake_http_seconds", Seconds,
        "Time to answer a request over HTTP, by method, path and status";
    Histogram COMMIT_SECONDS = "spotreel_intake_commit_seconds", Seconds,
        "Time to write a group of submitted tasks to the log";
    Histogram COMMIT_BATCH = "spotreel_intake_commit_batch_tasks", Count,
        "Tasks that were written to the log together";
    Counter ACCEPTED = "spotreel_intake_accepted_total", Count,
        "Accepted tasks, by the API they came from";
    Counter REFUSED = "spotreel_intake_refused_total", Count,
        "Refused tasks, by the API they came from and the code of the refusal";
    Gauge QUEUED = "spotreel_intake_queue_tasks", Count, "Unfinished tasks of all queues";
    Gauge LOG_USED = "spotreel_intake_log_used_ratio", Count, "Used part of the task log, 0 to 1";
}

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
