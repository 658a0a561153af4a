//! What notifier counts.

use std::time::Duration;

use metrics::{counter, histogram};

spotreel_bootstrap::metrics! {
    Counter EVENTS = "spotreel_notifier_events_total", Count,
        "Handled log events, by event and by whether they were already published";
    Counter RETRIES = "spotreel_notifier_retries_total", Count,
        "Failed attempts to publish an event";
    Counter UNREADABLE = "spotreel_notifier_unreadable_total", Count,
        "Messages of the log that are not protobuf and were skipped";
    Counter HELD = "spotreel_notifier_held_total", Count,
        "Deliveries of events of a newer version, which were handed back";
    Histogram DELAY = "spotreel_notifier_delay_seconds", Seconds,
        "Time from an event's write to the log to its write to EVENTS";
}

pub fn said(event: &'static str, outcome: &'static str, delay: Duration) {
    counter!(EVENTS, "event" => event, "outcome" => outcome).increment(1);
    histogram!(DELAY).record(delay.as_secs_f64());
}

pub fn retry() {
    counter!(RETRIES).increment(1);
}

pub fn held() {
    counter!(HELD).increment(1);
}

pub fn unreadable() {
    counter!(UNREADABLE).increment(1);
}
